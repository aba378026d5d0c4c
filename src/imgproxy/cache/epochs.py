"""
Epochs: which fetches a purge has overtaken.

The journal counts purges; the count is the sequence. A fetch notes the sequence *before* it starts. A purge of a key
raises that key's epoch to the purge's own number. What a fetch brought may be stored or served only while the number
it noted is not below the key's epoch: whatever was on its way when the purge came is thus thrown away, wherever it is.
Everything here happens on the event loop between two awaits, so check and use cannot be torn apart.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class AtWork:
    """A piece of work, counted while its block runs. Written out, as `contextlib` takes longer than the count."""

    __slots__ = ("_all", "_seq")

    def __init__(self, all_at_work: Counter[int], seq: int) -> None:
        self._all = all_at_work
        self._seq = seq

    def __enter__(self) -> int:
        self._all[self._seq] += 1
        return self._seq

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._all[self._seq] -= 1
        if not self._all[self._seq]:
            del self._all[self._seq]


class Epochs:
    """The sequence, and the last purge of each key that is still of interest (keys by their hash)."""

    def __init__(self, journal_id: str, seq: int, purged: dict[str, int] | None = None) -> None:
        self.journal_id = journal_id
        self._seq = seq
        self._purged: dict[str, int] = dict(purged or {})
        self._closed: set[str] = set()
        self._at_work: Counter[int] = Counter()
        self._collected: deque[tuple[int, str]] = deque()

    @property
    def seq(self) -> int:
        """The number a fetch that begins now has to note."""
        return self._seq

    def purge(self, key_hash: str, seq: int) -> None:
        """Overtake every fetch of this key that noted a number below `seq`."""
        self._seq = max(self._seq, seq)
        self._purged[key_hash] = max(seq, self._purged.get(key_hash, 0))

    def holds(self, key_hash: str, seq: int) -> bool:
        """Whether what was fetched at `seq` has not been overtaken by a purge of its key."""
        return self._purged.get(key_hash, 0) <= seq and key_hash not in self._closed

    # --- a purge that cannot be recorded -----------------------------------------------------------------------

    def close(self, key_hash: str) -> None:
        """Let nothing of this key hold, whenever it was fetched: its purge could not be written down yet."""
        self._closed.add(key_hash)

    def is_closed(self, key_hash: str) -> bool:
        """Whether the key waits for its purge to be written down."""
        return key_hash in self._closed

    def reopen(self, key_hash: str) -> None:
        """The purge is written down, and its epoch raised."""
        self._closed.discard(key_hash)

    @property
    def closed(self) -> int:
        """How many keys are closed."""
        return len(self._closed)

    # --- forgetting --------------------------------------------------------------------------------------------

    def at_work(self) -> AtWork:
        """Count a piece of work while the block runs; gives the number that it has to note."""
        return AtWork(self._at_work, self._seq)

    def collected(self, key_hash: str, seq: int) -> None:
        """
        Purge `seq` has left nothing of the key on disk, so its epoch is needed only by work that began before it.

        It is forgotten when that has ended: else every key ever purged would stay in memory. Work that holds on to
        something fetched, over an await, therefore has to be `at_work`.
        """
        self._collected.append((seq, key_hash))
        oldest = min(self._at_work, default=self._seq)
        while self._collected and self._collected[0][0] <= oldest:
            purged_at, name = self._collected.popleft()
            if self._purged.get(name) == purged_at:
                del self._purged[name]

    def __len__(self) -> int:
        return len(self._purged)
