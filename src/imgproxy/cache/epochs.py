"""
Epochs: which fetches a purge has overtaken.

The journal counts purges; the count is the sequence. A fetch notes the sequence *before* it starts. A purge of a key
raises that key's epoch to the purge's own number. What a fetch brought may be stored or served only while the number
it noted is not below the key's epoch: whatever was on its way when the purge came is thus thrown away, wherever it is.
Everything here happens on the event loop between two awaits, so check and use cannot be torn apart.
"""

from __future__ import annotations


class Epochs:
    """The sequence, and the last purge of each key that is still of interest (keys by their hash)."""

    def __init__(self, journal_id: str, seq: int, purged: dict[str, int] | None = None) -> None:
        self.journal_id = journal_id
        self._seq = seq
        self._purged: dict[str, int] = dict(purged or {})

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
        return self._purged.get(key_hash, 0) <= seq

    def forget_before(self, seq: int) -> None:
        """
        Drop epochs up to `seq`.

        Only for a `seq` so old that nothing fetched before it can still be in flight or on disk.
        """
        self._purged = {name: at for name, at in self._purged.items() if at > seq}

    def __len__(self) -> int:
        return len(self._purged)
