"""
The edge is killed by SIGKILL: at every place of the purge matrix, and at every step of a commit and of a purge.

The kernel goes on, so everything that was written is there. For a power cut, the journal's record must also be synced
before everything else; SQLite does that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import aiohttp
import pytest

from imgproxy.failpoints import Point
from imgproxy.medialibrary.server import AccessToken, EmbeddedLibrary
from imgproxy.medialibrary.server.probe import Probe
from tests.support.edge_process import EdgeProcess
from tests.support.processes import render_pids
from tests.support.purge_rows import NEW, NOT_SETTLING, OLD, ROWS, SMALL, HeldRequest, Pictures, Row, Stage, noisy_png
from tests.support.site import KEY, poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PICTURES = Pictures((noisy_png(OLD),), noisy_png(NEW))


@dataclass(frozen=True)
class Newsroom:
    """A library with one picture, and an HTTP client."""

    library: EmbeddedLibrary
    probe: Probe
    session: aiohttp.ClientSession

    def stage(self, edge: EdgeProcess) -> Stage:
        return Stage(self.library, self.probe, edge, edge.url, lambda: render_pids(edge.pid), self.session)


@asynccontextmanager
async def newsroom(tmp_path: Path) -> AsyncIterator[Newsroom]:
    picture = tmp_path / "photos" / KEY
    picture.parent.mkdir(parents=True)
    picture.write_bytes(noisy_png(OLD))
    probe = Probe()
    async with (
        EmbeddedLibrary(
            tmp_path / "photos", probe=probe, tokens=[AccessToken("library-token")], scan_interval_s=3600
        ) as library,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield Newsroom(library, probe, session)


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_a_purge_then_a_kill(tmp_path: Path, row: Row) -> None:
    """The edge is killed just after the acknowledgement, while the request is held at its place."""
    async with newsroom(tmp_path) as room:
        async with EdgeProcess(room.library, tmp_path / "cache", row.freshness) as edge:
            request = HeldRequest(room.stage(edge), row)
            await request.begin()
            await room.library.put(KEY, noisy_png(NEW))
            assert (await room.stage(edge).purge()).status == 200
            await edge.kill()
            if not isinstance(row.place, Point):
                await request.let_go()
            replies = await request.replies()

        async with EdgeProcess(room.library, tmp_path / "cache", row.freshness) as edge:
            await PICTURES.assert_only_new(room.stage(edge), row, *replies)


async def test_an_acknowledged_event_survives_a_kill(tmp_path: Path) -> None:
    """After the restart the webhook's purge still holds, and the same delivery is not taken again."""
    secret = "webhook-secret"
    async with newsroom(tmp_path) as room:
        body = json.dumps(
            {
                "event": "mediaLibraryEntry.update",
                "deliveryId": "delivery-1",
                "mediaId": room.library.entry_id(KEY),
                "projectId": 1,
            }
        ).encode()
        signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()

        async def deliver(edge: EdgeProcess) -> int:
            headers = {"x-livingdocs-signature": signature}
            async with room.session.post(f"{edge.url}/-/webhooks/livingdocs", data=body, headers=headers) as answer:
                return answer.status

        secrets = {"IMGPROXY_WEBHOOK__SECRETS": json.dumps([secret])}
        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING, **secrets) as edge:
            assert (await room.stage(edge).send("GET", SMALL)).status == 200
            await room.library.put(KEY, noisy_png(NEW))
            assert await deliver(edge) == 200
            await edge.kill()

        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING, **secrets) as edge:
            await PICTURES.assert_only_new(room.stage(edge), ROWS[0])
            assert await deliver(edge) == 204  # known: nothing is purged again


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["record-order", "confirm", "record", "remember-keys"])
async def test_a_kill_at_a_step_of_an_update(tmp_path: Path, step: str, when: str) -> None:
    """Once the order is recorded, no old byte is served. The event is delivered again, and purges what has changed."""
    secret = "webhook-secret"
    secrets = {"IMGPROXY_WEBHOOK__SECRETS": json.dumps([secret])}
    async with newsroom(tmp_path) as room:
        event = {"event": "mediaLibraryEntry.update", "deliveryId": "d", "mediaId": room.library.entry_id(KEY)}
        body = json.dumps(event).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"x-livingdocs-signature": f"sha256={signature}"}
        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING, **secrets) as edge:
            assert (await room.stage(edge).send("GET", SMALL)).status == 200
            await room.library.put(KEY, noisy_png(NEW))
            await edge.die(step, when)
            with pytest.raises(aiohttp.ClientError):
                await room.session.post(f"{edge.url}/-/webhooks/livingdocs", data=body, headers=headers)
            assert await edge.gone() == -9

        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING, **secrets) as edge:
            if (step, when) == ("record-order", "before"):  # nothing was promised, and nothing is known of the event
                answer = await room.session.post(f"{edge.url}/-/webhooks/livingdocs", data=body, headers=headers)
                assert answer.status == 200
            await PICTURES.assert_only_new(room.stage(edge), ROWS[0])
            async with room.session.post(f"{edge.url}/-/webhooks/livingdocs", data=body, headers=headers) as again:
                assert again.status in (200, 204)
            await PICTURES.assert_only_new(room.stage(edge), ROWS[0])


