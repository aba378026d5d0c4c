"""Webhook calls: signed, for every media event, at least once, in order for each entry, also after a restart."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sqlite3
import threading
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from imgproxy.medialibrary.operations import AddUsageLogEntry, Archive, RevokeAsset, SetMetadataProperty, UnrevokeAsset
from imgproxy.medialibrary.server import LibraryStore, Webhook
from imgproxy.medialibrary.server.store.library import FILE_NAME, STATE_DIR
from imgproxy.medialibrary.server.webhooks import WebhookSender, backoff_s
from tests.support.library import fill_folder, picture_bytes, running_library

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from imgproxy.medialibrary.server.state import Delivery

SECRET = "s3cret"


@dataclass(slots=True)
class Receiver:
    """Receives webhook calls. Answers with the given statuses, then with 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    calls: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body, _ in self.calls]

    def events(self) -> list[str]:
        return [body["event"].removeprefix("mediaLibraryEntry.") for body in self.bodies()]

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(20), self.news:
            await self.news.wait_for(lambda: len(self.calls) >= count)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        status = self.answers.pop(0) if self.answers else 200
        async with self.news:
            self.calls.append((body, dict(request.headers)))
            self.news.notify_all()
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})


def undelivered(folder: Path) -> int:
    """Return the number of calls that wait in the library's file."""
    with closing(sqlite3.connect(folder / STATE_DIR / FILE_NAME)) as db:
        return int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])


@asynccontextmanager
async def receiver(*answers: int) -> AsyncIterator[Receiver]:
    received = Receiver(answers=list(answers))
    app = web.Application()
    app.router.add_post("/hook", received.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    received.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield received
    finally:
        await runner.cleanup()


async def test_every_event_in_order_and_signed(tmp_path: Path) -> None:
    """Each change of an entry is one signed call with its own deliveryId, in order."""
    async with (
        receiver() as received,
        running_library(tmp_path, "a.png", webhook=Webhook(received.url, SECRET)) as running,
    ):
        library = running.library
        await library.put("b.png", picture_bytes())
        entry_id = library.entry_id("b.png")
        await library.patch(entry_id, SetMetadataProperty("title", "x"), SetMetadataProperty("title", "y"))
        await library.patch(entry_id, RevokeAsset())
        await library.patch(entry_id, UnrevokeAsset())
        await library.mark_invalid(entry_id)
        await library.mark_invalid(entry_id, is_invalid=False)
        await library.patch(entry_id, Archive())
        await library.patch(entry_id, AddUsageLogEntry("web"))
        await library.put("b.png", picture_bytes(20, 20))
        await library.remove("b.png")
        await received.wait_for(9)

    expected = ["create", "update", "revoke", "active", "invalid", "active", "archive", "update", "delete"]
    assert received.events() == expected
    assert len({body["deliveryId"] for body in received.bodies()}) == 9
    assert {body["mediaId"] for body in received.bodies()} == {entry_id}
    assert set(received.bodies()[0]) == {
        "event",
        "deliveryId",
        "projectId",
        "projectHandle",
        "webhookHandle",
        "mediaId",
        "actor",
    }
    for body, headers in received.calls:
        mac = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-livingdocs-signature"] == f"sha256={mac}"
        assert headers["Content-Type"] == "application/json"


async def test_a_refused_call_is_sent_again_and_the_next_waits(tmp_path: Path) -> None:
    """After 500, a redirect and 404 the same body is sent again, before the entry's next event."""
    async with (
        receiver(500, 302, 404) as received,
        running_library(tmp_path, "a.png", webhook=Webhook(received.url)) as running,
    ):
        entry_id = running.library.entry_id("a.png")
        await running.library.patch(entry_id, RevokeAsset())
        await running.library.patch(entry_id, UnrevokeAsset())
        await received.wait_for(5)

    assert received.events() == ["revoke", "revoke", "revoke", "revoke", "active"]
    assert len({body for body, _ in received.calls[:4]}) == 1
    assert all("x-livingdocs-signature" not in headers for _, headers in received.calls)


async def test_one_entry_does_not_wait_for_another(tmp_path: Path) -> None:
    """Another entry's call is delivered before the refused call is sent again."""
    async with (
        receiver(500) as received,
        running_library(tmp_path, "a.png", "b.png", webhook=Webhook(received.url)) as running,
    ):
        first, second = running.library.entry_id("a.png"), running.library.entry_id("b.png")
        await running.library.patch(first, RevokeAsset())
        await received.wait_for(1)
        await running.library.patch(second, RevokeAsset())
        await received.wait_for(3)

    assert [body["mediaId"] for body in received.bodies()] == [first, second, first]


async def test_undelivered_calls_are_delivered_after_a_restart(tmp_path: Path) -> None:
    """Events from before a restart are delivered when the receiver can be reached."""
    async with running_library(tmp_path, "a.png", webhook=Webhook("http://127.0.0.1:9/hook")) as running:
        entry_id = running.library.entry_id("a.png")
        await running.library.patch(entry_id, RevokeAsset())
        await running.library.patch(entry_id, UnrevokeAsset())
        assert undelivered(tmp_path) == 2
    async with receiver() as received, running_library(tmp_path, webhook=Webhook(received.url)) as running:
        await received.wait_for(2)
        async with asyncio.timeout(10):
            while undelivered(tmp_path):
                await asyncio.sleep(0.01)

    assert received.events() == ["revoke", "active"]


class SlowStore(LibraryStore):
    """A store that returns claimed calls only when a test allows it."""

    claimed = threading.Event()
    may_return = threading.Event()

    def claim_deliveries(self, *, limit: int, lease_s: float) -> list[Delivery]:
        due = super().claim_deliveries(limit=limit, lease_s=lease_s)
        self.claimed.set()
        assert self.may_return.wait(10)
        return due


async def test_an_interrupted_claim_is_released(tmp_path: Path) -> None:
    """If a sender stops after it has claimed a call, the call is due at once."""
    store = SlowStore(fill_folder(tmp_path, "a.png"))
    store.scan()
    store.set_webhook(is_on=True)
    store.mark_invalid(store.all_entries()[0].id, is_invalid=True)
    sender = asyncio.create_task(WebhookSender(store, Webhook("http://127.0.0.1:9/hook")).run())
    assert await asyncio.to_thread(store.claimed.wait, 10)
    sender.cancel()
    store.may_return.set()
    await asyncio.gather(sender, return_exceptions=True)
    due = store.claim_deliveries(limit=8, lease_s=15)
    store.close()

    assert [delivery.event for delivery in due] == ["invalid"]


async def test_a_change_made_by_another_process_is_delivered(tmp_path: Path) -> None:
    """A process without a webhook queues calls for a process with one."""
    async with (
        receiver() as received,
        running_library(tmp_path, "a.png", webhook=Webhook(received.url)) as running,
        running_library(tmp_path) as other,
    ):
        entry_id = running.library.entry_id("a.png")
        await other.library.patch(entry_id, RevokeAsset())
        await received.wait_for(1)

    assert received.events() == ["revoke"]


async def test_without_a_webhook_nothing_is_queued(tmp_path: Path) -> None:
    """A library that never had a webhook queues no calls."""
    async with running_library(tmp_path, "a.png") as running:
        await running.library.patch(running.library.entry_id("a.png"), RevokeAsset())

        assert undelivered(tmp_path) == 0


def test_pauses_grow_to_a_minute() -> None:
    """The pause doubles with each attempt up to a minute, and is random between half and all of it."""
    for attempts in range(40):
        longest = min(60.0, 0.25 * 2**attempts)
        assert longest / 2 <= backoff_s(attempts) <= longest
