"""Standard error is a pipe: the service goes on if its reader stops reading, or is gone."""

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.support.served import served
from tests.support.site import ADMIN, KEY, jpeg, poll, site

BROKEN = "broken.jpg"
PIPE_BYTES = 4096
# Each hit has a line of about 200 bytes.
HITS = 100


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """Open a pipe that holds as little as possible."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_reader_of_the_log_that_stalls_stops_nothing(tmp_path: Path) -> None:
    """Hits, a broken picture, a miss, health, a purge and SIGTERM are answered although the pipe is full."""
    pictures = {KEY: jpeg(200), BROKEN: jpeg(200)[:300]}
    async with asyncio.timeout(60), site(tmp_path, pictures=pictures) as here:
        with small_pipe() as (reader, writer):
            async with (
                served(here.library, tmp_path, stderr=writer) as (process, url),
                aiohttp.ClientSession(url) as session,
            ):
                await status_of(session, f"/{KEY}?w=50")
                hits = {await status_of(session, f"/{KEY}?w=50") for _ in range(HITS)}
                broken = await status_of(session, f"/{BROKEN}?w=50")
                miss = await status_of(session, f"/{KEY}?w=60")
                health = await status_of(session, "/-/health")
                entry = here.library.entry_id(KEY)
                async with session.post(f"/-/purge/entries/{entry}", headers=ADMIN) as answer:
                    purge = await answer.json()
                process.send_signal(signal.SIGTERM)
                code = await process.wait()
            written = os.read(reader, PIPE_BYTES)

    assert (hits, broken, miss, health) == ({200}, 422, 200, 200)
    assert purge["keys"] == [KEY]
    assert code == 0
    assert written.count(b"\n") < HITS, "the pipe was full"
    whole_lines = written[: written.rindex(b"\n")].splitlines()
    assert any("listening on" in json.loads(line)["message"] for line in whole_lines)


async def test_a_reader_of_the_log_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    """Every write fails with EPIPE. Hits are answered, the lost lines are counted, and SIGTERM ends the process."""
    reader, writer = os.pipe()
    async with (
        asyncio.timeout(60),
        site(tmp_path) as here,
        served(here.library, tmp_path, stderr=writer) as (process, url),
        aiohttp.ClientSession(url) as session,
    ):
        os.close(reader)
        os.close(writer)
        statuses = {await status_of(session, f"/{KEY}?w=50") for _ in range(HITS)}
        await poll(lambda: dropped(session), lambda lines: lines >= HITS)
        process.send_signal(signal.SIGTERM)
        code = await process.wait()

    assert (statuses, code) == ({200}, 0)


async def dropped(session: aiohttp.ClientSession) -> float:
    """Return how many lines the service has dropped."""
    async with session.get("/-/metrics", headers=ADMIN) as answer:
        page = await answer.text()
    return next(
        float(line.split()[1]) for line in page.splitlines() if line.startswith("imgproxy_log_lines_dropped_total ")
    )


async def status_of(session: aiohttp.ClientSession, target: str) -> int:
    """Return the status of an answer."""
    async with session.get(target) as answer:
        await answer.read()
        return answer.status
