"""Many requests for one answer that is being made: one fetch, one render, and the same bytes written to all at once."""

import asyncio
import io
from pathlib import Path

import pytest
from PIL import Image

from imgproxy.config.sections import CacheSettings, FreshnessSettings, LogSettings, PurgeSettings
from imgproxy.failpoints import Failpoints, Point
from tests.http.test_fastpath import REQUEST, Wire
from tests.support.site import KEY, Held, Site, jpeg, red_of, site, until

TARGET = f"/{KEY}?w=120"
COUNT = 50


async def ask(here: Site, count: int, more: str = "", *, target: str = TARGET, limit: int = 2**24) -> list[Wire]:
    """Send the same request over `count` connections."""
    wires = [await Wire.to(here, limit=limit) for _ in range(count)]
    for wire in wires:
        wire.writer.write(REQUEST.format(target=target, more=more).encode())
    return wires


async def read(wires: list[Wire]) -> list[tuple[int, dict[str, str], bytes]]:
    return list(await asyncio.gather(*(wire.read_answer() for wire in wires)))


async def close(wires: list[Wire]) -> None:
    await asyncio.gather(*(wire.close() for wire in wires))


def is_written_by_another(headers: dict[str, str]) -> bool:
    """Who is answered with the others has the stages of the one render, and no total of its own."""
    return "collapsed" in headers["Cache-Status"] and "total" not in headers["Server-Timing"]


async def test_all_who_wait_get_the_same_bytes(tmp_path: Path) -> None:
    """One fetch, one render, equal answers, each counted; afterwards every connection answers as before."""
    async with site(tmp_path) as here:
        here.probe.hold("headers")
        wires = await ask(here, COUNT)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == COUNT)
        here.probe.release("headers")
        answers = await read(wires)
        await until(lambda: here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT)

        assert {status for status, _, _ in answers} == {200}
        assert len({body for _, _, body in answers}) == 1
        assert sum(is_written_by_another(headers) for _, headers, _ in answers) == COUNT - 1
        assert here.probe.count("serveImage", KEY) == 1
        assert await here.renders() == 1
        assert here.metric("imgproxy_sent_bytes_total") == COUNT * len(answers[0][2])
        for wire in wires:
            wire.writer.write(REQUEST.format(target=f"/{KEY}?w=121", more="").encode())
        assert {status for status, _, _ in await read(wires)} == {200}
        await close(wires)


async def test_none_is_answered_before_the_first_may_be(tmp_path: Path) -> None:
    """Held before the response, no connection has a byte; released, all have the answer."""
    held = Held()
    held.hold(Point.BEFORE_RESPONSE)
    async with site(tmp_path, failpoints=held) as here:
        wires = await ask(here, COUNT)
        first_bytes = [asyncio.ensure_future(wire.reader.read(1)) for wire in wires]
        await held.arrived(Point.BEFORE_RESPONSE, COUNT)
        assert (await here.get("/-/health")).status == 200
        assert not any(first.done() for first in first_bytes)

        held.release(Point.BEFORE_RESPONSE)

        assert set(await asyncio.gather(*first_bytes)) == {b"H"}
        await close(wires)


async def test_a_purge_before_the_answers_begin_overtakes_them_all(tmp_path: Path) -> None:
    """The render is done and all wait to begin; after the purge each gets the new picture, the old one nobody."""
    held = Held()
    held.hold(Point.BEFORE_RESPONSE)
    async with site(tmp_path, failpoints=held, freshness=FreshnessSettings(settle_s=0)) as here:
        wires = await ask(here, COUNT)
        await held.arrived(Point.BEFORE_RESPONSE, COUNT)
        await here.library.put(KEY, jpeg(20))
        await here.purge(here.library.entry_id(KEY))
        held.release(Point.BEFORE_RESPONSE)
        answers = await read(wires)
        await close(wires)

        assert {status for status, _, _ in answers} == {200}
        assert all(abs(red_of(body) - 20) <= 2 for _, _, body in answers)
        assert await here.renders() == 2