COMMIT_STEPS = ("begin-file", "commit-original", "commit-facts", "put-in-place", "commit-variant")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", COMMIT_STEPS)
async def test_a_kill_at_a_step_of_a_commit(tmp_path: Path, step: str, when: str) -> None:
    """A half-written file is not served and does not stay; the picture is made anew."""
    async with newsroom(tmp_path) as room:
        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING) as edge:
            await edge.die(step, when)
            with pytest.raises(aiohttp.ClientError):
                await room.stage(edge).send("GET", SMALL)
            assert await edge.gone() == -9

        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING) as edge:
            stage = room.stage(edge)
            reply = await stage.send("GET", SMALL)
            assert (reply.status, replace(PICTURES, now=noisy_png(OLD)).is_old(reply)) == (200, False)
            await poll(lambda: temporary_files(tmp_path), lambda found: found == [])
            await room.library.put(KEY, noisy_png(NEW))
            assert (await stage.purge()).status == 200
            await PICTURES.assert_only_new(stage, ROWS[0])


def temporary_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "keys").glob("*/*/t-*"))


@dataclass(frozen=True)
class PurgeStep:
    """A step of a purge, and what must hold after the edge is killed there."""

    name: str
    when: str
    is_recorded: bool = True
    is_acknowledged: bool = False

    def __str__(self) -> str:
        return f"{self.when}-{self.name}"


PURGE_STEPS = (
    PurgeStep("record", "before", is_recorded=False),
    PurgeStep("record", "after"),
    PurgeStep("rename-away", "before"),
    PurgeStep("rename-away", "after"),
    PurgeStep("remember-keys", "before"),
    PurgeStep("remember-keys", "after"),
    PurgeStep("drain", "before"),
    PurgeStep("drain", "after"),
    PurgeStep("delete", "before", is_acknowledged=True),
    PurgeStep("delete", "after", is_acknowledged=True),
    PurgeStep("sync", "after", is_acknowledged=True),
    PurgeStep("collected", "before", is_acknowledged=True),
    PurgeStep("collected", "after", is_acknowledged=True),
)


@pytest.mark.parametrize("step", PURGE_STEPS, ids=str)
async def test_a_kill_at_a_step_of_a_purge(tmp_path: Path, step: PurgeStep) -> None:
    """
    As soon as its record is written the purge holds, acknowledged or not. Before that it is not acknowledged.

    The keys of the entry are known from an earlier purge, so the record names them.
    """
    async with newsroom(tmp_path) as room:
        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING) as edge:
            stage = room.stage(edge)
            assert (await stage.purge()).status == 200
            assert (await stage.send("GET", SMALL)).status == 200
            assert (await stage.send("GET", f"/{KEY}")).status == 200
            await poll(lambda: list((tmp_path / "cache" / "trash").iterdir()), lambda found: found == [])
            await room.library.put(KEY, noisy_png(NEW))
            await edge.die(step.name, step.when)
            try:
                is_acknowledged = (await stage.purge()).status == 200
            except aiohttp.ClientError:
                is_acknowledged = False
            assert await edge.gone() == -9
            assert step.is_acknowledged or not is_acknowledged

        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING) as edge:
            stage = room.stage(edge)
            if not step.is_recorded:
                assert (await stage.purge()).status == 200
            await PICTURES.assert_only_new(stage, ROWS[0])


async def test_two_processes_do_not_share_a_cache(tmp_path: Path) -> None:
    """A second edge over the directory does not start: it would not know of the purges of the first."""
    async with newsroom(tmp_path) as room:
        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING):
            second = EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING)
            with pytest.raises(AssertionError, match="another imgproxy is using this directory"):
                await second.__aenter__()
        async with EdgeProcess(room.library, tmp_path / "cache", NOT_SETTLING) as third:
            assert (await room.stage(third).send("GET", SMALL)).status == 200
