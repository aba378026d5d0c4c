"""
Refusals in an overload, answered on the fast path.

At ten times the capacity nine of ten requests are refused. If each one needed a task, a request and a response, the
refusals would use the CPU that renders need (row `overload`: goodput). Decision and text are the same as for every
other refusal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from imgproxy.delivery.request import Request
from imgproxy.edge.handler import is_admin
from imgproxy.edge.headers import cache_status, head_bytes, http_date
from imgproxy.edge.images import client_of
from imgproxy.edge.pages import PAGE_PATHS
from imgproxy.edge.problems import jittered_s, problem_response
from imgproxy.errors import ImgproxyError, Overloaded

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from imgproxy.admission.policy import Admission
    from imgproxy.config.settings import Settings
    from imgproxy.delivery.delivery import Delivery
    from imgproxy.edge.images import ImageRoute

# Answers differ in the seconds of Retry-After, of which there are at most thirty.
HEADS_MAX = 64


class FastRefusals:
    """Answers requests that an overload refuses."""

    def __init__(self, images: ImageRoute, delivery: Delivery, admission: Admission, settings: Settings) -> None:
        self._images = images
        self._delivery = delivery
        self._admission = admission
        self._settings = settings
        self._parts = lru_cache(HEADS_MAX)(self._parts_of)

    def answer(self, message: RawRequestMessage, now_s: float) -> tuple[bytes, bytes] | None:
        """
        Return the 503 for a plain GET: its head without the empty line, and its body. None: it is not refused here.

        `now_s` is the Unix time.
        """
        target = message.path
        if not self._admission.is_overloaded or not target.startswith("/"):
            return None
        if is_admin(target) or target.split("?", 1)[0] in PAGE_PATHS:
            return None
        try:
            wanted = self._images.read(message.method, target, client_of(message.headers))
        except ImgproxyError:
            return None
        if not self._delivery.refuses(Request(wanted.key, wanted.plan)):
            return None
        wait_s = self._admission.retry_after_s()
        head, body = self._parts(wait_s)
        changing = f"Retry-After: {jittered_s(wait_s)}\r\nDate: {http_date(int(now_s))}\r\n"
        return head + changing.encode(), body

    def _parts_of(self, wait_s: int) -> tuple[bytes, bytes]:
        """Return the lines of the head that do not change, and the body."""
        error = Overloaded(wait_s)
        response = problem_response(error, self._settings)
        body = response.body
        assert isinstance(body, bytes), "a problem is written as bytes"
        del response.headers["Retry-After"]
        response.headers["Cache-Status"] = cache_status(is_hit=False, detail=error.code)
        response.headers["Content-Length"] = str(len(body))
        return head_bytes("503 Service Unavailable", response.headers), body
