"""The caches that purge by tag, many tags a call: Varnish with xkey, Fastly, Cloudflare."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from imgproxy.cache.entry import key_hash
from imgproxy.purge.downstream.calls import DONE, PurgeAnswer, PurgeCall, Result, Verdict, judge_status, one_line
from imgproxy.purge.tags import entry_tag, key_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.cache.outbox import Subject

FASTLY_API = "https://api.fastly.com"
CLOUDFLARE_API = "https://api.cloudflare.com/client/v4"


def tag_of(subject: Subject) -> str:
    """The tag that answers with this subject carry."""
    return entry_tag(subject.name) if subject.is_entry else key_tag(key_hash(subject.name))


def _tags(subjects: Sequence[Subject]) -> list[str]:
    return list(dict.fromkeys(tag_of(subject) for subject in subjects))


class Varnish:
    """
    Varnish with the xkey module and the VCL in deploy/varnish: PURGE with the tags in `xkey-purge`.

    A header line of Varnish ends at 8 KiB (http_req_hdr_len), and a tag has at most 66 characters.
    """

    batch_max = 64
    concurrency = 1

    def __init__(self, url: str, token: Callable[[], str | None]) -> None:
        self._url = url
        self._token = token

    def covers(self, subject: Subject) -> bool:
        """Keys and entries alike."""
        del subject
        return True

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """A PURGE; xkey takes tags separated by spaces."""
        headers = {"xkey-purge": " ".join(_tags(subjects))}
        if (token := self._token()) is not None:
            headers["Authorization"] = f"Bearer {token}"
        return PurgeCall("PURGE", self._url, headers)

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """200 alone: a VCL without PURGE passes it on, and whatever comes back then is no purge."""
        return judge_status(answer, frozenset({200}))


class Fastly:
    """
    Fastly: POST /service/{id}/purge, up to 256 surrogate keys.

    A hard purge: `Fastly-Soft-Purge` would leave the revoked picture to be served as stale.
    Source: https://www.fastly.com/documentation/reference/api/purging/ (bulk purge).
    """

    batch_max = 256
    concurrency = 1

    def __init__(self, service_id: str, token: Callable[[], str | None], *, url: str | None = None) -> None:
        self._url = f"{(url or FASTLY_API).rstrip('/')}/service/{service_id}/purge"
        self._token = token

    def covers(self, subject: Subject) -> bool:
        """Keys and entries alike."""
        del subject
        return True

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """The tags in the body, which has no limit of a header line."""
        headers = {
            "Fastly-Key": self._token() or "",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        return PurgeCall("POST", self._url, headers, json.dumps({"surrogate_keys": _tags(subjects)}).encode())

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """200 with the id of each purge."""
        return judge_status(answer, frozenset({200}))


class Cloudflare:
    """
    Cloudflare: POST /zones/{id}/purge_cache, up to 100 tags.

    Source: https://developers.cloudflare.com/cache/how-to/purge-cache/ (limits as of July 2026).
    """

    batch_max = 100
    concurrency = 1

    def __init__(self, zone_id: str, token: Callable[[], str | None], *, url: str | None = None) -> None:
        self._url = f"{(url or CLOUDFLARE_API).rstrip('/')}/zones/{zone_id}/purge_cache"
        self._token = token

    def covers(self, subject: Subject) -> bool:
        """Keys and entries alike."""
        del subject
        return True

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """The tags in the body."""
        headers = {"Authorization": f"Bearer {self._token() or ''}", "Content-Type": "application/json"}
        return PurgeCall("POST", self._url, headers, json.dumps({"tags": _tags(subjects)}).encode())

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """200 is a purge only where the body says success."""
        verdict = judge_status(answer, frozenset({200}))
        try:
            body = json.loads(answer.body)
            is_success = body["success"] is True
            errors = "; ".join(f"{error['code']} {error['message']}" for error in body.get("errors") or [])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return Verdict(Result.FAILED, "HTTP 200 without Cloudflare's answer") if verdict is DONE else verdict
        if verdict is DONE and is_success:
            return DONE
        result = Result.FAILED if verdict is DONE else verdict.result
        detail = f"HTTP {answer.status}: {one_line(errors)}" if errors else f"HTTP {answer.status}"
        return Verdict(result, detail, verdict.wait_s)
