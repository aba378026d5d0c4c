"""The state of a cluster, as its database knows it: for `imgproxy cluster status`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class NodeState(StrEnum):
    """What the database knows of an edge. Whether it is fenced, only the edge itself knows: see its `/-/ready`."""

    CURRENT = "current"  # its lease runs, and it has applied every line
    BEHIND = "behind"  # its lease runs, and lines are missing
    SILENT = "silent"  # its lease has run out


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """An edge: how many lines it has not applied yet, and how long ago it renewed, by the database's clock."""

    name: str
    run: str
    lag_lines: int
    renewed_ago_s: float
    lease_s: float
    proof_s: float | None

    @property
    def state(self) -> NodeState:
        """Return the state."""
        if self.renewed_ago_s > self.lease_s:
            return NodeState.SILENT
        return NodeState.BEHIND if self.lag_lines else NodeState.CURRENT


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The log and its members. `oldest_age_s`: of the oldest line that is kept; None: there is none."""

    history: str
    head: int
    lines: int
    oldest_age_s: float | None
    schema_version: int
    nodes: tuple[NodeStatus, ...]

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Return the names that several edges have at the same time. An edge that ended before does not count."""
        alive = Counter(node.name for node in self.nodes if node.state is not NodeState.SILENT)
        return tuple(name for name, count in alive.items() if count > 1)

    def as_json(self) -> dict[str, Any]:
        """Return the public form. Scripts depend on its names."""
        return {
            "history": self.history,
            "head": self.head,
            "lines": self.lines,
            "oldest_age_s": None if self.oldest_age_s is None else round(self.oldest_age_s, 3),
            "schema_version": self.schema_version,
            "nodes": [
                {
                    "name": node.name,
                    "run": node.run,
                    "state": node.state.value,
                    "lag_lines": node.lag_lines,
                    "renewed_ago_s": round(node.renewed_ago_s, 3),
                    "lease_s": node.lease_s,
                    "proof_s": node.proof_s,
                }
                for node in self.nodes
            ],
        }


def shared_name_words(name: str) -> str:
    """Say that several edges have this name."""
    return f"several edges are called {name} (or one has restarted just now); each needs a [cluster] node of its own"


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """What a try of the database found: a line each. With `problems` the database cannot be used."""

    good: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