async def test_a_waiter_that_left_is_left_out(tmp_path: Path) -> None:
    """Some hang up while the picture is made: the others are answered, and who left is counted as gone."""
    async with site(tmp_path, log=LogSettings(access="none")) as here:
        here.probe.hold("headers")
        wires = await ask(here, COUNT)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == COUNT)
        await close(wires[:10])
        await until(lambda: here.metric("imgproxy_requests_in_flight") == COUNT - 10)
        here.probe.release("headers")
        answers = await read(wires[10:])
        await close(wires[10:])

        assert {status for status, _, _ in answers} == {200}
        assert await here.renders() == 1
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT - 10


class LastPasses(Failpoints):
    """Holds all but the last of `COUNT` answers before they begin, so that they are written before their turn."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self._came = 0

    async def reach(self, point: Point, key: str) -> None:
        """Wait, or be the last."""
        del key
        if point is Point.BEFORE_RESPONSE:
            self._came += 1
            if self._came < COUNT:
                await self.gate.wait()


async def test_who_leaves_with_its_answer_in_hand_is_counted_as_answered(tmp_path: Path) -> None:
    """A client that hangs up as soon as it has everything, before its turn has come, has given up nothing."""
    async with site(tmp_path, failpoints=LastPasses()) as here:
        wires = await ask(here, COUNT)
        answers = await read(wires)
        assert here.metric("imgproxy_requests_in_flight") >= COUNT - 1
        await close(wires)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 0)

        assert {status for status, _, _ in answers} == {200}
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT


async def test_an_answer_is_given_once_whatever_comes_between(tmp_path: Path) -> None:
    """A purge between the answer that all were given and the turn of each: none is given another one."""
    failpoints = LastPasses()
    async with site(tmp_path, failpoints=failpoints, freshness=FreshnessSettings(settle_s=0)) as here:
        wires = await ask(here, COUNT)
        answers = await read(wires)
        entry = here.library.entry_id(KEY)
        await here.library.remove(KEY)
        await here.purge(entry)
        failpoints.gate.set()
        for wire in wires:
            wire.writer.write(REQUEST.format(target="/-/health", more="").encode())
        health = await read(wires)
        await close(wires)

        assert {status for status, _, _ in answers} == {200}
        assert {headers["Content-Type"].split(";")[0] for _, headers, _ in health} == {"application/json"}
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT


@pytest.mark.parametrize(
    ("more", "expected"), [("If-None-Match: {etag}\r\n", 304), ('If-None-Match: "other"\r\n', 200), ("", 200)]
)
async def test_conditions_among_the_waiters_are_answered_by_themselves(
    tmp_path: Path, more: str, expected: int
) -> None:
    """What is written to all is written only to those who asked the plain question."""
    async with site(tmp_path, freshness=FreshnessSettings(settle_s=0)) as here:
        etag = (await here.get(TARGET)).headers["ETag"]
        await here.purge(here.library.entry_id(KEY))
        here.probe.hold("headers")
        plain = await ask(here, 5)
        conditional = await ask(here, 5, more.format(etag=etag))
        head = asyncio.ensure_future(here.send("HEAD", TARGET))
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 11)
        here.probe.release("headers")

        assert {status for status, _, _ in await read(plain)} == {200}
        if expected == 304:
            heads = [await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 20) for wire in conditional]
            assert {int(found.split()[1]) for found in heads} == {304}
        else:
            assert {status for status, _, _ in await read(conditional)} == {200}
        assert ((await head).status, (await head).body) == (200, b"")
        await close([*plain, *conditional])


async def test_a_purge_cuts_what_still_waits_in_this_process(tmp_path: Path) -> None:
    """Waiters that do not read have old bytes on their way when the purge comes: their connections are cut."""
    out = io.BytesIO()
    Image.effect_noise((2400, 2400), 90).convert("RGB").save(out, "PNG", compress_level=1)
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_item_max_bytes=50_000_000)
    pictures = {KEY: out.getvalue()}
    async with site(tmp_path, purge=PurgeSettings(drain_s=0.05), pictures=pictures, cache=settings) as here:
        wires = await ask(here, 3, target=f"/{KEY}?w=2400&fm=png", limit=1024)
        for wire in wires:
            await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 30)

        receipt = await here.purge(here.library.entry_id(KEY))

        assert receipt.json()["cut"] == 3
        await until(lambda: not here.edge.answers._sending)
        await close(wires)
