"""Purge calls to caches in front: what is sent, when, and what happens if the cache does not confirm."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from imgproxy.cache.entry import key_hash
from imgproxy.cache.outbox import Outbox, Subject
from imgproxy.config.downstream import DownstreamSettings
from imgproxy.config.sections import CacheSettings, FreshnessSettings, PurgeSettings
from imgproxy.failpoints import Point
from imgproxy.medialibrary.operations import RevokeAsset
from tests.support.cdn import Asked, Cdn, Told, cdn, cloudflare, fastly
from tests.support.site import ADMIN, KEY, Held, Site, jpeg, site, until
from tests.support.webhooks import deliver

ONCE = FreshnessSettings(settle_s=0)
QUICK = PurgeSettings(drain_s=0.05)


def tag(key: str) -> str:
    return f"k-{key_hash(key)[:12]}"


def at_fastly(server: Cdn, **options: Any) -> DownstreamSettings:
    server.answer = fastly
    chosen = {"service_id": "SU1Z0isxPaozGVKXdv0eY", "token": SecretStr("fastly-token"), "wait_s": 10, **options}
    return DownstreamSettings(kind="fastly", url=server.url, retry_max_s=0.2, **chosen)


def tags_of(asked: Asked) -> set[str]:
    body = asked.json()
    return set(body.get("surrogate_keys") or body["tags"])


async def purge_keys(here: Site, *keys: str) -> dict[str, Any]:
    reply = await here.send("POST", "/-/purge/keys", headers=ADMIN, json={"keys": list(keys)})
    receipt: dict[str, Any] = reply.json()
    assert reply.status == (202 if receipt["pending"] else 200)
    return receipt


async def lines_of(here: Site) -> list[tuple[Any, ...]]:
    return await here.edge.cache.journal.read(
        "SELECT target, is_entry, name, round FROM outbox ORDER BY round, is_entry"
    )


async def end_the_settle_time(here: Site) -> None:
    """Make every line of the outbox due."""
    await here.edge.cache.journal.write(lambda database: database.execute("UPDATE outbox SET due_at_s = 0"))


async def until_empty(here: Site) -> None:
    await until_rounds_left(here, [])


async def until_rounds_left(here: Site, rounds: list[int]) -> None:
    """Wait until the outbox has exactly these rounds. A line is deleted a moment after the CDN's answer."""
    async with asyncio.timeout(20):
        while [line[3] for line in await lines_of(here)] != rounds:
            await asyncio.sleep(0.01)


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_fastly_is_told_the_tags_of_key_and_entry(tmp_path: Path) -> None:
    """The call has the documented form, the receipt says done, and the outbox is empty."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        entry = here.library.entry_id(KEY)
        reply = await here.purge(entry)

        assert reply.status == 200
        assert reply.json()["downstream"] == [{"name": "fastly", "kind": "fastly", "state": "done", "detail": None}]
        assert reply.json()["pending"] is False
        assert [tags_of(asked) for asked in server.asked] == [{tag(KEY), f"e-{entry}"}]
        await until_empty(here)


async def test_cloudflare_is_called_in_its_form(tmp_path: Path) -> None:
    """The call has a bearer token, the zone in the path, and the tags in the body."""
    async with cdn() as server:
        server.answer = cloudflare
        settings = DownstreamSettings(
            kind="cloudflare",
            name="front",
            url=f"{server.url}/client/v4",
            zone_id="0a" * 16,
            token=SecretStr("cloudflare-token"),
            wait_s=10,
        )
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            receipt = await purge_keys(here, KEY)

            assert receipt["downstream"] == [{"name": "front", "kind": "cloudflare", "state": "done", "detail": None}]
            assert [tags_of(asked) for asked in server.asked] == [{tag(KEY)}]


async def test_any_api_is_called_for_each_key(tmp_path: Path) -> None:
    """Method, URL, headers, body and statuses are as configured; keys are percent-encoded."""
    async with cdn() as server:
        server.answer = lambda asked: Told(404)
        settings = DownstreamSettings(
            kind="http",
            name="squid",
            url=f"{server.url}/purge/{{key}}?soft=no",
            method="DELETE",
            headers={"X-Api-Key": "{token}"},
            body='{"path": "/{key}"}',
            token=SecretStr("s3cret"),
            accept_statuses=(200, 404),
            wait_s=10,
        )
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            receipt = await purge_keys(here, 'a/ü "1".jpg', "b.jpg")

            assert [item["state"] for item in receipt["downstream"]] == ["done"]
            asked = {item.target: item for item in server.asked}
            assert set(asked) == {"/purge/a/%C3%BC%20%221%22.jpg?soft=no", "/purge/b.jpg?soft=no"}
            item = asked["/purge/a/%C3%BC%20%221%22.jpg?soft=no"]
            assert (item.method, item.headers["X-Api-Key"]) == ("DELETE", "s3cret")
            assert item.json() == {"path": '/a/ü "1".jpg'}


@pytest.mark.parametrize(
    ("kind", "count", "sizes"), [("fastly", 600, [256, 256, 88]), ("cloudflare", 250, [100, 100, 50])]
)
async def test_many_keys_go_in_calls_of_the_size_that_the_api_takes(
    tmp_path: Path, kind: str, count: int, sizes: list[int]
) -> None:
    """No call is larger than documented, and none is repeated."""
    async with cdn() as server:
        settings = at_fastly(server)
        if kind == "cloudflare":
            server.answer = cloudflare
            settings = DownstreamSettings(
                kind="cloudflare",
                url=f"{server.url}/client/v4",
                zone_id="0a" * 16,
                token=SecretStr("cloudflare-token"),
                wait_s=10,
            )
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            receipt = await purge_keys(here, *(f"2026/{number}.jpg" for number in range(count)))

            assert receipt["downstream"][0]["state"] == "done"
            assert [len(tags_of(asked)) for asked in server.asked] == sizes
            assert len(set().union(*map(tags_of, server.asked))) == count


async def test_a_cdn_that_is_purged_may_keep_answers_for_a_day(tmp_path: Path) -> None:
    """Without a purged CDN the limit is that of browsers. Errors carry tags, too."""
    async with site(tmp_path / "without") as here:
        assert (await here.get(f"/{KEY}?w=50")).headers["CDN-Cache-Control"].startswith("max-age=300,")
    async with cdn() as server, site(tmp_path / "with", downstream=(at_fastly(server),)) as here:
        reply = await here.get(f"/{KEY}?w=50")
        assert reply.headers["CDN-Cache-Control"].startswith("max-age=86400,")
        await here.library.mark_invalid(here.library.entry_id(KEY))
        await here.purge(here.library.entry_id(KEY))
        refused = await here.get(f"/{KEY}?w=50")
        assert refused.status == 403
        assert tag(KEY) in refused.headers["Surrogate-Key"]


async def test_a_picture_carries_the_tag_of_its_watermark_too(tmp_path: Path) -> None:
    """When the watermark is revoked, that tag purges every picture with it from a CDN."""
    mark = "brand/mark.png"
    async with site(tmp_path, pictures={KEY: jpeg(200), mark: jpeg(20, (40, 40))}) as here:
        for _ in range(3):
            reply = await here.get(f"/{KEY}?w=50&mark=/{mark}")
            assert reply.status == 200
            assert reply.headers["xkey"].split() == [tag(KEY), tag(mark)]
            assert reply.headers["Cache-Tag"] == f"{tag(KEY)},{tag(mark)}"


# --- when ------------------------------------------------------------------------------------------------------------


async def test_a_cdn_is_purged_after_old_answers_have_ended(tmp_path: Path) -> None:
    """While a client receives old bytes, the CDN could receive them, too. Purges of other keys do not wait."""
    held = Held()
    settings = CacheSettings(dir=tmp_path / "cache", min_free_bytes=0, hot_max_bytes=0)
    patient = PurgeSettings(drain_s=20)
    pictures = {KEY: jpeg(200) + bytes(600_000)}
    async with cdn() as server:
        fastly_settings = at_fastly(server)
        async with site(
            tmp_path,
            failpoints=held,
            cache=settings,
            purge=patient,
            freshness=ONCE,
            downstream=(fastly_settings,),
            pictures=pictures,
        ) as here:
            held.hold(Point.MID_RESPONSE)
            request = asyncio.create_task(here.get(f"/{KEY}"))
            await held.arrived(Point.MID_RESPONSE)
            purge = asyncio.create_task(here.send("PURGE", f"/{KEY}", headers=ADMIN))
            await until(lambda: here.edge.cache.epochs.seq == 1)

            assert (await purge_keys(here, "other.jpg"))["pending"] is False
            assert [tags_of(asked) for asked in server.asked] == [{tag("other.jpg")}]
            held.release(Point.MID_RESPONSE)
            await request
            assert (await purge).json()["downstream"][0]["state"] == "done"
            assert [tags_of(asked) for asked in server.asked] == [{tag("other.jpg")}, {tag(KEY)}]


async def test_a_cdn_is_purged_again_after_the_settle_time(tmp_path: Path) -> None:
    """Answers that were on the network during the first purge are removed by the second."""
    again = FreshnessSettings(settle_s=3600)
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=again, purge=QUICK) as here:
        receipt = await purge_keys(here, KEY)
        assert receipt["downstream"][0]["detail"].startswith("again ")
        assert len(server.asked) == 1
        await until_rounds_left(here, [2])

        await end_the_settle_time(here)
        await purge_keys(here, "other.jpg")  # wakes the queue, which sends what is due no later than this
        assert [tag(KEY) in tags_of(asked) for asked in server.asked].count(True) == 2
        await until_rounds_left(here, [2])
        assert [line[2] for line in await lines_of(here)] == ["other.jpg"]


async def test_a_second_round_survives_a_restart(tmp_path: Path) -> None:
    """The outbox has it."""
    settings = FreshnessSettings(settle_s=3600)
    async with cdn() as server:
        async with site(tmp_path, downstream=(at_fastly(server),), freshness=settings, purge=QUICK) as here:
            await purge_keys(here, KEY)
        assert len(server.asked) == 1
        with closing(sqlite3.connect(tmp_path / "cache" / "journal.sqlite")) as database, database:
            database.execute("UPDATE outbox SET due_at_s = 0")
        async with site(tmp_path, downstream=(at_fastly(server),), freshness=settings, purge=QUICK) as here:
            await server.arrived(2)
            await until_empty(here)


async def test_purges_that_the_origin_causes_reach_the_cdn(tmp_path: Path) -> None:
    """A 403 at a revalidation is a purge like any other, and so are other bytes under the same key."""
    other = "2026/03/15/other.jpg"
    at_once = FreshnessSettings(revalidate_after_s=0, settle_s=0)
    pictures = {KEY: jpeg(200), other: jpeg(50)}
    async with (
        cdn() as server,
        site(tmp_path, downstream=(at_fastly(server),), freshness=at_once, pictures=pictures) as here,
    ):
        await here.get(f"/{KEY}?w=50")
        await here.get(f"/{other}?w=50")
        await here.library.patch(here.library.entry_id(KEY), RevokeAsset())
        await here.library.put(other, jpeg(20))
        await here.get(f"/{KEY}?w=50")
        await here.get(f"/{other}?w=50")

        await until(lambda: {tag(KEY), tag(other)} <= set().union(*map(tags_of, server.asked)))


async def test_a_key_learnt_after_the_purge_of_its_entry_is_purged_there_as_well(tmp_path: Path) -> None:
    """The CDN may hold it, even if we do not."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        entry = here.library.entry_id(KEY)
        await here.edge.cache.purge([], reason="revoke", entry=entry)

        await here.edge.purges.learn(entry)

        assert tags_of(server.asked[0]) == {tag(KEY), f"e-{entry}"}


