"""A route of the service: what is asked by its path, and is no picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web


@dataclass(frozen=True, slots=True)
class Route:
    """A route: its method, whether it needs no token, and its function, which takes the rest of the path."""

    method: str
    is_open: bool
    answer: Callable[[web.BaseRequest, str], Awaitable[web.Response]]
