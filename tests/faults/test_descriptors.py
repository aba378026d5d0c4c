"""A process with few file descriptors: what is refused, what goes on, and that it recovers."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from imgproxy.cache.ledger import variant_name
from imgproxy.edge.descriptors import Descriptors
from imgproxy.edge.errors import TooManyConnections
from imgproxy.render.child import FILES_MAX
from tests.support.cache import HASHED, PLAN, opened
from tests.support.processes import render_pids
from tests.support.served import served
from tests.support.site import ADMIN, KEY, poll, site

HARD = 300
LIMITED = ("sh", "-c", f'ulimit -Sn 64 && ulimit -Hn {HARD} && exec "$@"', "sh")
SHORT, FREE = "almost all of 300 file descriptors", "file descriptors are free again"


async def test_at_the_limit_of_descriptors_hits_go_on_and_the_service_recovers(tmp_path: Path) -> None:
    """Idle strangers use up the hard limit: one log line and a metric; hits, a miss and a purge are answered."""
    log = tmp_path / "log"
    async with asyncio.timeout(60), site(tmp_path) as here:
        with log.open("wb") as stderr:
            async with (
                served(here.library, tmp_path, stderr=stderr, before=LIMITED) as (process, url),
                aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=1)) as session,
            ):
                assert await status_of(session, "GET", f"/{KEY}?w=50") == 200
                port = int(url.rpartition(":")[2])
                strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(HARD)]
                await asyncio.gather(*(reader.read() for reader, _ in strangers[-10:]))  # these were closed at once
                figures = await metrics(session)
                statuses = [await status_of(session, "GET", f"/{KEY}?w={width}") for width in (50, 60, 50)]
                statuses.append(await status_of(session, "PURGE", f"/{KEY}"))
                limits = Path(f"/proc/{render_pids(process.pid)[0]}/limits").read_text("ascii")

                for _, writer in strangers:
                    writer.close()

                async def newcomer() -> int:
                    async with aiohttp.ClientSession(url) as other:
                        try:
                            return await status_of(other, "GET", f"/{KEY}?w=70")
                        except aiohttp.ClientError:
                            return 0

                await poll(newcomer, lambda status: status == 200)
                await poll(newcomer, lambda _: FREE in log.read_text())

    assert figures["process_max_fds"] == HARD
    assert 10 <= figures["imgproxy_descriptors_refused_total"] < HARD
    assert statuses == [200] * 4
    assert log.read_text().count(SHORT) == 1
    assert next(line.split()[3:5] for line in limits.splitlines() if "open files" in line) == [str(FILES_MAX)] * 2


async def status_of(session: aiohttp.ClientSession, method: str, target: str) -> int:
    """Return the status of an answer."""
    async with session.request(method, target, headers=ADMIN) as answer:
        await answer.read()
        return answer.status


async def metrics(session: aiohttp.ClientSession) -> dict[str, float]:
    """Return the metrics that have no labels."""
    async with session.get("/-/metrics", headers=ADMIN) as answer:
        lines = (await answer.text()).splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}


def lowest_free() -> int:
    """Return the number that the next descriptor gets."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


@contextmanager
def none_left() -> Iterator[None]:
    """Let every `open` in this process fail with EMFILE."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free(), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_large_file_is_refused_before_the_last_descriptors_are_used(tmp_path: Path) -> None:
    """At the limit itself, too; then it is 503, not an unexpected error. Below it the file is opened."""
    file = tmp_path / "file"
    file.write_bytes(b"x")
    short, free = Descriptors(lowest_free() + 1), Descriptors(10_000)
    with pytest.raises(TooManyConnections):
        short.open_to_send(str(file))
    with none_left(), pytest.raises(TooManyConnections):
        free.open_to_send(str(file))
    assert (short.refused, free.refused) == (1, 1)

    os.close(free.open_to_send(str(file)))
    with pytest.raises(FileNotFoundError):
        free.open_to_send(str(tmp_path / "none"))


def test_a_shortage_has_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    """Numbers near the limit neither end it nor begin it again."""
    descriptors = Descriptors(300)
    numbers = [10, 230, 225, 224, 226, 149, 10, 299]
    admitted = [descriptors.admits_connection(number) for number in numbers]

    assert admitted == [True, False, False, True, False, True, True, False]
    assert [record.getMessage()[:10] for record in caplog.records] == ["almost all", "file descr", "almost all"]
    assert "3 connections" in caplog.text


async def test_a_variant_that_cannot_be_opened_for_want_of_descriptors_is_not_forgotten(tmp_path: Path) -> None:
    """It is a miss now. Its bytes still count as used."""
    async with opened(tmp_path) as cache:
        store, name = cache.store, variant_name(HASHED, PLAN)
        store.ledger.add(name, 10, is_verified=True)
        with none_left():
            assert store.open_variant(HASHED, PLAN, "digest") is None
        assert name in store.ledger

        assert store.open_variant(HASHED, PLAN, "digest") is None  # there is no such file
        assert name not in store.ledger