# --- when it does not confirm ----------------------------------------------------------------------------------------


async def test_a_cdn_that_fails_is_asked_until_it_confirms(tmp_path: Path) -> None:
    """The receipt is pending at once, with the reason. The outbox is empty after the confirmation."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        server.answer = lambda asked: Told(500)
        receipt = await purge_keys(here, KEY)

        assert receipt["pending"] is True
        assert receipt["downstream"][0]["state"] == "pending"
        assert receipt["downstream"][0]["detail"] == "HTTP 500"
        await server.arrived(3)
        status = (await here.send("GET", "/-/status", headers=ADMIN)).json()["downstream"]
        assert [(item["name"], item["last_failure"]) for item in status] == [("fastly", "HTTP 500")]
        assert here.metric("imgproxy_outbox_lines", target="fastly") == 1
        assert here.metric("imgproxy_outbox_oldest_age_seconds", target="fastly") > 0
        server.answer = fastly
        await until_empty(here)
        await until(lambda: here.metric("imgproxy_outbox_lines", target="fastly") == 0)
        assert here.metric("imgproxy_downstream_purges_total", target="fastly", result="failed") >= 3
        assert here.metric("imgproxy_downstream_purges_total", target="fastly", result="done") == 1


async def test_a_kept_receipt_says_what_the_cdn_has_confirmed_since(tmp_path: Path) -> None:
    """It says pending while one of its keys is in the outbox, then done. Other keys do not matter."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        server.answer = lambda asked: Told(500)
        receipt = await purge_keys(here, KEY)

        async def kept() -> tuple[bool, str, str | None]:
            found = (await here.get(f"/-/purges/{receipt['seq']}", **ADMIN)).json()
            return found["pending"], found["downstream"][0]["state"], found["downstream"][0]["detail"]

        assert await kept() == (True, "pending", "HTTP 500")
        server.answer = fastly
        await until_empty(here)
        assert await kept() == (False, "done", None)
        server.answer = lambda asked: Told(500)
        await purge_keys(here, "another.jpg")
        assert await kept() == (False, "done", None)


