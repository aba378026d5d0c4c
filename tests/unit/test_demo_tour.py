"""The demo's tour: which pictures it shows."""

from __future__ import annotations

from imgproxy.demo.tour import Picture, stops, within


def picture(key: str, width_px: int, height_px: int, size_bytes: int = 1_000) -> Picture:
    return Picture(f"id-{key}", key, "image/jpeg", width_px, height_px, size_bytes)


def test_a_picture_over_a_limit_is_not_toured() -> None:
    """Pictures that the edge refuses are in no stop of the tour."""
    small, fine = picture("small.jpg", 300, 200), picture("fine.jpg", 3_000, 2_000)
    folder = [picture("panorama.jpg", 20_000, 10_000), small, fine, picture("heavy.jpg", 4_000, 2_000, 10_000)]

    toured = within(folder, pixels_max=60_000_000, bytes_max=9_999)

    assert toured == [small, fine]
    urls = [stop.url for stop in stops("http://edge", toured)]
    assert len(urls) >= 5
    assert all(url.startswith(("http://edge/fine.jpg?", "http://edge/small.jpg?")) for url in urls)
    assert sum("fine.jpg" in url for url in urls) > sum("small.jpg" in url for url in urls)


def test_if_every_picture_is_too_large_the_smallest_is_toured() -> None:
    """The tour then shows the smallest picture, whose answer names the limit."""
    smaller = picture("smaller.jpg", 200, 100)

    assert within([picture("a.jpg", 300, 300), smaller], pixels_max=10, bytes_max=10) == [smaller]
