"""An origin that misbehaves while its pictures are cached: they are served within their bound, and stay cached."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import aiohttp
import pytest
from pydantic import SecretStr
from yarl import URL

from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import (
    AdminSettings,
    CacheSettings,
    FreshnessSettings,
    LogSettings,
    RenderSettings,
)
from imgproxy.config.sections import ServerSettings as Server
from imgproxy.config.settings import Settings
from imgproxy.edge.app import Edge
from imgproxy.errors import ImgproxyError
from tests.support.kept_processes import KeptProcess
from tests.support.scripted_origin import Mode, ScriptedOrigin, scripted_origin
from tests.support.site import ADMIN, KEY, Reply, jpeg, red_of, site, until
from tests.support.slow import slow_but

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BAD: tuple[Mode, ...] = tuple(mode for mode in get_args(Mode) if mode != "ok")
TOKEN_MODES = tuple(mode for mode in BAD if mode.startswith("refuses"))
SERVED_STALE = FreshnessSettings(revalidate_after_s=0, stale_if_error_s=3600, settle_s=0)
NEVER_STALE = FreshnessSettings(revalidate_after_s=0, stale_if_error_s=0, settle_s=0)


@dataclass(frozen=True)
class FrontedOrigin:
    """An edge in front of a scripted origin."""

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
        """Return the age of the oldest unproved original, from its metric."""
        return self.edge.metrics.registry.get_sample_value("imgproxy_oldest_unproved_original_seconds") or 0.0

    async def origin_asked(self) -> None:
        """Wait until no request to the origin is under way."""
        await until(lambda: self.edge.originals.under_way == 0)


@asynccontextmanager
async def fronted_origin(
    tmp_path: Path, freshness: FreshnessSettings, mode: Mode = "ok"
) -> AsyncIterator[FrontedOrigin]:
    async with scripted_origin(jpeg(200)) as origin:
        sections: dict[str, Any] = {
            "server": Server(port=0, shutdown_timeout_s=1),
            "origin": OriginSettings(url=origin.url, token=SecretStr("t"), timeout_s=2 if mode == "hangs" else 20),
            "admin": AdminSettings(token=SecretStr("admin-token")),
            "cache": CacheSettings(dir=tmp_path / "cache", min_free_bytes=0),
            "render": RenderSettings(processes=1),
            "log": LogSettings(access="none"),
            "freshness": freshness,
        }
        edge = Edge(Settings(**sections), process_class=KeptProcess)
        async with edge, aiohttp.ClientSession(auto_decompress=False) as session:
            yield FrontedOrigin(edge, origin, session)


@pytest.mark.parametrize("mode", BAD)
async def test_a_bad_origin_takes_nothing_away(tmp_path: Path, mode: Mode) -> None:
    """Stale pictures are served, nothing is purged or remembered as refused, and the service recovers with its origin."""
    async with fronted_origin(tmp_path, SERVED_STALE, mode) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        here.origin.mode = mode
        for _ in range(2):
            reply = await here.get(f"/{KEY}?w=50")
            assert (reply.status, abs(red_of(reply.body) - 200) <= 3) == (200, True)
            await here.origin_asked()
            # The answers ask the origin once in a while; this asks it once more.
            with pytest.raises(ImgproxyError):
                await here.edge.originals.revalidate(KEY)
        assert here.edge.originals.refusal(KEY) is None
        assert here.unproved_s > 0
        assert (await here.get("/-/ready")).json() == {"status": "ready", "reasons": []}
        assert (await here.get("/-/status")).json()["origin"]["token_dead"] == (mode in TOKEN_MODES)

        here.origin.mode = "ok"
        here.origin.hang_up()
        await here.edge.originals.revalidate(KEY)
        assert here.unproved_s == 0
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        assert (await here.get("/-/ready")).status == 200


@pytest.mark.parametrize("mode", slow_but(["hangs", "refuses the token: 401", "serves HTML with 200"], BAD))
async def test_beyond_its_bound_nothing_stale_is_served(tmp_path: Path, mode: Mode) -> None:
    """After `stale_if_error_s`, a picture whose origin cannot be asked is an error."""
    async with fronted_origin(tmp_path, NEVER_STALE, mode) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        here.origin.mode = mode

        assert (await here.get(f"/{KEY}?w=50")).status in (502, 504)

        here.origin.mode = "ok"
        here.origin.hang_up()
        assert (await here.get(f"/{KEY}?w=50")).status == 200


async def test_without_a_webhook_a_revoked_picture_is_refused_after_its_time(tmp_path: Path) -> None:
    """The takedown bound: after `revalidate_after_s`, one stale answer asks the origin, and the next is a 403."""
    async with site(tmp_path, freshness=SERVED_STALE) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        await here.library.mark_invalid(here.library.entry_id(KEY))
        await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)

        assert (await here.get(f"/{KEY}?w=50")).status == 403
        assert (await here.get(f"/{KEY}")).status == 403
        assert here.metric("imgproxy_oldest_unproved_original_seconds") == 0


@pytest.mark.parametrize("mode", slow_but(["hangs", "answers 404 without the API's form", "resets"], BAD))
async def test_a_purge_is_pending_until_the_media_library_itself_has_answered(tmp_path: Path, mode: Mode) -> None:
    """A load balancer's 404 is no answer: the entry may have keys that are not known yet."""
    async with fronted_origin(tmp_path, SERVED_STALE) as here:
        here.origin.mode = mode

        reply = await here.purge("some-entry")

        assert (reply.status, reply.json()["pending"]) == (202, True)
        here.origin.mode = "ok"
        here.origin.hang_up()
        await until(lambda: here.edge.purges.pending == 0)
        assert await here.edge.cache.journal.pending_entries() == ()
