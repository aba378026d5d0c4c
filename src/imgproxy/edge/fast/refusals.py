"""
Overload answered where a request's bytes arrive, as hits are.

At ten times what can be made, nine of ten requests are refused; where each of them costs a task, a request and a
response, refusing takes the very cores that the tenth is made with. What is refused here is refused by the same rules
and in the same words as everywhere else; who is in doubt goes the usual way.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from imgproxy.edge.admin import AdminRoutes
from imgproxy.edge.headers import cache_status
from imgproxy.edge.problems import jittered_s, problem_response
from imgproxy.errors import ImgproxyError, Overloaded

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from imgproxy.config.sections import FreshnessSettings
    from imgproxy.delivery.delivery import Delivery
    from imgproxy.edge.fast.memo import AnswerMemo
    from imgproxy.edge.images import ImageRoute

# Answers are alike but for the seconds to wait, of which there are at most thirty.
HEADS_MAX = 64


class TurningAway:
    """Whole answers, as bytes, for requests that are shed."""

    def __init__(self, images: ImageRoute, delivery: Delivery, memo: AnswerMemo, freshness: FreshnessSettings) -> None:
        self._images = images
        self._delivery = delivery
        self._memo = memo
        self._freshness = freshness
        self._parts = lru_cache(HEADS_MAX)(self._parts_of)

    def answer(self, message: RawRequestMessage, now_s: float) -> tuple[bytes, int] | None:
        """
        The 503 for a plain GET, with the size of its body, or None where it is not to be refused here and now.

        `now_s` is the Unix time.
        """
        target = message.path
        if not self._delivery.is_overloaded or not target.startswith("/") or AdminRoutes.covers(target):
            return None
        try:
            wanted = self._images.read(message, target)
        except ImgproxyError:
            return None
        if wanted.plan is None or not self._delivery.turns_away(wanted.key):
            return None
        wait_s = self._delivery.retry_after_s()
        head, body = self._parts(wait_s)
        lively = f"Retry-After: {jittered_s(wait_s)}\r\nDate: {self._memo.date(now_s)}\r\n\r\n"
        return head + lively.encode() + body, len(body)

    def _parts_of(self, wait_s: int) -> tuple[bytes, bytes]:
        """The lines of the head that do not change, and the body."""
        error = Overloaded(wait_s)
        response = problem_response(error, freshness=self._freshness)
        body = response.body
        assert isinstance(body, bytes), "a problem is written as bytes"
        del response.headers["Retry-After"]
        response.headers["Cache-Status"] = cache_status(is_hit=False, detail=error.code)
        response.headers["Content-Length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        return f"HTTP/1.1 503 Service Unavailable\r\n{lines}".encode(), body
