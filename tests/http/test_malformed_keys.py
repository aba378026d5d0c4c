"""Texts that are no keys: from the keys API, where they must not hide the good keys, and from callers, who get a 400."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from imgproxy.config.origin import OriginSettings
from imgproxy.telemetry.logs import JsonFormatter
from tests.support.images import photo, png
from tests.support.scripted_origin import ScriptedOrigin, scripted_origin
from tests.support.site import ADMIN, Site, site, until
from tests.support.webhooks import deliver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GOOD = "a/f.png"
LONG = "x" * 5_000
# What the keys API lists, and what the receipt says of it.
LISTED: list[object] = ["\ud800x", GOOD, "a//b", "../a", "", "/a.png", "a\nb", LONG, None, {"key": "a"}]
NAMED = ["\\ud800x", "a//b", "../a", "", "/a.png", "a\nb", LONG[:200], "null", '{"key": "a"}']


@asynccontextmanager
async def listing_site(tmp_path: Path, listed: list[object]) -> AsyncIterator[tuple[Site, ScriptedOrigin]]:
    """Start an edge whose origin has one picture under every key, and a keys API that lists these rows."""
    async with scripted_origin(png(photo(40, 30))) as origin:
        origin.listed = listed
        async with site(tmp_path, origin=OriginSettings(url=origin.url, timeout_s=5.0)) as here:
            yield here, origin


@pytest.mark.parametrize("reason", ["manual", "revoke"])
async def test_a_malformed_key_does_not_block_the_purge_of_the_good_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """The good key is gone, the purge is complete, and the receipt and the log name what is no key."""
    caplog.set_level(logging.INFO, "imgproxy")
    async with listing_site(tmp_path, LISTED) as (here, _):
        await here.get(f"/{GOOD}?w=20")
        if reason == "manual":
            reply = await here.purge("entry-1")
        else:
            reply = await deliver(here, f"mediaLibraryEntry.{reason}", "entry-1")
        kept = await here.send("GET", "/-/purges?entry=entry-1", headers=ADMIN)

        assert (reply.status, reply.json()["pending"]) == (200, False)
        assert (reply.json()["keys"], reply.json()["malformed"]) == ([GOOD], NAMED)
        assert kept.json()["purges"][0]["malformed"] == NAMED
        assert "fwd=uri-miss" in (await here.get(f"/{GOOD}?w=20")).cache_status
        assert await here.edge.cache.journal.pending_entries() == ()
    lines = [JsonFormatter().format(record).encode() for record in caplog.records]
    assert any(json.loads(line).get("malformed") == NAMED for line in lines)
    assert any(b"malformed and were left out" in line for line in lines)


async def test_a_malformed_key_does_not_keep_a_purge_pending(tmp_path: Path) -> None:
    """A purge that could not be expanded at once is expanded later, without the malformed key."""
    async with listing_site(tmp_path, LISTED) as (here, origin):
        await here.get(f"/{GOOD}?w=20")
        origin.mode = "answers 500"
        assert (await here.purge("entry-1")).status == 202
        origin.mode = "ok"

        await until(lambda: here.edge.purges.pending == 0)

        assert "fwd=uri-miss" in (await here.get(f"/{GOOD}?w=20")).cache_status
        latest = await here.send("GET", "/-/purges?entry=entry-1", headers=ADMIN)
        assert (latest.json()["purges"][0]["keys"], latest.json()["purges"][0]["malformed"]) == ([GOOD], NAMED)


async def test_a_new_entry_with_a_malformed_key_is_learnt(tmp_path: Path) -> None:
    """The create event is handled: the good key is known from then on."""
    async with listing_site(tmp_path, LISTED) as (here, _):
        assert (await deliver(here, "mediaLibraryEntry.create", "entry-1")).status == 204
        assert await here.edge.cache.journal.keys_of("entry-1") == (GOOD,)


async def test_a_caller_that_names_no_key_gets_400(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The list of keys, the method PURGE, imgix's API and the list of receipts refuse it. Nothing is purged."""
    async with site(tmp_path) as here:
        for key in ("\ud800x", "a\\b", "a//b", "..", "a\0b", "y" * 5_000):
            with subtests.test(key=key):
                quoted = "".join(f"%{byte:02X}" for byte in key.encode("utf-8", "surrogatepass"))
                url = {"data": {"type": "purges", "attributes": {"url": f"https://images.example/{key}"}}}
                replies = [
                    await here.send("POST", "/-/purge/keys", headers=ADMIN, data=json.dumps({"keys": ["a.png", key]})),
                    await here.send(
                        "POST",
                        "/-/purge/keys",
                        headers=ADMIN,
                        data=json.dumps({"keys": [key]}, ensure_ascii=False).encode("utf-8", "surrogatepass"),
                    ),
                    await here.send("POST", "/-/warm/keys", headers=ADMIN, data=json.dumps({"keys": [key]})),
                    await here.send("POST", "/api/v1/purge", headers=ADMIN, data=json.dumps(url)),
                ]
                if len(key) < 100:
                    replies.append(await here.send("PURGE", f"/{quoted}", headers=ADMIN))

                assert {reply.status for reply in replies} == {400}
                assert all(reply.json()["status"] == 400 for reply in replies)
                assert here.edge.cache.epochs.seq == 0


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
async def test_the_command_prints_a_malformed_key(options: tuple[str, ...]) -> None:
    """`imgproxy media keys` lists what the keys API lists; half of a character is written as an escape."""
    async with scripted_origin(b"") as origin:
        origin.listed = ["\ud800x", GOOD]
        command = ("-m", "imgproxy.cli", "media", "--url", origin.url, "keys", "entry-1", *options)
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        written, _ = await process.communicate()

    assert process.returncode == 0
    assert b"\\ud800x" in written
    assert GOOD.encode() in written
