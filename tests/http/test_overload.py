"""An overload: what is refused, in which words, where, and what is answered all the same."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import math
import os
import signal
from typing import TYPE_CHECKING, Literal

import pytest
from PIL import Image

from imgproxy.config.sections import LogSettings, SigningSettings
from tests.support.site import ADMIN, KEY, Site, jpeg, site, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

NAMES = ("first.jpg", "second.jpg", "third.jpg", "fourth.jpg")
PICTURES = {KEY: jpeg(200)} | {name: jpeg(100) for name in NAMES}


@contextlib.contextmanager
def stopped(here: Site) -> Iterator[None]:
    """The one render process stands still."""
    process = here.edge.pool.pids[0]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextlib.asynccontextmanager
async def overloaded(here: Site) -> AsyncIterator[None]:
    """One picture at work that does not end, one behind it, and an overload for as long as the block runs."""
    with stopped(here):
        tasks = [asyncio.create_task(here.get(f"/{name}?w=10")) for name in NAMES[:2]]
        await until(lambda: here.edge.pool.busy == 1 and here.edge.pool.waiting == 1)
        here.edge.admission._overload_until_s = math.inf
        try:
            yield
        finally:
            here.edge.admission._overload_until_s = 0.0
    assert [reply.status for reply in await asyncio.gather(*tasks)] == [200, 200]


async def test_a_picture_that_had_to_be_fetched_is_refused_in_the_usual_words(tmp_path: Path) -> None:
    """The same answer as from the usual way, which HEAD goes; nobody may keep it, and nothing was fetched."""
    async with site(tmp_path, pictures=PICTURES) as here, overloaded(here):
        quick = await here.get("/third.jpg?w=10")
        usual = await here.send("HEAD", "/third.jpg?w=10")

        assert (quick.status, usual.status) == (503, 503)
        assert here.probe.count("serveImage", "third.jpg") == 0
        for name in ("Content-Type", "Cache-Control", "Cache-Status", "X-Content-Type-Options", "Server"):
            assert quick.headers[name] == usual.headers[name]
        assert "Server-Timing" in usual.headers
        assert "Server-Timing" not in quick.headers  # it took the quick way
        assert int(quick.headers["Retry-After"]) >= 1
        assert "Date" in quick.headers
        assert json.loads(quick.body)["type"] == "urn:imgproxy:problem:overloaded"
        assert len(quick.body) == int(usual.headers["Content-Length"])


async def test_all_others_are_answered_as_ever(tmp_path: Path) -> None:
    """Hits, originals, mistakes and the admin routes are no part of the overload."""
    async with site(tmp_path, pictures=PICTURES) as here:
        first = await here.get(f"/{KEY}?w=20")
        async with overloaded(here):
            hit = await here.get(f"/{KEY}?w=20")
            original = await here.get("/fourth.jpg")
            mistake = await here.get("/third.jpg?w64=%21")
            health = await here.get("/-/health")

        assert hit.body == first.body
        assert (hit.status, original.status, mistake.status, health.status) == (200, 200, 400, 200)


async def test_a_fetched_picture_is_refused_only_in_an_overload(tmp_path: Path) -> None:
    """A burst of other sizes waits, however many they are; in an overload a larger size answers if there is one."""
    async with site(tmp_path, pictures=PICTURES) as here:
        await here.get(f"/{KEY}?w=20")
        async with overloaded(here):
            refused = await here.get(f"/{KEY}?w=30&flip=h")
            larger = await here.get(f"/{KEY}?w=10")
        with stopped(here):
            burst = [asyncio.create_task(here.get(f"/{KEY}?w={width}&flip=h")) for width in range(30, 90)]
            await until(lambda: here.edge.variants.under_way == len(burst))
        served = await asyncio.gather(*burst)

        assert refused.status == 503
        assert refused.headers["Cache-Control"] == "no-store"
        assert int(refused.headers["Retry-After"]) >= 1
        assert (larger.status, Image.open(io.BytesIO(larger.body)).size[0]) == (200, 20)
        assert larger.headers["Cache-Control"] == "public, max-age=10, must-revalidate"
        assert {reply.status for reply in served} == {200}


async def test_sizes_that_share_a_decode_come_in_together(tmp_path: Path) -> None:
    """If one of a srcset waits since before the overload, the others cost little more; beyond a job none comes in."""
    async with site(tmp_path, pictures=PICTURES) as here:
        await here.get(f"/{KEY}?w=20")
        with stopped(here):
            tasks = [asyncio.create_task(here.get("/first.jpg?w=10"))]
            await until(lambda: here.edge.pool.busy == 1)
            tasks.append(asyncio.create_task(here.get(f"/{KEY}?w=30&flip=h")))
            await until(lambda: here.edge.pool.waiting == 1)
            here.edge.admission._overload_until_s = math.inf
            srcset = [asyncio.create_task(here.get(f"/{KEY}?w={width}&flip=h")) for width in range(31, 38)]
            await until(lambda: here.edge.variants.under_way == 9)
            one_more = await here.get(f"/{KEY}?w=38&flip=h")
            here.edge.admission._overload_until_s = 0.0
        served = await asyncio.gather(*tasks, *srcset)

        assert one_more.status == 503
        assert {reply.status for reply in served} == {200}
        assert here.metric("imgproxy_refused_total", rule="overload") == 1


async def test_a_signature_is_looked_at_first(tmp_path: Path) -> None:
    """A request without a valid signature is 403, overload or not."""
    async with site(tmp_path, pictures=PICTURES) as here, overloaded(here):
        here.edge.images._settings = here.edge.settings.model_copy(update={"signing": SigningSettings(required=True)})
        reply = await here.get("/third.jpg?w=10")
        here.edge.images._settings = here.edge.settings

        assert reply.status == 403


@pytest.mark.parametrize("access", ["all", "misses", "errors"])
async def test_it_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, access: Literal["all", "misses", "errors"]
) -> None:
    """Each refusal is in the metrics and, unless it is switched off, in the access log."""
    async with site(tmp_path, pictures=PICTURES, log=LogSettings(access=access)) as here:
        with caplog.at_level(logging.INFO, logger="imgproxy.access"):
            async with overloaded(here):
                await here.get("/third.jpg?w=10")
                page = (await here.get("/-/metrics", **ADMIN)).body.decode()

        assert 'imgproxy_requests_total{outcome="error",status="503"} 1.0' in page
        lines = [record.facts for record in caplog.records if hasattr(record, "facts")]
        shed = [line for line in lines if line["status"] == 503]
        assert [(line["target"], line["code"], line["outcome"]) for line in shed] == [
            ("/third.jpg?w=10", "overloaded", "error")
        ]


async def test_the_connection_stays_good(tmp_path: Path) -> None:
    """After a refusal the next request over the same connection is answered."""
    async with site(tmp_path, pictures=PICTURES) as here:
        await here.get(f"/{KEY}?w=20")
        async with overloaded(here):
            host, port = here.edge.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            for target, status in (("/third.jpg?w=10", b"503"), ("/fourth.jpg?w=10", b"503"), (f"/{KEY}?w=20", b"200")):
                writer.write(f"GET {target} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                assert head.split()[1] == status
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            writer.close()
            await writer.wait_closed()


async def test_many_new_pictures_at_once_are_all_served(tmp_path: Path) -> None:
    """More than are fetched ahead, all with a watermark that is new as well: each waits for another, none for ever."""
    pictures = {f"{number}.jpg": jpeg(number) for number in range(30)} | {"mark.jpg": jpeg(9, (20, 20))}
    async with site(tmp_path, pictures=pictures) as here, asyncio.timeout(60):
        replies = await asyncio.gather(*(here.get(f"/{number}.jpg?w=10&mark=/mark.jpg") for number in range(30)))

        assert {reply.status for reply in replies} == {200}
        assert here.probe.count("serveImage", "mark.jpg") == 1