async def test_the_first_success_sends_what_waits_at_once(tmp_path: Path) -> None:
    """After one purge has succeeded, those of the outage do not wait for their next try."""
    async with cdn() as server:
        settings = at_fastly(server).model_copy(update={"retry_max_s": 3600.0})
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            server.answer = lambda asked: Told(500)
            for number in range(12):
                await purge_keys(here, f"{number}.jpg")
            server.answer = fastly
            before = len(server.asked)

            assert (await purge_keys(here, "new.jpg"))["pending"] is False
            await until_empty(here)

            told = set().union(*map(tags_of, server.asked[before:]))
            assert told == {tag("new.jpg"), *(tag(f"{number}.jpg") for number in range(12))}


async def test_a_cdn_that_hangs_does_not_hold_up_the_receipt(tmp_path: Path) -> None:
    """After `wait_s` the receipt is pending. The call goes on and is confirmed."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server, wait_s=0.05),), freshness=ONCE) as here:
        server.gate.clear()
        receipt = await purge_keys(here, KEY)

        assert receipt["downstream"][0]["detail"] == "no answer within 0.05 s"
        server.gate.set()
        await until_empty(here)
        assert len(server.asked) == 1


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(tmp_path: Path) -> None:
    """Servers close idle connections. The call is repeated at once on a new one."""
    connections = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    settings = DownstreamSettings(kind="varnish", url=url, wait_s=10)
    async with server, site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
        receipts = [await purge_keys(here, KEY) for _ in range(3)]

        assert [receipt["pending"] for receipt in receipts] == [False] * 3
        assert connections == 3


@pytest.mark.parametrize("is_there", [True, False])
async def test_what_is_not_confirmed_survives_a_restart(tmp_path: Path, is_there: bool) -> None:
    """This holds if the CDN refused, and if it could not be reached."""
    async with cdn() as server:
        settings = at_fastly(server)
        port = server.port
        if is_there:
            server.answer = lambda asked: Told(502)
            async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
                assert (await purge_keys(here, KEY))["pending"] is True
    if not is_there:
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            detail = (await purge_keys(here, KEY))["downstream"][0]["detail"]
            assert detail == "no connection: the connection was refused: nothing listens there"
    async with cdn(port) as server:
        server.answer = fastly
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            await server.arrived(1)
            assert tags_of(server.asked[0]) == {tag(KEY)}
            await until_empty(here)


async def test_a_crash_between_the_record_and_the_answer_loses_no_line(tmp_path: Path) -> None:
    """The lines are in the transaction of the purge. The next run sends them at once."""
    async with cdn() as server:
        settings = at_fastly(server)
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            lines = here.edge.downstreams.lines([KEY], entry="E")
            await here.edge.cache.purge([KEY], reason="manual", outbox=lines)
            assert server.asked == []
        async with site(tmp_path, downstream=(settings,), freshness=ONCE) as here:
            await server.arrived(1)
            assert tags_of(server.asked[0]) == {tag(KEY), "e-E"}


async def test_a_line_from_a_clock_that_was_ahead_is_due(tmp_path: Path) -> None:
    """A clock that is set back by a year does not delay second rounds by a year."""
    async with cdn() as server:
        settings = at_fastly(server, again_after_s=3600)
        async with site(tmp_path, downstream=(settings,)) as here:
            await purge_keys(here, KEY)
            await until_rounds_left(here, [2])
            await here.edge.downstreams.close()
            await here.edge.cache.journal.write(lambda database: database.execute("UPDATE outbox SET due_at_s = 9e9"))
        server.asked.clear()
        async with site(tmp_path, downstream=(settings,)) as here:
            await server.arrived(1)
            await until_empty(here)


async def test_a_limit_is_waited_out_and_what_came_meanwhile_goes_along(tmp_path: Path) -> None:
    """After 429 there is no call before Retry-After is over, also for new purges. Then one call has them all."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server, wait_s=1),), freshness=ONCE) as here:
        server.answer = lambda asked: Told(429, headers=(("Retry-After", "3"),))
        first = await purge_keys(here, "a.jpg")
        server.answer = fastly
        second = await purge_keys(here, "b.jpg")

        assert (first["downstream"][0]["detail"], second["downstream"][0]["state"]) == ("HTTP 429", "pending")
        await until_empty(here)
        assert [tags_of(asked) for asked in server.asked] == [{tag("a.jpg")}, {tag("a.jpg"), tag("b.jpg")}]
        assert here.metric("imgproxy_downstream_purges_total", target="fastly", result="limited") == 1


