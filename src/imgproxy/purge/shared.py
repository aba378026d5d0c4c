"""What the nodes of a cluster share, as the purges of one node use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from imgproxy.cluster.facts import SharedFacts, SharedOutbox


@dataclass(frozen=True, slots=True)
class Shared:
    """
    The facts and the outbox of the cluster, and two things that this node knows of the others.

    `gone_runs()`: the runs whose claims are free. `applied_by_all()`: the number of the last line of the log that every
    node has applied.
    """

    facts: SharedFacts
    outbox: SharedOutbox
    gone_runs: Callable[[], Collection[str]]
    applied_by_all: Callable[[], int]
