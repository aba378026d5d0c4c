"""Many requests for one answer that is being made: one fetch, one render, and the same bytes written to all at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from imgproxy.config.sections import CacheSettings, FreshnessSettings, LogSettings, PurgeSettings
from imgproxy.failpoints import Failpoints, Point, Step
from tests.support.site import KEY, Held, Site, jpeg, png_of_noise, red_of, site, until
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

TARGET = f"/{KEY}?w=120"
COUNT = 50


async def ask(here: Site, count: int, more: str = "", *, target: str = TARGET, limit: int = 2**24) -> list[Wire]:
    """Send the same request over `count` connections."""
    wires = [await Wire.to(here, limit=limit) for _ in range(count)]
    for wire in wires:
        wire.ask(target, more)
    return wires


async def ask_together(here: Site, count: int = COUNT) -> list[Wire]:
    """Send the same request over `count` connections. The original comes when all of them have arrived."""
    here.probe.hold("headers")
    wires = await ask(here, count)
    await until(lambda: here.metric("imgproxy_requests_in_flight") == count)
    here.probe.release("headers")
    return wires


async def read(wires: list[Wire]) -> list[tuple[int, dict[str, str], bytes]]:
    return list(await asyncio.gather(*(wire.read_answer() for wire in wires)))


async def close(wires: list[Wire]) -> None:
    await asyncio.gather(*(wire.close() for wire in wires))


def is_written_by_another(headers: dict[str, str]) -> bool:
    """Whether another request wrote this answer: it has the stages of the one render, and no total time."""
    return "collapsed" in headers["Cache-Status"] and "total" not in headers["Server-Timing"]


async def test_all_waiting_requests_get_the_same_bytes(tmp_path: Path) -> None:
    """One fetch, one render, equal answers, each counted; afterwards every connection takes the next request."""
    async with site(tmp_path) as here:
        wires = await ask_together(here)
        answers = await read(wires)
        await until(lambda: here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT)

        assert {status for status, _, _ in answers} == {200}
        assert len({body for _, _, body in answers}) == 1
        assert sum(is_written_by_another(headers) for _, headers, _ in answers) == COUNT - 1
        assert here.probe.count("serveImage", KEY) == 1
        assert await here.renders() == 1
        assert here.metric("imgproxy_sent_bytes_total") == COUNT * len(answers[0][2])
        for wire in wires:
            wire.ask(f"/{KEY}?w=121")
        assert {status for status, _, _ in await read(wires)} == {200}
        await close(wires)


async def test_no_request_is_answered_before_the_first_may_be(tmp_path: Path) -> None:
    """While all are held before the response, no connection has a byte; then all have the answer."""
    held = Held()
    held.hold(Point.BEFORE_RESPONSE)
    async with site(tmp_path, failpoints=held) as here:
        wires = await ask(here, COUNT)
        first_bytes = [asyncio.ensure_future(wire.reader.read(1)) for wire in wires]
        await held.arrived(Point.BEFORE_RESPONSE, COUNT)
        # The service answers another request meanwhile: so the loop has turned, and bytes would have come.
        assert (await here.get("/-/health")).status == 200
        assert not any(first.done() for first in first_bytes)

        held.release(Point.BEFORE_RESPONSE)

        assert set(await asyncio.gather(*first_bytes)) == {b"H"}
        await close(wires)


async def test_a_purge_before_the_answers_begin_makes_all_of_them_stale(tmp_path: Path) -> None:
    """The render is done and all requests are about to answer; after the purge each gets the new picture."""
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


async def test_a_waiting_client_that_leaves_is_not_answered(tmp_path: Path) -> None:
    """Ten clients hang up while the picture is made: the others are answered, and the ten are not counted."""
    async with site(tmp_path, log=LogSettings(access="none")) as here:
        here.probe.hold("headers")
        wires = await ask(here, COUNT)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == COUNT)
        await close(wires[:10])
        await until(lambda: here.metric("imgproxy_requests_in_flight") == COUNT - 10)
        here.probe.release("headers")
        answers = await read(wires[10:])
        await close(wires[10:])
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 0)

        assert {status for status, _, _ in answers} == {200}
        assert await here.renders() == 1
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT - 10


class LastPasses(Failpoints):
    """
    Holds all requests but the last of `COUNT` before their response, so that the last one writes all answers.

    When `gate` is opened, each held request goes on, or fails with `error`.
    """

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.gate = asyncio.Event()
        self._error = error
        self._came = 0

    async def reach(self, point: Point | Step, key: str) -> None:
        """Hold the request, unless it is the last."""
        del key
        if point is Point.BEFORE_RESPONSE:
            self._came += 1
            if self._came < COUNT:
                await self.gate.wait()
                if self._error is not None:
                    raise self._error


async def test_a_client_that_leaves_with_its_whole_answer_counts_as_answered(tmp_path: Path) -> None:
    """Another request has written the answer; the client hangs up before its own request goes on."""
    async with site(tmp_path, failpoints=LastPasses()) as here:
        wires = await ask_together(here)
        answers = await read(wires)
        assert here.metric("imgproxy_requests_in_flight") >= COUNT - 1
        await close(wires)
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 0)

        assert {status for status, _, _ in answers} == {200}
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT
        assert here.metric("imgproxy_failed_after_answer_total") == 0


async def test_a_purge_after_the_answer_brings_no_second_answer(tmp_path: Path) -> None:
    """The answers are written, and the picture is removed and purged before the requests go on: one answer each."""
    failpoints = LastPasses()
    async with site(tmp_path, failpoints=failpoints, freshness=FreshnessSettings(settle_s=0)) as here:
        wires = await ask_together(here)
        answers = await read(wires)
        entry = here.library.entry_id(KEY)
        await here.library.remove(KEY)
        await here.purge(entry)
        failpoints.gate.set()
        for wire in wires:
            wire.ask("/-/health")
        health = await read(wires)
        await close(wires)

        assert {status for status, _, _ in answers} == {200}
        assert {headers["Content-Type"].split(";")[0] for _, headers, _ in health} == {"application/json"}
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT
        assert here.metric("imgproxy_failed_after_answer_total") == 0


async def test_an_answer_stands_although_its_request_fails_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in a request whose answer another request has written: the client has a 200; it is logged and counted."""
    failpoints = LastPasses(AssertionError)
    async with site(tmp_path, failpoints=failpoints) as here:
        wires = await ask_together(here)
        answers = await read(wires)
        failpoints.gate.set()
        await until(lambda: here.metric("imgproxy_requests_in_flight") == 0)
        for wire in wires:
            wire.ask("/-/health")
        health = await read(wires)
        await close(wires)

        assert {status for status, _, _ in (*answers, *health)} == {200}
        assert len({body for _, _, body in answers}) == 1
        assert here.metric("imgproxy_failed_after_answer_total") == COUNT - 1
        assert here.metric("imgproxy_requests_total", outcome="miss", status="200") == COUNT
        assert here.metric("imgproxy_requests_total", outcome="error", status="500") == 0
        logged = [
            record for record in caplog.records if record.message == "a request failed after its answer was written"
        ]
        assert len(logged) == COUNT - 1
        assert {record.levelname for record in logged} == {"ERROR"}
        assert all(record.exc_info is not None and record.exc_info[0] is AssertionError for record in logged)


