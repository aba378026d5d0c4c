"""If-Match and its order among the conditions (RFC 9110 13.2.2): parts of two pictures are never put together."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from imgproxy.config.sections import FreshnessSettings
from tests.support.site import KEY, Reply, Site, jpeg, red_of, site

OLD, NEW = 200, 20
SMALL = f"/{KEY}?w=50"
NOT_SETTLING = FreshnessSettings(settle_s=0)
CONDITIONS = [
    ([("If-Match", "{tag}")], 200),
    ([("If-Match", "*")], 200),
    ([("If-Match", '"x", {tag}')], 200),
    ([("If-Match", '"x"'), ("If-Match", "{tag}")], 200),
    ([("If-Match", '"x"')], 412),
    ([("If-Match", "W/{tag}")], 412),
    ([("If-Match", "no tag")], 412),
    ([("If-Match", '"x"'), ("If-Match", '"y"')], 412),
    ([("If-Match", "{tag}"), ("If-None-Match", "{tag}")], 304),
    ([("If-Match", "*"), ("If-None-Match", "*")], 304),
    ([("If-Match", '"x"'), ("If-None-Match", "{tag}")], 412),
    ([("If-Match", '"x"'), ("If-None-Match", "*")], 412),
    ([("If-None-Match", '"x"'), ("If-None-Match", "{tag}")], 304),
    ([("If-Match", '"x"'), ("If-Unmodified-Since", "Fri, 01 Jan 2100 00:00:00 GMT")], 412),
    ([("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")], 200),
    ([("If-Unmodified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")], 200),
    ([("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"), ("If-None-Match", "{tag}")], 304),
    ([("If-Modified-Since", "Sun Nov  6 08:49:37 2094"), ("If-Match", "{tag}")], 200),
]


async def ask(here: Site, target: str, lines: Iterable[tuple[str, str]], method: str = "GET") -> Reply:
    """Ask with these header lines; a name may be there twice."""
    return await here.send(method, target, headers=list(lines))


async def replaced(here: Site) -> None:
    """Replace the picture, and purge it."""
    await here.library.put(KEY, jpeg(NEW))
    assert (await here.purge(here.library.entry_id(KEY))).status == 200


@pytest.mark.parametrize("condition", ["If-Match", "If-Range", "If-Unmodified-Since"])
async def test_a_part_of_the_new_picture_is_never_put_behind_a_part_of_the_old_one(
    tmp_path: Path, condition: str
) -> None:
    """After a purge, a client that goes on with a download gets 412 or the whole new picture, whatever it names."""
    async with site(tmp_path, freshness=NOT_SETTLING) as here:
        first = await here.get(f"/{KEY}", Range="bytes=0-99")
        await replaced(here)
        known = first.headers["Date" if condition == "If-Unmodified-Since" else "ETag"]
        rest = await ask(here, f"/{KEY}", [("Range", "bytes=100-"), (condition, known)])

        assert first.status == 206
        if condition == "If-Match":
            assert (rest.status, rest.json()["type"]) == (412, "urn:imgproxy:problem:precondition-failed")
            assert rest.headers["Cache-Control"] == "no-store"
        else:
            assert (rest.status, "Content-Range" in rest.headers) == (200, False)
            assert abs(red_of(rest.body) - NEW) < 10


@pytest.mark.parametrize("names", [["If-Match"], ["If-Range"], ["If-Match", "If-Range"], ["If-Match", "If-None-Match"]])
async def test_a_part_is_sent_if_its_picture_is_still_the_current_one(tmp_path: Path, names: list[str]) -> None:
    """A strong tag proves it; If-Unmodified-Since beside If-Match or If-Range changes nothing."""
    async with site(tmp_path) as here:
        whole = await here.get(f"/{KEY}")
        value = {"If-None-Match": '"other"'}
        lines = [(name, value.get(name, whole.headers["ETag"])) for name in names]
        old = ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT")
        part = await ask(here, f"/{KEY}", [("Range", "bytes=100-"), old, *lines])

        assert (part.status, part.body) == (206, whole.body[100:])


@pytest.mark.parametrize("target", [SMALL, f"/{KEY}"], ids=["variant", "original"])
async def test_conditions_in_their_order(tmp_path: Path, target: str) -> None:
    """If-Match comes first, then If-None-Match. Dates are ignored: answers have no Last-Modified (RFC 9110 13.1.4)."""
    async with site(tmp_path) as here:
        tag = (await here.get(target)).headers["ETag"]
        # The first two requests are the first of their kind; afterwards the fast path knows the answer.
        for method in ("GET", "HEAD", "GET"):
            for conditions, status in CONDITIONS:
                lines = [(name, value.format(tag=tag)) for name, value in conditions]
                reply = await ask(here, target, lines, method)
                assert (conditions, reply.status) == (conditions, status)
                assert status != 304 or reply.headers["ETag"] == tag
            assert (await here.get(target)).status == 200


async def test_a_condition_does_not_hide_an_error(tmp_path: Path) -> None:
    """A picture that is not there or cannot be rendered has its own error, not 412 (RFC 9110 13.2.1)."""
    pictures = {"cut.jpg": jpeg(1, (800, 600))[:3000]}
    async with site(tmp_path, pictures=pictures, library={"is_lenient": True}) as here:
        for target, status in (("/none.jpg?w=50", 404), ("/cut.jpg?w=50", 422), ("/cut.jpg?w=0", 400)):
            for value in ("*", '"x"'):
                assert (await here.get(target, If_Match=value)).status == status


async def test_two_accept_lines_are_one_list(tmp_path: Path) -> None:
    """RFC 9110 5.3: also on the fast path, and for requests that wait together."""
    async with site(tmp_path) as here:
        target = f"/{KEY}?w=50&auto=format"
        for _ in range(3):
            reply = await ask(here, target, [("Accept", "text/html"), ("Accept", "image/webp")])
            assert reply.headers["Content-Type"] == "image/webp"
        assert reply.headers["Server-Timing"] == "memory"
