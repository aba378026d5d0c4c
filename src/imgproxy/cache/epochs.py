"""
Epochs: which fetches are of a stale generation, because a purge came after they began, and which are not proved.

The journal counts purges and orders to prove. The count is the sequence. A fetch notes the sequence *before* it starts.

- A purge of a key raises that key's epoch to the purge's own number. What a fetch brought may be stored or served only
  while the number that it noted is not below the key's epoch. So anything that was under way when the purge came is
  thrown away.
- An order to prove a key raises only the number that an answer needs. What was fetched before stays stored, but an
  answer may begin with it only after the origin, asked after the order, has confirmed it.

Everything here happens on the event loop, without an await: no purge can come between a check and what follows it.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

# No fetch notes this number.
_NEVER: Final = sys.maxsize


class Epochs:
    """The sequence, and the last purge and order of each key for which they still matter. Keys are their hashes."""

    def __init__(self, journal_id: str = "", seq: int = 0) -> None:
        self.journal_id = journal_id
        self._seq = seq
        self._purged: dict[str, int] = {}
        self._all_purged = 0  # the number of the last purge of everything
        self._ordered: dict[str, int] = {}
        self._closed: set[str] = set()
        # What each hit asks: the number that a proof must have reached. For keys that are not named: `_least`.
        self._needed: dict[str, int] = {}
        self._least = 0
        self._at_work: Counter[int] = Counter()
        self._collected: deque[tuple[int, str]] = deque()

    def resume(
        self,
        journal_id: str,
        seq: int,
        purged: Mapping[str, int],
        ordered: Mapping[str, int] | None = None,
        all_purged: int = 0,
    ) -> None:
        """
        Go on where the journal of this id ended.

        `purged` are the epochs of keys whose files may still exist, `all_purged` is that of all keys. `ordered` are the
        orders whose proof may be lost.
        """
        self.journal_id = journal_id
        self._all_purged = self._least = all_purged
        self._seq = seq
        self._purged.update(purged)
        self._ordered.update(ordered or {})
        for key_hash in (*self._purged, *self._ordered):
            self._note_needed(key_hash)

    @property
    def seq(self) -> int:
        """The number that a fetch notes if it begins now."""
        return self._seq

    def purge(self, key_hash: str, seq: int) -> None:
        """Make every fetch of this key stale that noted a number below `seq`. A closed key is open again."""
        self._closed.discard(key_hash)
        self._seq = max(self._seq, seq)
        self._purged[key_hash] = max(seq, self._purged.get(key_hash, 0))
        if self._ordered.get(key_hash, _NEVER) <= seq:
            del self._ordered[key_hash]
        self._note_needed(key_hash)

    def purge_many(self, key_hashes: AbstractSet[str], seq: int) -> None:
        """As `purge`, for many keys. It takes no step of Python for each."""
        odd = {key_hash for key_hash in key_hashes & self._purged.keys() if self._purged[key_hash] > seq}
        for key_hash in key_hashes & self._ordered.keys():
            if self._ordered[key_hash] <= seq:
                del self._ordered[key_hash]
            else:
                odd.add(key_hash)
        self._closed -= key_hashes
        self._seq = max(self._seq, seq)
        usual = dict.fromkeys(key_hashes - odd if odd else key_hashes, seq)
        self._purged |= usual
        if seq > self._least:
            self._needed |= usual
        for key_hash in odd if seq > self._least else key_hashes:
            self._purged[key_hash] = max(seq, self._purged.get(key_hash, 0))
            self._note_needed(key_hash)

    def order(self, key_hash: str, seq: int) -> None:
        """Let every proof of this key that noted a number below `seq` answer no more."""
        self._seq = max(self._seq, seq)
        self._ordered[key_hash] = max(seq, self._ordered.get(key_hash, 0))
        self._note_needed(key_hash)

    def distrust(self, journal_id: str, seq: int) -> None:
        """Let every proof of every key that noted a number below `seq` answer no more. The journal has another id."""
        self.journal_id = journal_id
        self._seq = max(self._seq, seq)
        self._need_at_least(seq)

    def _need_at_least(self, seq: int) -> None:
        """Let an answer of any key need this number. What needs a lower one is forgotten."""
        self._least = max(self._least, seq)
        self._ordered = {key_hash: number for key_hash, number in self._ordered.items() if number > self._least}
        later = {key_hash for key_hash, number in self._purged.items() if number > self._least}
        self._needed = {}
        for key_hash in later | self._closed | self._ordered.keys():
            self._note_needed(key_hash)

    def purge_all(self, seq: int) -> None:
        """Make every fetch of every key stale that noted a number below `seq`. Closed keys are open again."""
        self._seq = max(self._seq, seq)
        self._all_purged = max(self._all_purged, seq)
        self._closed.clear()
        self._need_at_least(seq)

    def holds(self, key_hash: str, seq: int) -> bool:
        """Whether no purge of the key came after a fetch that noted `seq`: what it brought may be stored."""
        return max(self._purged.get(key_hash, 0), self._all_purged) <= seq and key_hash not in self._closed

    def is_proved(self, key_hash: str, seq: int) -> bool:
        """Whether no purge of the key, and no order to prove it, came after a fetch that noted `seq`."""
        return self._needed.get(key_hash, self._least) <= seq

    def all_hold(self, proofs: Iterable[tuple[str, int]]) -> bool:
        """Whether each of these pairs of key hash and number is proved: an answer may begin with them."""
        for key_hash, seq in proofs:  # noqa: SIM110 - all() takes twice as long, and each hit asks
            if self._needed.get(key_hash, self._least) > seq:
                return False
        return True

    def holds_in(self, journal_id: str, key_hash: str, seq: int) -> bool:
        """As `holds`, for a number of this journal. A number of another journal counts as older than any purge."""
        return self.holds(key_hash, seq if journal_id == self.journal_id else 0)

    def _note_needed(self, key_hash: str) -> None:
        """Note what an answer of this key needs from now on."""
        needed = max(self._purged.get(key_hash, 0), self._ordered.get(key_hash, 0))
        if key_hash in self._closed:
            needed = _NEVER
        if needed > self._least:
            self._needed[key_hash] = needed
        else:
            self._needed.pop(key_hash, None)

    # --- a purge that cannot be recorded -----------------------------------------------------------------------

    def close(self, key_hash: str) -> None:
        """Make every fetch of this key stale, whenever it began, until `purge`: its purge could not be recorded yet."""
        self._closed.add(key_hash)
        self._note_needed(key_hash)

    def is_closed(self, key_hash: str) -> bool:
        """Whether the key's purge still has to be recorded."""
        return key_hash in self._closed

    @property
    def closed_keys(self) -> AbstractSet[str]:
        """The keys whose purge still has to be recorded."""
        return self._closed

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

    @property
    def oldest_at_work(self) -> int:
        """The lowest number that work under way noted. Nothing notes a lower one any more."""
        return min(self._at_work, default=self._seq)

    def collected(self, key_hash: str, seq: int) -> None:
        """
        Purge `seq` has left no file of the key. Its epoch now matters only to work that began before the purge.

        The epoch is forgotten when that work has ended. Otherwise every key that was ever purged would stay in memory.
        Work that keeps something fetched over an await must therefore be `at_work`.
        """
        self._collected.append((seq, key_hash))
        self._forget_collected()

    def collected_many(self, key_hashes: AbstractSet[str], seq: int) -> None:
        """As `collected`, for many keys of one purge."""
        if seq > self.oldest_at_work or self._collected:
            self._collected.extend((seq, key_hash) for key_hash in key_hashes)
            self._forget_collected()
            return
        gone = {name for name in key_hashes if self._purged.get(name) == seq}
        self._purged = {name: at for name, at in self._purged.items() if name not in gone}
        self._needed = {name: at for name, at in self._needed.items() if name not in gone}
        for name in gone & (self._ordered.keys() | self._closed):
            self._note_needed(name)

    def _forget_collected(self) -> None:
        oldest = self.oldest_at_work
        while self._collected and self._collected[0][0] <= oldest:
            purged_at, name = self._collected.popleft()
            if self._purged.get(name) == purged_at:
                del self._purged[name]
                self._note_needed(name)

    def ordered(self, key_hash: str) -> int | None:
        """The number of the key's order, until it is forgotten."""
        return self._ordered.get(key_hash)

    def obeyed(self, key_hash: str, seq: int) -> None:
        """
        Forget order `seq`: the facts on disk are of a later proof, or there are none.

        It still matters to work that noted a lower number. See `oldest_at_work`.
        """
        if self._ordered.get(key_hash) == seq:
            del self._ordered[key_hash]
            self._note_needed(key_hash)

    @property
    def orders(self) -> int:
        """How many orders to prove a key are remembered."""
        return len(self._ordered)

    def __len__(self) -> int:
        return len(self._purged)
