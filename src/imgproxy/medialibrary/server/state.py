"""What the library knows: entries, their assets, usages, documents, files, events. Frozen values; no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproxy.medialibrary.server.pictures import Picture

Clock = Callable[[], datetime]

Event = Literal["create", "update", "archive", "revoke", "active", "invalid", "delete"]

VARIANT_PREFIX: Final = "v/"  # keys that begin so are variants made for one placement of an entry


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a stat tells of a file's bytes: other bytes, almost surely another fingerprint."""

    size_bytes: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """
    A file of the folder as it was read.

    `picture` is None if its header could not be read. `is_settled` says that the file was old enough for its
    fingerprint to be trusted; `digest` may then be "".
    """

    key: str
    fingerprint: Fingerprint
    picture: Picture | None
    digest: str
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Asset:
    """The file of an entry, or of one of its translations. `url` None means: where this server serves it."""

    key: str
    url: str | None
    mime_type: str
    width_px: int
    height_px: int
    size_bytes: int
    filename: str


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """A line of the usage log; times as the API writes them."""

    id: str
    state: str
    purpose: str
    url: str | None
    params: Mapping[str, Any]
    publication_date: str | None
    reporting_date: str
    document_id: int | None = None
    publication_id: int | None = None


@dataclass(frozen=True, slots=True)
class EntryState:
    """
    An entry with all that is its own.

    `translations` maps a locale to its asset; `asset` is that of the default locale. `keys` are all it ever had.
    """

    id: str
    version: int
    asset: Asset
    created_at: str
    updated_at: str
    media_type: str = "image"
    translations: Mapping[str, Asset] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    usage_log: tuple[UsageEntry, ...] = ()
    keys: tuple[str, ...] = ()
    system_name: str | None = None
    external_id: str | None = None
    is_revoked: bool = False
    is_invalid: bool = False
    is_archived: bool = False
    note: str | None = None

    @property
    def is_served(self) -> bool:
        """Whether serve-image gives its pictures out."""
        return not (self.is_revoked or self.is_invalid)

    @property
    def status(self) -> str:
        """One word for people: active, revoked, invalid or archived."""
        if self.is_revoked:
            return "revoked"
        if self.is_invalid:
            return "invalid"
        return "archived" if self.is_archived else "active"


@dataclass(frozen=True, slots=True)
class Document:
    """A published document and what it uses; `references` are as the API gives them, with the entry's `id`."""

    id: int
    references: tuple[Mapping[str, Any], ...]
    publication_id: int | None = None
    url: str | None = None
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """A page of references: `(position, id of the referrer, its references)`, and how many there are in all."""

    total: int
    rows: tuple[tuple[int, int | str, tuple[Mapping[str, Any], ...]], ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call that is due: the same `id` and `body` on each attempt."""

    id: str
    entry_id: str
    event: str
    body: bytes
    attempts: int
