"""Adapters of the caches that purge by tag, with many tags in a call: Varnish with xkey, Fastly, Cloudflare."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from imgproxy.purge.downstream.calls import DONE, CallResult, PurgeAnswer, PurgeCall, Verdict, judge_status, one_line
from imgproxy.purge.tags import tag_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.cache.outbox import Subject

FASTLY_API = "https://api.fastly.com"
CLOUDFLARE_API = "https://api.cloudflare.com/client/v4"


def _tags(subjects: Sequence[Subject]) -> list[str]:
    return list(dict.fromkeys(tag_of(subject) for subject in subjects))


class _ByTag:
    """What these caches have in common: keys and entries both have tags, and only 200 means a purge."""

    _covers_all = False  # whether it can be told to forget everything

    concurrency = 1

    def covers(self, subject: Subject) -> bool:
        """Purge keys and entries, and everything where the API can."""
        return self._covers_all or not subject.is_all

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """Accept 200 only."""
        return judge_status(answer, frozenset({200}))


class Varnish(_ByTag):
    """
    Varnish with the xkey module and the VCL in deploy/varnish: PURGE with the tags in `xkey-purge`.

    A VCL without PURGE forwards the request. The backend's answer, for example 204, does not mean a purge.

    The limit of a call: a header line in Varnish has at most 8 KiB (http_req_hdr_len), a tag at most 66 characters.
    """

    subjects_max = 64

    def __init__(self, url: str, token: Callable[[], str | None]) -> None:
        self._url = url
        self._token = token

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """Make a PURGE. xkey takes tags separated by spaces."""
        headers = {"xkey-purge": " ".join(_tags(subjects))}
        if (token := self._token()) is not None:
            headers["Authorization"] = f"Bearer {token}"
        return PurgeCall("PURGE", self._url, headers)


class Fastly(_ByTag):
    """
    Fastly: POST /service/{id}/purge, up to 256 surrogate keys.

    Everything: POST /service/{id}/purge_all. A hard purge: with `Fastly-Soft-Purge` the revoked picture could be served
    as stale.
    Source: https://www.fastly.com/documentation/reference/api/purging/ (bulk purge).
    """

    subjects_max = 256
    _covers_all = True

    def __init__(self, service_id: str, token: Callable[[], str | None], *, url: str | None = None) -> None:
        self._url = f"{(url or FASTLY_API).rstrip('/')}/service/{service_id}/purge"
        self._token = token

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """Put the tags into the body: a header line would be too short."""
        headers = {
            "Fastly-Key": self._token() or "",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        if any(subject.is_all for subject in subjects):
            return PurgeCall("POST", f"{self._url}_all", headers, b"{}")
        return PurgeCall("POST", self._url, headers, json.dumps({"surrogate_keys": _tags(subjects)}).encode())


class Cloudflare(_ByTag):
    """
    Cloudflare: POST /zones/{id}/purge_cache, up to 100 tags, or `purge_everything`.

    Source: https://developers.cloudflare.com/cache/how-to/purge-cache/ (limits as of July 2026).
    """

    subjects_max = 100
    _covers_all = True

    def __init__(self, zone_id: str, token: Callable[[], str | None], *, url: str | None = None) -> None:
        self._url = f"{(url or CLOUDFLARE_API).rstrip('/')}/zones/{zone_id}/purge_cache"
        self._token = token

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """Put the tags into the body."""
        headers = {"Authorization": f"Bearer {self._token() or ''}", "Content-Type": "application/json"}
        is_all = any(subject.is_all for subject in subjects)
        body = {"purge_everything": True} if is_all else {"tags": _tags(subjects)}
        return PurgeCall("POST", self._url, headers, json.dumps(body).encode())

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """Accept 200 only if the body says success."""
        verdict = super().judge(answer)
        try:
            body = json.loads(answer.body)
            is_success = body["success"] is True
            errors = "; ".join(f"{error['code']} {error['message']}" for error in body.get("errors") or [])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return Verdict(CallResult.FAILED, "HTTP 200 without Cloudflare's answer") if verdict is DONE else verdict
        if verdict is DONE and is_success:
            return DONE
        result = CallResult.FAILED if verdict is DONE else verdict.result
        detail = f"HTTP {answer.status}: {one_line(errors)}" if errors else f"HTTP {answer.status}"
        return Verdict(result, detail, verdict.wait_s)
