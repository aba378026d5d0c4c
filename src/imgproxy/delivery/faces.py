"""
Faces: the faces of an original are found once, and kept with it like a variant.

A plan that needs faces needs the face record of its original: a variant of another plan, made by a job of its own and
kept under the guarantee of all variants. A purge of the key removes it, and a changed original has another one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from imgproxy.errors import ImageRefused
from imgproxy.params.faces import plan_of_faces
from imgproxy.workers.faces import read_record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproxy.cache.cache import Cache
    from imgproxy.cache.entry import Provenance, Variant
    from imgproxy.params.plan import RenderPlan
    from imgproxy.workers.faces import Face

log = logging.getLogger(__name__)


async def find_faces(
    cache: Cache, key: str, source: Provenance, plan: RenderPlan, make: Callable[[RenderPlan], Awaitable[Variant]]
) -> tuple[Face, ...] | None:
    """
    Return the faces that a plan needs, from the cache, or from `make`, which makes the variant of another plan.

    `source` is the picture alone, without a watermark. None: they could not be looked for.
    """
    wanted = plan_of_faces(plan)
    found = await cache.find(source, wanted.digest)
    try:
        variant = found.variant if found is not None else await make(wanted)
        return read_record(await _body(variant))
    except (ImageRefused, OSError, ValueError) as error:
        log.warning("the faces of %s could not be looked for: %s", key, error)
        return None


async def _body(variant: Variant) -> bytes:
    """Return the bytes of a record. They are in a file if the hot tier takes nothing."""
    if variant.body is not None:
        return variant.body
    assert variant.path is not None
    return await asyncio.to_thread(_read, variant.path, variant.facts.size_bytes)


def _read(path: str, size_bytes: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size_bytes)