async def test_one_subject_that_is_refused_does_not_stop_the_others(tmp_path: Path) -> None:
    """The call is repeated by halves. The receipt says why one is not done; the rest is done."""
    bad = tag("7.jpg")
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        server.answer = lambda asked: Told(400) if bad in tags_of(asked) else fastly(asked)
        receipt = await purge_keys(here, *(f"{number}.jpg" for number in range(20)))

        assert receipt["downstream"][0] == {
            "name": "fastly",
            "kind": "fastly",
            "state": "pending",
            "detail": "HTTP 400",
        }
        assert [line[2] for line in await lines_of(here)] == ["7.jpg"]
        server.answer = fastly
        await until_empty(here)


async def test_the_same_key_purged_often_during_an_outage_is_one_line(tmp_path: Path) -> None:
    """The call that succeeds has the tag once."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        server.answer = lambda asked: Told(500)
        for _ in range(5):
            await purge_keys(here, KEY)
        assert len(await lines_of(here)) == 1
        server.answer = fastly
        server.asked.clear()
        await until_empty(here)
        assert [asked.json()["surrogate_keys"] for asked in server.asked] == [[tag(KEY)]]


async def test_a_confirmation_does_not_cover_a_purge_that_came_after_its_call(tmp_path: Path) -> None:
    """The line of a purge that was recorded during the call stays, and is sent."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server, wait_s=0.05),), freshness=ONCE) as here:
        server.gate.clear()
        await purge_keys(here, KEY)
        await server.arrived(1)
        await here.edge.cache.purge([KEY], reason="manual", outbox=here.edge.downstreams.lines([KEY], entry=None))
        seq = here.edge.cache.epochs.seq
        server.gate.set()
        await until(lambda: here.metric("imgproxy_downstream_purges_total", target="fastly", result="done") == 1)
        await until(lambda: here.edge.downstreams.as_json()[0]["waiting"] == 1)
        assert len(await lines_of(here)) == 1

        await here.edge.downstreams.purge([KEY], entry=None, seq=seq)
        await until_empty(here)
        assert len(server.asked) == 2


