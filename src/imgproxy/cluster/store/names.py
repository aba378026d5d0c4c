"""
The names of objects in the shared store.

    <prefix>/v1/<key hash>/facts                        what the origin said of the original, with its validators
                           <digest>/original            the bytes of this digest
                           <digest>/<plan>              a variant: body, record and trailer, as in the cache
                           <digest>-<mark>/<plan>       a variant with a watermark

Everything but the facts is named by its content, so it cannot be out of date. The facts can be. The origin is asked
with their validators before they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgproxy.cache.entry import OriginalFacts, Provenance

# Raised if names or records change so that an older edge would read them wrong.
FORMAT = "v1"


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """Makes names. `prefix` is the folder of all objects."""

    prefix: str

    def facts(self, hashed: str) -> str:
        """The facts of a key's original."""
        return f"{self.of_key(hashed)}/facts"

    def original(self, facts: OriginalFacts, hashed: str) -> str:
        """The bytes of an original."""
        return f"{self.of_key(hashed)}/{facts.digest}/original"

    def variant(self, source: Provenance, plan: str) -> str | None:
        """
        A variant by the digest of its plan.

        None if its watermark or its credentials could not be had: such a variant is not shared.
        """
        if source.digest.endswith(("+", "~-")) or "+~" in source.digest:
            return None
        return f"{self.of_key(source.key_hash)}/{source.digest.replace('+', '-').replace('~', '-')}/{plan}"

    def of_key(self, hashed: str) -> str:
        """The folder of a key, by its hash."""
        return f"{self.all}/{hashed}"

    @property
    def all(self) -> str:
        """The folder of all keys."""
        return f"{self.prefix}/{FORMAT}"
