"""The purge matrix: a purge meets a request at every place, with more going wrong at the same time."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgproxy.config.sections import PurgeSettings
from imgproxy.failpoints import Point
from tests.support.purge_rows import MIDDLE, NEW, OLD, ROWS, OwnPoints, Pictures, Row, Stage, Standing, noisy_png, poll
from tests.support.site import KEY, Held, site
from tests.support.small_disk import fill, small_disk

QUICK = PurgeSettings(drain_s=0.05)
DISK_BYTES = 16_000_000


@asynccontextmanager
async def staged(tmp_path: Path, row: Row, **sections: Any) -> AsyncIterator[Stage]:
    held = Held()
    pictures = {KEY: noisy_png(OLD)}
    async with site(
        tmp_path, failpoints=held, pictures=pictures, freshness=row.freshness, purge=QUICK, **sections
    ) as here:
        yield Stage(here.library, here.probe, OwnPoints(held), here.edge.url, os.getpid(), here.session)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_purge(tmp_path: Path, row: Row) -> None:
    """A purge goes by while the request stands at its place."""
    async with staged(tmp_path, row) as stage:
        standing = Standing(stage, row)
        await standing.begin()
        await stage.library.put(KEY, noisy_png(NEW))
        assert (await stage.purge()).status == 200
        await standing.let_go()

        replies = await standing.replies()
        if row.place is Point.MID_RESPONSE:
            assert isinstance(replies[0], aiohttp.ClientPayloadError)  # cut: the client cannot take it for the whole
        else:
            # It started over and has the new picture: being overtaken is no error.
            assert [getattr(reply, "status", reply) for reply in replies] == [row.status] * len(replies)
        await Pictures((noisy_png(OLD),), noisy_png(NEW)).assert_only_new(stage, row, *replies)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_second_purge(tmp_path: Path, row: Row) -> None:
    """A second purge meets the request where it starts over; the picture between the two is old as well."""
    async with staged(tmp_path, row) as stage:
        standing = Standing(stage, row)
        await standing.begin()
        await stage.library.put(KEY, noisy_png(MIDDLE))
        assert (await stage.purge()).status == 200
        await standing.begin_again()
        await stage.library.put(KEY, noisy_png(NEW))
        assert (await stage.purge()).status == 200
        await standing.let_go()

        replies = await standing.replies()
        gone = (noisy_png(OLD), noisy_png(MIDDLE))
        await Pictures(gone, noisy_png(NEW)).assert_only_new(stage, row, *replies)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_purge_on_a_full_disk(tmp_path: Path, row: Row) -> None:
    """
    The purge finds no byte of free space. It makes room for its record, or says that it could not and shows nothing.

    Once there is space, the record is made by itself.
    """
    with small_disk(tmp_path / "cache", DISK_BYTES):
        async with staged(tmp_path, row) as stage:
            standing = Standing(stage, row)
            await standing.begin()
            filler = fill(tmp_path / "cache")
            await stage.library.put(KEY, noisy_png(NEW))
            answer = await stage.purge()
            assert answer.status in (200, 503)
            await standing.let_go()
            replies = await standing.replies()

            pictures = Pictures((noisy_png(OLD),), noisy_png(NEW))
            assert not [reply for reply in replies if pictures.is_old(reply)]
            assert not pictures.is_old(await stage.send("GET", row.target))
            filler.unlink()
            await poll(lambda: stage.metric("imgproxy_purges_unrecorded"), lambda count: count == 0)
            await pictures.assert_only_new(stage, row, *replies)
