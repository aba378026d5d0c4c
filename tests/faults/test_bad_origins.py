"""An origin that misbehaves while pictures of it are cached: what is there is served within its bound, and stays."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import aiohttp
import pytest
from pydantic import SecretStr
from yarl import URL

from imgproxy.config.sections import (
    AdminSettings,
    CacheSettings,
    FreshnessSettings,
    LogSettings,
    OriginSettings,
    RenderSettings,
)
from imgproxy.config.sections import ServerSettings as Server
from imgproxy.config.settings import Settings
from imgproxy.edge.app import Edge
from tests.support.scripted_origin import Mode, ScriptedOrigin, scripted_origin
from tests.support.site import ADMIN, KEY, Reply, jpeg, red_of, site, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BAD: tuple[Mode, ...] = tuple(mode for mode in get_args(Mode) if mode != "ok")
TOKEN_MODES = tuple(mode for mode in BAD if mode.startswith("refuses"))
SERVED_STALE = FreshnessSettings(revalidate_after_s=0, stale_if_error_s=3600, settle_s=0)
NEVER_STALE = FreshnessSettings(revalidate_after_s=0, stale_if_error_s=0, settle_s=0)


@dataclass(frozen=True)
class Before:
    """An edge before a scripted origin."""

    edge: Edge
    origin: ScriptedOrigin
    session: aiohttp.ClientSession

    async def get(self, target: str) -> Reply:
        async with self.session.get(URL(self.edge.url + target, encoded=True), headers=ADMIN) as response:
            return Reply(response.status, response.headers, await response.read())

    async def purge(self, entry: str) -> Reply:
        url = f"{self.edge.url}/-/purge/entries/{entry}"
        async with self.session.post(url, headers=ADMIN) as response:
            return Reply(response.status, response.headers, await response.read())

    @property
    def unproved_s(self) -> float:
        """The age of the oldest unproved original, by the metric."""
        return self.edge.metrics.registry.get_sample_value("imgproxy_oldest_unproved_original_seconds") or 0.0

    async def tried_behind(self) -> None:
        """Wait until nothing is asked of the origin any more."""
        await until(lambda: self.edge.originals.under_way == 0)


@asynccontextmanager
async def before(tmp_path: Path, freshness: FreshnessSettings) -> AsyncIterator[Before]:
    async with scripted_origin(jpeg(200)) as origin:
        sections: dict[str, Any] = {
            "server": Server(port=0, shutdown_timeout_s=1),
            "origin": OriginSettings(url=origin.url, token=SecretStr("t"), timeout_s=2),
            "admin": AdminSettings(token=SecretStr("admin-token")),
            "cache": CacheSettings(dir=tmp_path / "cache", min_free_bytes=0),
            "render": RenderSettings(processes=1),
            "log": LogSettings(access="none"),
            "freshness": freshness,
        }
        async with Edge(Settings(**sections)) as edge, aiohttp.ClientSession(auto_decompress=False) as session:
            yield Before(edge, origin, session)


@pytest.mark.parametrize("mode", BAD)
async def test_a_bad_origin_takes_nothing_away(tmp_path: Path, mode: Mode) -> None:
    """Stale is served, nothing is purged or remembered as refused, and all is well when the origin is."""
    async with before(tmp_path, SERVED_STALE) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        here.origin.mode = mode
        for _ in range(3):
            here.edge.originals._retry_at_s.clear()
            reply = await here.get(f"/{KEY}?w=50")
            assert (reply.status, abs(red_of(reply.body) - 200) <= 3) == (200, True)
            await here.tried_behind()
        assert here.edge.originals.refusal(KEY) is None
        assert here.unproved_s > 0
        ready = await here.get("/-/ready")
        assert ("origin_token_dead" in ready.json()["reasons"]) == (mode in TOKEN_MODES)

        here.origin.mode = "ok"
        here.origin.hang_up()
        here.edge.originals._retry_at_s.clear()
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        await here.tried_behind()
        assert here.unproved_s == 0
        assert (await here.get("/-/ready")).status == 200


@pytest.mark.parametrize("mode", BAD)
async def test_beyond_its_bound_nothing_stale_is_served(tmp_path: Path, mode: Mode) -> None:
    """With `stale_if_error_s` used up, an origin that cannot be asked means an error, never the old picture."""
    async with before(tmp_path, NEVER_STALE) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        here.origin.mode = mode

        assert (await here.get(f"/{KEY}?w=50")).status in (502, 504)

        here.origin.mode = "ok"
        here.origin.hang_up()
        assert (await here.get(f"/{KEY}?w=50")).status == 200


async def test_without_any_webhook_a_revoked_picture_stops(tmp_path: Path) -> None:
    """The takedown bound: past `revalidate_after_s`, one answer starts the question, and what follows is a 403."""
    async with site(tmp_path, freshness=SERVED_STALE) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        await here.library.mark_invalid(here.library.entry_id(KEY))
        await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)

        assert (await here.get(f"/{KEY}?w=50")).status == 403
        assert (await here.get(f"/{KEY}")).status == 403
        assert here.metric("imgproxy_oldest_unproved_original_seconds") == 0


@pytest.mark.parametrize("mode", BAD)
async def test_a_purge_is_pending_until_the_origin_itself_has_answered(tmp_path: Path, mode: Mode) -> None:
    """Whatever else answers in its place, a load balancer's 404 above all: the entry may have keys nobody knows yet."""
    async with before(tmp_path, SERVED_STALE) as here:
        here.origin.mode = mode

        reply = await here.purge("some-entry")

        assert (reply.status, reply.json()["pending"]) == (202, True)
        here.origin.mode = "ok"
        here.origin.hang_up()
        await until(lambda: here.edge.purges.pending == 0)
        assert await here.edge.cache.journal.pending_purges() == ()
