"""The purge matrix: a purge meets a request at every place, alone, with a second purge, and on a full disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgproxy.config.sections import PurgeSettings
from imgproxy.failpoints import Point
from tests.support.purge_rows import MIDDLE, NEW, OLD, ROWS, HeldRequest, OwnPoints, Pictures, Row, Stage, noisy_png
from tests.support.site import KEY, Held, poll, site
from tests.support.slow import slow_but
from tests.support.small_disk import fill, small_disk

QUICK = PurgeSettings(drain_s=0.05)
DISK_BYTES = 16_000_000
# Of each kind one: before there are bytes, before they are kept, and as they are sent.
FEW = [row for row in ROWS if row.name in ("fetch", "before-rename", "range")]


@asynccontextmanager
async def staged(tmp_path: Path, row: Row, **sections: Any) -> AsyncIterator[Stage]:
    held = Held()
    pictures = {KEY: noisy_png(OLD)}
    async with site(
        tmp_path, failpoints=held, pictures=pictures, freshness=row.freshness, purge=QUICK, **sections
    ) as here:
        yield Stage(here.library, here.probe, OwnPoints(held), here.edge.url, lambda: here.edge.pool.pids, here.session)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_purge(tmp_path: Path, row: Row) -> None:
    """The purge comes while the request is held at its place."""
    async with staged(tmp_path, row) as stage:
        request = HeldRequest(stage, row)
        await request.begin()
        await stage.library.put(KEY, noisy_png(NEW))
        assert (await stage.purge()).status == 200
        await request.let_go()

        replies = await request.replies()
        if row.place is Point.MID_RESPONSE:
            assert isinstance(replies[0], aiohttp.ClientPayloadError)  # cut: the client sees that it is not whole
        else:
            # It started over and has the new picture: the purge is no error for the client.
            assert [getattr(reply, "status", reply) for reply in replies] == [row.status] * len(replies)
        await Pictures((noisy_png(OLD),), noisy_png(NEW)).assert_only_new(stage, row, *replies)


@pytest.mark.parametrize("row", slow_but(FEW, ROWS), ids=str)
async def test_a_second_purge(tmp_path: Path, row: Row) -> None:
    """The second purge meets the request as it starts over; the picture between the two purges is old as well."""
    async with staged(tmp_path, row) as stage:
        request = HeldRequest(stage, row)
        await request.begin()
        await stage.library.put(KEY, noisy_png(MIDDLE))
        assert (await stage.purge()).status == 200
        await request.begin_again()
        await stage.library.put(KEY, noisy_png(NEW))
        assert (await stage.purge()).status == 200
        await request.let_go()

        replies = await request.replies()
        gone = (noisy_png(OLD), noisy_png(MIDDLE))
        await Pictures(gone, noisy_png(NEW)).assert_only_new(stage, row, *replies)


@pytest.mark.parametrize("row", slow_but(FEW, ROWS), ids=str)
async def test_a_purge_on_a_full_disk(tmp_path: Path, row: Row) -> None:
    """
    The disk is full when the purge comes. Either the purge makes room for its record, or its answer is an error.

    In both cases the picture is not shown. When there is space, the record is written without another request.
    """
    with small_disk(tmp_path / "cache", DISK_BYTES):
        async with staged(tmp_path, row) as stage:
            request = HeldRequest(stage, row)
            await request.begin()
            filler = fill(tmp_path / "cache")
            await stage.library.put(KEY, noisy_png(NEW))
            answer = await stage.purge()
            assert answer.status in (200, 503)
            await request.let_go()
            replies = await request.replies()

            pictures = Pictures((noisy_png(OLD),), noisy_png(NEW))
            assert not [reply for reply in replies if pictures.is_old(reply)]
            assert not pictures.is_old(await stage.send("GET", row.target))
            filler.unlink()
            await poll(lambda: stage.metric("imgproxy_purges_unrecorded"), lambda count: count == 0)
            await pictures.assert_only_new(stage, row, *replies)
