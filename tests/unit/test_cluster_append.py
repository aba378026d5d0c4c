"""What an append writes, as values of one statement: pure, so by property."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from imgproxy.cache.outbox import OutboxLine, Subject
from imgproxy.cluster.log import Change, Kind
from imgproxy.cluster.postgres_append import append_values, change_json, clean, read_change

texts = st.text(max_size=6)
entries = st.none() | texts
calls = st.builds(
    OutboxLine,
    st.sampled_from(["cdn", "other"]),
    st.builds(Subject, texts, st.booleans()),
    st.sampled_from([1, 2]),
    st.floats(0, 100),
)
changes = st.builds(
    Change,
    st.sampled_from(Kind),
    st.lists(texts, max_size=3).map(tuple),
    texts,
    entry=entries,
    is_pending=st.booleans(),
    settle_s=st.none() | st.floats(0, 3600),
    outbox=st.lists(calls, max_size=3).map(tuple),
    expanded=st.lists(texts, max_size=3).map(tuple),
)


@given(changes)
def test_a_change_is_read_as_it_was_written(change: Change) -> None:
    """All but its calls, and characters that PostgreSQL cannot keep."""
    found = read_change(change.kind.value, change_json(change))
    assert found == replace(
        change,
        keys=tuple(map(clean, change.keys)),
        reason=clean(change.reason),
        entry=None if change.entry is None else clean(change.entry),
        outbox=(),
        expanded=tuple(map(clean, change.expanded)),
    )


@given(st.lists(changes, max_size=4))
def test_no_row_is_written_twice(group: list[Change]) -> None:
    """One statement may write a row once. All edges write rows in one order. An entry is opened or closed, not both."""
    values = append_values("server", "run", group, now_s=0.0, seen=0)
    assert values[0] == len(group) == len(values[3]) == len(values[4]) == len(values[17])  # type: ignore[arg-type]
    rows = [list(zip(*part, strict=True)) for part in (values[5:9], values[11:13], values[13:14])]
    for part in rows:
        assert part == sorted(set(part))
    assert set(values[13]).isdisjoint(values[15])  # type: ignore[call-overload]


@given(changes, st.floats(-1e5, 1e5))
def test_calls_are_due_at_a_distance(change: Change, skew_s: float) -> None:
    """The clock of the edge does not matter, only the time from now."""
    moved = replace(change, outbox=tuple(replace(line, due_at_s=line.due_at_s + skew_s) for line in change.outbox))
    here = append_values("server", "run", [change], now_s=0.0, seen=0)
    there = append_values("server", "run", [moved], now_s=skew_s, seen=0)
    assert here[:10] == there[:10]
    distances = zip(here[10], there[10], strict=True)  # type: ignore[call-overload]
    assert all(abs(one - other) < 1e-6 for one, other in distances)


def test_what_a_later_version_writes_is_understood() -> None:
    """Fields that are not known are left out. A kind that is not known means: forget everything."""
    found = read_change("a new kind", '{"keys": ["x"], "reason": "r", "new": 1}')
    assert found == Change(Kind.PURGE_ALL, ("x",), "r")
