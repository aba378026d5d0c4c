"""Request ids: taken from the client if they are safe, else made."""

import pytest

from imgproxy.edge.request_ids import RequestIds, trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": "f058ebd6-02f7-4d3f-942e-904344e8cde5"}, "f058ebd6-02f7-4d3f-942e-904344e8cde5"),
        ({"X-Request-Id": "x" * 128, "traceparent": PARENT}, "x" * 128),
        ({"X-Request-Id": "x" * 129, "traceparent": PARENT}, TRACE),
        ({"X-Request-Id": 'a", "level": "error', "traceparent": PARENT}, TRACE),
        ({"X-Request-Id": "", "traceparent": PARENT}, TRACE),
        ({"traceparent": PARENT}, TRACE),
    ],
)
def test_an_id_of_the_client_is_taken_over_if_it_is_safe(headers: dict[str, str], expected: str) -> None:
    """It is bounded, and has no character that means something in a head, in JSON or on a terminal."""
    assert RequestIds().of(headers) == expected


@pytest.mark.parametrize(
    "given",
    [
        "",
        TRACE,
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        PARENT.upper(),
        PARENT + "0",
    ],
)
def test_a_traceparent_that_is_not_valid_counts_as_none(given: str) -> None:
    """As the W3C's recommendation says."""
    assert trace_id_of({"traceparent": given}) is None


def test_a_traceparent_of_a_later_version_may_be_longer() -> None:
    """Only the parts that are known are read."""
    assert trace_id_of({"traceparent": f"01-{TRACE}-00f067aa0ba902b7-01-more"}) == TRACE


def test_ids_that_are_made_differ_and_are_safe() -> None:
    """Also those of several processes."""
    one, other = RequestIds(), RequestIds()
    made = [ids.of({}) for ids in (one, other) for _ in range(100)]

    assert len(set(made)) == len(made)
    assert all(one.of({"X-Request-Id": given}) == given for given in made)
