"""
The runs of a node over one cache directory: which of them have certainly ended.

A run is a member of the cluster. One that was killed did not leave, so the others still wait for it. The next run may
say that it has ended, but only if that is certain: a process that hangs (SIGSTOP) goes on later, and it may then answer
with pictures that it proved at the origin, also when its lease has run out.

A run holds the lock of its directory from before it is a member until it serves nothing any more. The journal says
which lock that was. So if this run holds that very lock, the run before has ended. It is another lock

- in a copy of the directory: the file is another one. The run over the first directory may live
- in a snapshot of the disk: the device is another one
- after a restart of the machine, or on another one: the kernel is another one. A machine that hangs may still serve

A lock is never mistaken for another one. While a process holds it, the kernel gives its inode and its device to nobody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

_FACT: Final = "cluster_runs"
# Runs that have ended are named until so many later ones have begun: each may have failed to reach the log.
ENDED_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Runs:
    """The last run that used a journal, the lock that it held, and earlier runs that have certainly ended."""

    run: str
    lock: str | None
    ended: tuple[str, ...]

    def followed_by(self, run: str, lock: str | None) -> Runs:
        """Return what to write down when another run begins. `lock` is the one that it holds; None: not known."""
        is_over = lock is not None and lock == self.lock
        ended = (*self.ended, *((self.run,) if is_over else ()))
        return Runs(run, lock, tuple(name for name in ended if name != run)[-ENDED_MAX:])


def begin_run(database: sqlite3.Connection, run: str, lock: str | None) -> tuple[str, ...]:
    """Write down that this run begins. Return the runs that have ended. Call it inside a transaction."""
    row = database.execute("SELECT value FROM facts WHERE name = ?", (_FACT,)).fetchone()
    before = _read(row[0]) if row is not None else None
    runs = before.followed_by(run, lock) if before is not None else Runs(run, lock, ())
    text = json.dumps({"run": runs.run, "lock": runs.lock, "ended": runs.ended})
    database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (_FACT, text))
    return runs.ended


def _read(text: str) -> Runs | None:
    """Read what `begin_run` wrote. None: somebody else has written it."""
    try:
        found = json.loads(text)
        return Runs(str(found["run"]), found["lock"], tuple(map(str, found["ended"])))
    except (ValueError, KeyError, TypeError):
        return None
