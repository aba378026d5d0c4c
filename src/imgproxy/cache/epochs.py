"""
Epochs: which fetches are of a stale generation, because a purge came after they began.

The journal counts purges. The count is the sequence. A fetch notes the sequence *before* it starts. A purge of a key
raises that key's epoch to the purge's own number. What a fetch brought may be stored or served only while the number
that it noted is not below the key's epoch. So anything that was under way when the purge came is thrown away.

Everything here happens on the event loop, without an await: no purge can come between a check and what follows it.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Epochs:
    """The sequence, and the last purge of each key for which it still matters. Keys are named by their hash."""

    def __init__(self, journal_id: str = "", seq: int = 0) -> None:
        self.journal_id = journal_id
        self._seq = seq
        self._purged: dict[str, int] = {}
        self._all_purged = 0  # the number of the last purge of everything
        self._closed: set[str] = set()
        self._at_work: Counter[int] = Counter()
        self._collected: deque[tuple[int, str]] = deque()

    def resume(self, journal_id: str, seq: int, purged: Mapping[str, int], all_purged: int = 0) -> None:
        """
        Go on where the journal of this id ended.

        `purged` are the epochs of keys whose files may still exist, `all_purged` is that of all keys.
        """
        self.journal_id = journal_id
        self._all_purged = all_purged
        self._seq = seq
        self._purged.update(purged)

    @property
    def seq(self) -> int:
        """The number that a fetch notes if it begins now."""
        return self._seq

    def purge(self, key_hash: str, seq: int) -> None:
        """Make every fetch of this key stale that noted a number below `seq`. A closed key is open again."""
        self._closed.discard(key_hash)
        self._seq = max(self._seq, seq)
        self._purged[key_hash] = max(seq, self._purged.get(key_hash, 0))

    def purge_all(self, seq: int) -> None:
        """Make every fetch of every key stale that noted a number below `seq`. Closed keys are open again."""
        self._seq = max(self._seq, seq)
        self._all_purged = max(self._all_purged, seq)
        self._closed.clear()

    def holds(self, key_hash: str, seq: int) -> bool:
        """Whether no purge of the key came after a fetch that noted `seq`."""
        return max(self._purged.get(key_hash, 0), self._all_purged) <= seq and key_hash not in self._closed

    def all_hold(self, proofs: Iterable[tuple[str, int]]) -> bool:
        """Whether each of these pairs of key hash and number holds."""
        for key_hash, seq in proofs:  # noqa: SIM110 - all() takes twice as long, and each hit asks
            if seq < self._all_purged or self._purged.get(key_hash, 0) > seq or key_hash in self._closed:
                return False
        return True

    def holds_in(self, journal_id: str, key_hash: str, seq: int) -> bool:
        """As `holds`, for a number of this journal. A number of another journal counts as older than any purge."""
        return self.holds(key_hash, seq if journal_id == self.journal_id else 0)

    # --- a purge that cannot be recorded -----------------------------------------------------------------------

    def close(self, key_hash: str) -> None:
        """Make every fetch of this key stale, whenever it began, until `purge`: its purge could not be recorded yet."""
        self._closed.add(key_hash)

    def is_closed(self, key_hash: str) -> bool:
        """Whether the key's purge still has to be recorded."""
        return key_hash in self._closed

    @property
    def closed(self) -> int:
        """How many keys are closed."""
        return len(self._closed)

    # --- forgetting --------------------------------------------------------------------------------------------

    @contextmanager
    def at_work(self) -> Iterator[int]:
        """Give the number to note, and keep the epochs that this number is compared with while the block runs."""
        seq = self._seq
        self._at_work[seq] += 1
        try:
            yield seq
        finally:
            self._at_work[seq] -= 1
            if not self._at_work[seq]:
                del self._at_work[seq]

    def collected(self, key_hash: str, seq: int) -> None:
        """
        Purge `seq` has left no file of the key. Its epoch now matters only to work that began before the purge.

        The epoch is forgotten when that work has ended. Otherwise every key that was ever purged would stay in memory.
        Work that keeps something fetched over an await must therefore be `at_work`.
        """
        self._collected.append((seq, key_hash))
        oldest = min(self._at_work, default=self._seq)
        while self._collected and self._collected[0][0] <= oldest:
            purged_at, name = self._collected.popleft()
            if self._purged.get(name) == purged_at:
                del self._purged[name]

    def __len__(self) -> int:
        return len(self._purged)
