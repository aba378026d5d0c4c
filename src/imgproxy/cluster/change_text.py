"""Changes as text: how a journal keeps what it still has to spread. A field that is not known is left out."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from imgproxy.cache.outbox import OutboxLine, subject_of
from imgproxy.cluster.log import Change, Kind


def to_text(change: Change) -> str:
    """Write a change as JSON."""
    row: dict[str, Any] = {field.name: getattr(change, field.name) for field in fields(change)}
    row["outbox"] = [
        [line.target, line.subject.name, line.subject.kind, line.round, line.due_at_s] for line in change.outbox
    ]
    return json.dumps(row, ensure_ascii=False)


def from_text(text: str) -> Change:
    """Read a change. Raises ValueError."""
    try:
        row = json.loads(text)
        return Change(
            kind=Kind(row["kind"]),
            keys=tuple(row["keys"]),
            reason=row["reason"],
            entry=row.get("entry"),
            is_pending=row.get("is_pending", False),
            settle_s=row.get("settle_s"),
            outbox=tuple(
                OutboxLine(target, subject_of(name, kind), number, due_at_s)
                for target, name, kind, number, due_at_s in row.get("outbox", ())
            ),
            expanded=tuple(row.get("expanded", ())),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a change: {error}") from error