class Failing(Failpoints):
    """Fails every request before its response."""

    async def reach(self, point: Point | Step, key: str) -> None:
        """Fail."""
        del key
        if point is Point.BEFORE_RESPONSE:
            raise AssertionError


async def test_a_request_that_fails_before_it_has_an_answer_is_a_500(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was written, so the client is told; the fault is logged, and is not one after an answer."""
    async with site(tmp_path, failpoints=Failing()) as here:
        reply = await here.get(TARGET)

        assert (reply.status, reply.json()["type"]) == (500, "urn:imgproxy:problem:internal")
        assert "an image request failed" in caplog.text
        assert here.metric("imgproxy_failed_after_answer_total") == 0
        assert here.metric("imgproxy_requests_total", outcome="error", status="500") == 1


@pytest.mark.parametrize(
    ("more", "expected"), [("If-None-Match: {etag}\r\n", 304), ('If-None-Match: "other"\r\n', 200), ("", 200)]
)
async def test_requests_with_a_condition_have_an_answer_of_their_own(tmp_path: Path, more: str, expected: int) -> None:
    """The shared answer is written only to requests without a condition and without HEAD."""
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
            heads = [await wire.read_head() for wire in conditional]
            assert {int(found.split()[1]) for found in heads} == {304}
        else:
            assert {status for status, _, _ in await read(conditional)} == {200}
        assert ((await head).status, (await head).body) == (200, b"")
        await close([*plain, *conditional])


async def test_a_purge_cuts_answers_whose_bytes_are_still_in_this_process(tmp_path: Path) -> None:
    """The clients do not read, so old bytes are on their way when the purge comes: their connections are cut."""
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_item_max_bytes=50_000_000)
    pictures = {KEY: png_of_noise(2400)}
    async with site(tmp_path, purge=PurgeSettings(drain_s=0.05), pictures=pictures, cache=settings) as here:
        wires = await ask(here, 3, target=f"/{KEY}?w=2400&fm=png", limit=1024)
        for wire in wires:
            await wire.read_head()

        receipt = await here.purge(here.library.entry_id(KEY))

        assert receipt.json()["cut"] == 3
        await until(lambda: not here.edge.answers._sending)
        await close(wires)
