"""
The facts that many edges share beside the log, behind two protocols. They have the shape of the journal's methods.

    delivery    a webhook delivery is handled once in the cluster, by the run that claims it
    entry, key  the keys last seen for each entry
    receipt     what purges did, for a year
    pending     entries whose keys could not be listed: one run at a time tries again
    validator   which bytes an original had at its latest fetch, and the origin's validators for them
    outbox      calls that the caches in front have not confirmed: one run at a time works on a target

`seq` is the number of a line of the log. All Unix times are those of the caller's clock. The engine keeps them as
distances from the database's clock, so it does not matter if the clocks of two edges differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from imgproxy.cache.journal import KeptReceipt
    from imgproxy.cache.outbox import OutboxFigures, Subject, WaitingLine


class Claim(StrEnum):
    """What a claim of a delivery found."""

    FIRST = "first"  # this run handles it
    HANDLED = "handled"  # it was handled before
    BUSY = "busy"  # another run is handling it


@dataclass(frozen=True, slots=True)
class Validators:
    """
    Digest, ETag and Last-Modified of an original, as the origin sent them with its latest bytes.

    `age_s`: for how long it has been known with these bytes. `digest` is None if edges have seen different bytes since
    the last purge of the key: nobody knows which of them are in use.
    """

    digest: str | None
    etag: str | None
    last_modified: str | None
    age_s: float = 0.0


class SharedFacts(Protocol):
    """
    The facts, as one run of one edge uses them. Every method may raise LogUnavailable.

    `gone` are runs that the caller knows to have ended, for example because their lease has run out. What they had
    claimed is free, as is what a run has claimed that is no member any more.
    """

    async def claim_delivery(self, delivery: str, *, gone: Collection[str] = ()) -> Claim:
        """Claim a webhook delivery. This run may claim it again, after an error."""

    async def finish_delivery(self, delivery: str) -> None:
        """Note that the delivery was handled. It is remembered for 30 days."""

    async def release_delivery(self, delivery: str) -> None:
        """Give up the claim of this run, because the delivery could not be handled."""

    async def remember_keys(
        self, entry: str, keys: Iterable[str], *, finished_seq: int | None = None
    ) -> tuple[str, ...]:
        """
        Remember keys of an entry. Return those that were not known before.

        With `finished_seq` these are all its keys: its pending purges up to this number are done.
        """

    async def keys_of(self, entry: str) -> tuple[str, ...]:
        """Return the keys last seen for an entry."""

    async def entries_of(self, keys: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Return the entries in which each of these keys was seen. A key that was never seen is left out."""

    async def recent_entry_keys(self, count: int) -> dict[str, str]:
        """Return the keys seen last, at most `count`, each with its entry."""

    async def last_purge_of_entry(self, entry: str) -> int:
        """Return the number of the entry's last purge, as far as lines and receipts are kept; 0: none."""

    async def pending_entries(self) -> tuple[str, ...]:
        """Return the entries that are still to be expanded, the longest pending first."""

    async def take_pending(self, *, gone: Collection[str] = ()) -> tuple[str, ...]:
        """Return the entries that this run has to expand: its own, and those whose run is gone."""

    async def finish_pending(self, entry: str, *, up_to_seq: int) -> None:
        """Note that the entry was expanded, or does not exist: its pending purges up to this number are done."""

    async def keep_receipts(self, receipts: Sequence[tuple[int, float, str]]) -> None:
        """Keep receipts: number of the purge, Unix time, receipt as JSON. One of the same number is replaced."""

    async def receipts(
        self, *, entry: str | None, key: str | None, seq: int | None, count: int
    ) -> tuple[KeptReceipt, ...]:
        """Return the latest receipts, at most `count`. None for entry, key or seq means any."""

    async def note_validators(self, found: Mapping[str, Validators]) -> None:
        """Note what fetches of originals found, by key. A purge of a key forgets what was noted before."""

    async def validators(self, keys: Collection[str]) -> dict[str, Validators]:
        """Return what the latest fetch of each of these keys found. A key that is not known is left out."""

    async def tidy(self) -> int:
        """
        Delete what is kept long enough: deliveries, receipts, validators. Return how many. Call it every hour.

        One edge does it at a time. For others that come meanwhile it does nothing.
        """

    async def close(self) -> None:
        """Close the connections, also those of the outbox."""


class SharedOutbox(Protocol):
    """The outbox of the cluster. Its lines are written by `PurgeLog.append`. Every method may raise LogUnavailable."""

    def watch(self, on_news: Callable[[], None]) -> None:
        """Call back on the event loop whenever lines may have been released or confirmed. It is no promise."""

    async def take_turn(self, target: str, lease_s: float) -> bool:
        """Take or keep the turn of this run at a target, for `lease_s`. False: another run has it."""

    async def end_turn(self, target: str) -> None:
        """Let another run work on the target at once."""

    async def release(self, target: str, subjects: Collection[Subject], seq: int) -> None:
        """Make the lines of round 1 of these subjects due now, as far as they are of this purge or an earlier one."""

    async def due(self, target: str, now_s: float, count: int) -> tuple[WaitingLine, ...]:
        """Return at most `count` lines that are due, the longest overdue first."""

    async def figures(self, target: str) -> OutboxFigures:
        """Return the figures of a target."""

    async def unconfirmed(self, seq: int) -> tuple[tuple[str, Subject], ...]:
        """Return the (target, subject) pairs of purge `seq` and later ones that are not confirmed."""

    async def waiting(self, keys: Sequence[str], entry: str) -> frozenset[Subject]:
        """Return those of these subjects, the keys and the entry, that a target has not confirmed."""

    async def done(self, target: str, lines: Sequence[WaitingLine]) -> None:
        """Delete lines that the target has confirmed. A line that a later purge has taken over stays."""

    async def put_off(self, target: str, lines: Sequence[WaitingLine], due_at_s: float) -> None:
        """Note that these lines failed. They are due again at `due_at_s`."""

    async def put_off_all(self, target: str, now_s: float, due_at_s: float) -> None:
        """Make the lines that are due now due at `due_at_s`, because the target cannot be reached."""

    async def resume(self, target: str, due_before_s: float) -> None:
        """Make lines that failed before due at once, because the target works again."""

    async def take_up(self, targets: Iterable[str]) -> int:
        """
        Delete lines of targets that are not configured here, if they are older than a day. Return how many.

        Until then they may be of edges with a newer configuration. Nothing else is made due: a purge of another edge
        may still be waiting for its answers to end.
        """
