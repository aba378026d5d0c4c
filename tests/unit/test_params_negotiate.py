"""Accept headers and client hints."""

from __future__ import annotations

import pytest

from imgproxy.params.negotiate import (
    AcceptClass,
    ClientHeaders,
    accept_class,
    hinted_dpr,
    hinted_width_px,
    read_headers,
    wants_less_data,
)

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
SAFARI_13 = "image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"
SAFARI_15 = "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        (None, AcceptClass.LEGACY),
        ("", AcceptClass.LEGACY),
        ("*/*", AcceptClass.LEGACY),
        ("image/*", AcceptClass.LEGACY),
        (CHROME, AcceptClass.AVIF),
        (SAFARI_15, AcceptClass.WEBP),
        (SAFARI_13, AcceptClass.LEGACY),
        ("IMAGE/AVIF", AcceptClass.AVIF),
        ("image/webp , image/avif", AcceptClass.AVIF),
        ("image/avif;q=0, image/webp", AcceptClass.WEBP),
        ("image/avif; q=0.0,image/webp;q=0", AcceptClass.LEGACY),
        ("image/avif;q=0.001", AcceptClass.AVIF),
        ("image/avif;level=1;q=0", AcceptClass.LEGACY),
        ("image/avif;q=", AcceptClass.LEGACY),
        ("image/avif;q=nan", AcceptClass.LEGACY),
        ("image/avifs,text/webp", AcceptClass.LEGACY),
        (",,;;,=,", AcceptClass.LEGACY),
    ],
)
def test_accept_classes(accept: str | None, found: AcceptClass) -> None:
    """A format counts if it is named with q above 0; wildcards do not count."""
    assert accept_class(accept) is found


def test_all_accept_headers_fall_into_three_classes() -> None:
    """There are at most three answers for a URL."""
    assert {item.value for item in AcceptClass} == {"avif", "webp", "legacy"}


@pytest.mark.parametrize(
    ("dpr", "found"), [(None, None), ("2", 2.0), ("1.5", 1.5), ("9", 5.0), ("0", None), ("-1", None), ("x", None)]
)
def test_dpr_hint(dpr: str | None, found: float | None) -> None:
    """A ratio above 5 counts as 5; other texts are no hint."""
    assert hinted_dpr(dpr) == found


@pytest.mark.parametrize(
    ("width", "found"), [(None, None), ("640", 640), ("99999", 8192), ("0", None), ("0.5", None), ("x", None)]
)
def test_width_hint(width: str | None, found: int | None) -> None:
    """A width above the output limit counts as the limit; other texts are no hint."""
    assert hinted_width_px(width) == found


@pytest.mark.parametrize(
    ("value", "found"), [(None, False), ("on", True), ("ON", True), ("on;x=1", True), ("off", False), ("", False)]
)
def test_save_data(value: str | None, found: bool) -> None:
    """Only the token `on` asks for less data."""
    assert wants_less_data(value) is found


def test_headers_of_strangers_become_small_values() -> None:
    """Whatever is sent, at most 32 kB a header, what may be remembered of it is an enumeration, a flag and two numbers."""
    long = "x" * 32_000
    seen = {
        read_headers(f"image/webp,{long}{n}", save_data=f"on;{long}{n}", dpr=f"2{long}{n}", width=f"9{long}{n}")
        for n in range(9)
    }

    assert seen == {ClientHeaders(AcceptClass.LEGACY, saves_data=True)}
    assert read_headers("image/webp", dpr=" 3 ", width="640.2") == ClientHeaders(AcceptClass.WEBP, False, 3.0, 640)


def test_a_very_long_accept_counts_as_none() -> None:
    """512 characters are read, more are not: every client can show the answer to no Accept."""
    assert accept_class("image/webp,".ljust(512, "x")) is AcceptClass.WEBP
    assert accept_class("image/webp,".ljust(513, "x")) is AcceptClass.LEGACY
