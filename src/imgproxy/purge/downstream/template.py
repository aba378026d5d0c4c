"""The adapter of any other cache with an HTTP API: one call for each subject, from templates in the configuration."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from imgproxy.purge.downstream.calls import PurgeAnswer, PurgeCall, Verdict, judge_status
from imgproxy.purge.tags import tag_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgproxy.cache.outbox import Subject
    from imgproxy.config.downstream import DownstreamSettings

_NAMES = re.compile(r"\{(key|entry|tag|token)\}")


class Template:
    """
    Calls a URL. {key}, {entry} and {tag} are filled in, in the URL and in the body.

    With {key} it is called for keys, with {entry} for entries, with {tag} alone for both. In a URL the value is
    percent-encoded (a key keeps its slashes). In JSON and in forms it is escaped by their rules.
    """

    subjects_max = 1

    def __init__(self, settings: DownstreamSettings, token: Callable[[], str | None]) -> None:
        assert settings.url is not None, "the configuration was checked"
        self._settings = settings
        self._url = settings.url
        self._token = token
        used = set(_NAMES.findall(settings.url + settings.body))
        self._is_for_keys = "entry" not in used
        self._is_for_entries = "key" not in used
        kind = settings.content_type.split(";")[0].strip().lower()
        if kind == "application/json" or kind.endswith("+json"):
            self._escape_body: Callable[[str], str] = _json_text
        elif kind == "application/x-www-form-urlencoded":
            self._escape_body = quote_plus
        else:
            self._escape_body = str
        self._accepted = frozenset(settings.accept_statuses)

    @property
    def concurrency(self) -> int:
        """The configured number of calls at the same time."""
        return self._settings.concurrency

    def covers(self, subject: Subject) -> bool:
        """Whether the template has a placeholder for this kind of subject."""
        if subject.is_all:
            return False
        return self._is_for_entries if subject.is_entry else self._is_for_keys

    def call(self, subjects: Sequence[Subject]) -> PurgeCall:
        """Fill in the templates."""
        (subject,) = subjects
        values = {"entry" if subject.is_entry else "key": subject.name, "tag": tag_of(subject)}
        headers = {
            name: _fill(value, {"token": self._token() or ""}, str) for name, value in self._settings.headers.items()
        }
        body = None
        if self._settings.body:
            body = _fill(self._settings.body, values, self._escape_body).encode()
            if not any(name.lower() == "content-type" for name in headers):
                headers["Content-Type"] = self._settings.content_type
        return PurgeCall(self._settings.method, _fill(self._url, values, quote), headers, body)

    def judge(self, answer: PurgeAnswer) -> Verdict:
        """Accept the configured statuses."""
        return judge_status(answer, self._accepted)


def _fill(template: str, values: dict[str, str], escape: Callable[[str], str]) -> str:
    return _NAMES.sub(lambda match: escape(values[match[1]]) if match[1] in values else match[0], template)


def _json_text(value: str) -> str:
    """Escape a value for the inside of a JSON string."""
    return json.dumps(value)[1:-1]
