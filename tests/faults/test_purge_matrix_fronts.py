"""The purge matrix with Varnish or nginx in front: they have no old answer either, and get none that was under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgproxy.config.sections import PurgeSettings
from tests.downstream.front import Kind, fronted
from tests.support.purge_rows import NEW, OLD, ROWS, HeldRequest, OwnPoints, Pictures, Row, Stage, noisy_png
from tests.support.site import KEY, Held

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("kind", ["varnish", "nginx"])
async def test_a_purge_behind(tmp_path: Path, kind: Kind, row: Row) -> None:
    """A request goes through the cache in front, and is held in the edge while the purge comes."""
    held = Held()
    async with fronted(
        tmp_path,
        kind,
        failpoints=held,
        pictures={KEY: noisy_png(OLD)},
        freshness=row.freshness,
        purge=PurgeSettings(drain_s=0.05),
    ) as front:
        here = front.here
        pool = here.edge.pool
        stage = Stage(
            here.library,
            here.probe,
            OwnPoints(held),
            here.edge.url,
            lambda: pool.pids,
            here.session,
            front_url=front.url,
        )
        request = HeldRequest(stage, row)
        await request.begin()
        await here.library.put(KEY, noisy_png(NEW))
        assert (await stage.purge()).status == 200
        await request.let_go()

        replies = await request.replies()
        await Pictures((noisy_png(OLD),), noisy_png(NEW)).assert_only_new(stage, row, *replies)
