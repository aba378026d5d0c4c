"""The records of the library: entries, assets, usage log, documents, files, events. No I/O."""

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

VARIANT_PREFIX: Final = "v/"  # keys with this prefix are variants of an entry, made for one placement


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Size, modification time and inode of a file. Other bytes give almost always another fingerprint."""

    size_bytes: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """
    The facts of a file in the folder when it was read.

    `picture` is None if the header could not be read. `is_settled`: the file was old enough for its fingerprint to be
    trusted. Then `digest` may be "".
    """

    key: str
    fingerprint: Fingerprint
    picture: Picture | None
    digest: str
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Asset:
    """The file of an entry or of one of its translations. `url` is None if this server serves it."""

    key: str
    url: str | None
    mime_type: str
    width_px: int
    height_px: int
    size_bytes: int
    filename: str


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """One entry of a usage log. Times are in the format of the API."""

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
    An entry with its assets, metadata, keys and usage log.

    `asset` belongs to the default locale, `translations` maps other locales to theirs. `keys` are all keys that the
    entry ever had.
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
        """Whether serve-image sends its pictures."""
        return not (self.is_revoked or self.is_invalid)

    @property
    def status(self) -> str:
        """The state in one word: active, revoked, invalid or archived."""
        if self.is_revoked:
            return "revoked"
        if self.is_invalid:
            return "invalid"
        return "archived" if self.is_archived else "active"


@dataclass(frozen=True, slots=True)
class Document:
    """A published document. `references` are in the format of the API; each has the `id` of an entry."""

    id: int
    references: tuple[Mapping[str, Any], ...]
    publication_id: int | None = None
    url: str | None = None
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """A page of rows `(position, id of the referrer, its references)`, and the total of all pages."""

    total: int
    rows: tuple[tuple[int, int | str, tuple[Mapping[str, Any], ...]], ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook call that is due. Every attempt has the same `id` and `body`."""

    id: str
    entry_id: str
    event: str
    body: bytes
    attempts: int