async def test_two_caches_are_told_side_by_side(tmp_path: Path) -> None:
    """A failing cache does not delay the other. The receipt lists both."""
    async with cdn() as good, cdn() as bad:
        settings = (at_fastly(good, name="good"), at_fastly(bad, name="bad"))
        bad.answer = lambda asked: Told(500)
        async with site(tmp_path, downstream=settings, freshness=ONCE) as here:
            receipt = await purge_keys(here, KEY)

            assert [(item["name"], item["state"]) for item in receipt["downstream"]] == [
                ("good", "done"),
                ("bad", "pending"),
            ]


async def test_lines_of_a_cache_that_is_no_longer_configured_are_dropped(tmp_path: Path) -> None:
    """They cannot be sent any more."""
    async with cdn() as server:
        async with site(tmp_path, downstream=(at_fastly(server, name="old"),), freshness=ONCE) as here:
            server.answer = lambda asked: Told(500)
            await purge_keys(here, KEY)
        async with site(tmp_path, downstream=(at_fastly(server, name="new"),), freshness=ONCE) as here:
            assert await lines_of(here) == []
        async with site(tmp_path, freshness=ONCE) as here:
            assert (await purge_keys(here, KEY))["downstream"] == []


async def test_a_webhook_is_accepted_while_the_cdn_is_down(tmp_path: Path) -> None:
    """The purge is durable, so the answer is 2xx and Livingdocs does not repeat it. The receipt says pending."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        server.answer = lambda asked: Told(500)
        reply = await deliver(here, "mediaLibraryEntry.revoke", here.library.entry_id(KEY))

        assert reply.status == 202
        assert reply.json()["downstream"][0]["state"] == "pending"


async def test_the_outbox_takes_a_later_purge_of_the_same_subject_over(tmp_path: Path) -> None:
    """The line gets the later number, so that only a call made after that purge can delete it."""
    async with cdn() as server, site(tmp_path, downstream=(at_fastly(server),), freshness=ONCE) as here:
        server.answer = lambda asked: Told(500)
        await purge_keys(here, KEY)
        await purge_keys(here, KEY)
        await here.edge.downstreams.close()
        await end_the_settle_time(here)

        due = await Outbox(here.edge.cache.journal).due("fastly", 1.0, 10)

        assert [(line.subject, line.round, line.seq) for line in due] == [(Subject(KEY), 1, 2)]
