"""Purges by an operator, a webhook or imgix's API, and what they guarantee."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from imgproxy.cache.entry import key_hash
from imgproxy.cache.purge import PurgedKeys
from imgproxy.config.sections import FreshnessSettings, PurgeSettings, ServerSettings, WarmSettings
from imgproxy.errors import CacheUnavailable
from imgproxy.failpoints import Point
from imgproxy.medialibrary.operations import ReplaceAsset, RevokeAsset, UnrevokeAsset
from imgproxy.medialibrary.server import Webhook
from imgproxy.purge.entry_keys import ListedKeys
from imgproxy.purge.key_finder import CALLS_MAX
from imgproxy.purge.service import BEGUN_MAX
from tests.support.frontends import free_port
from tests.support.site import ADMIN, KEY, SECRET, Held, Site, jpeg, poll, red_of, site, until
from tests.support.webhooks import deliver, deliver_raw

OTHER = "2026/03/15/other.jpg"


def files_of(tmp_path: Path) -> list[str]:
    """Every file of a picture in the cache."""
    cache = tmp_path / "cache"
    found = [path for part in ("keys", "trash") for path in (cache / part).rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(cache)) for path in found)


async def test_after_a_revocation_and_a_purge_the_next_answer_is_403_and_no_byte_is_left(tmp_path: Path) -> None:
    """The main guarantee, for every size."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        for query in ("w=100", "w=200&fm=webp", ""):
            assert (await here.get(f"/{KEY}?{query}")).status == 200
        await here.library.patch(entry, RevokeAsset())

        receipt = (await here.purge(entry)).json()
        replies = [await here.get(f"/{KEY}?{query}") for query in ("w=100", "w=200&fm=webp", "", "w=300")]

        assert receipt["entry"] == entry
        assert receipt["keys"] == [KEY]
        assert receipt["variants"] == 2
        assert receipt["bytes"] > 0
        assert receipt["downstream"] == []
        assert receipt["pending"] is False
        assert [reply.status for reply in replies] == [403] * 4
        await until(lambda: files_of(tmp_path) == [])


async def test_a_purge_covers_every_key_of_the_entry(tmp_path: Path) -> None:
    """The keys API also lists keys from before a replacement."""
    async with site(tmp_path, pictures={KEY: jpeg(200), OTHER: jpeg(50)}) as here:
        entry = here.library.entry_id(KEY)
        asset = here.library.store.all_entries()[1].asset
        await here.get(f"/{KEY}?w=50")
        await here.get(f"/{OTHER}?w=50")
        await here.library.patch(
            entry,
            ReplaceAsset(
                key=OTHER,
                url="http://x",
                size_bytes=asset.size_bytes,
                width_px=320,
                height_px=200,
                filename="o",
                mime_type="image/jpeg",
            ),
        )

        receipt = (await here.purge(entry)).json()

        assert sorted(receipt["keys"]) == sorted([KEY, OTHER])
        assert receipt["variants"] == 2


async def test_a_purge_again_is_a_purge_of_nothing(tmp_path: Path) -> None:
    """It is idempotent: the same keys, no variants, 200."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await here.get(f"/{KEY}?w=50")
        first, second = await here.purge(entry), await here.purge(entry)

        assert (first.status, second.status) == (200, 200)
        assert (first.json()["variants"], second.json()["variants"]) == (1, 0)
        assert second.json()["keys"] == [KEY]


async def test_receipts_outlive_a_restart_and_can_be_asked_for(tmp_path: Path) -> None:
    """By entry, by key or by number, newest first: each as it was given, with its reason and time."""
    async with site(tmp_path, pictures={KEY: jpeg(1), OTHER: jpeg(2)}) as here:
        entry = here.library.entry_id(KEY)
        await here.get(f"/{KEY}?w=50")
        revoked = (await here.purge(entry, "?reason=revoke")).json()
        again = (await here.purge(entry)).json()
        other = (await here.send("PURGE", f"/{OTHER}", headers=ADMIN)).json()

    async with site(tmp_path) as here:

        async def asked(query: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await here.get(f"/-/purges{query}", **ADMIN)).json()["purges"]
            return found

        of_all, of_entry, of_other = await asked(""), await asked(f"?entry={entry}"), await asked(f"?key={OTHER}")
        latest, of_none = await asked("?limit=1"), await asked("?entry=nobody")
        one = await here.get(f"/-/purges/{revoked['seq']}", **ADMIN)

    assert [item["seq"] for item in of_all] == [other["seq"], again["seq"], revoked["seq"]]
    assert (of_entry, of_other, latest, of_none) == (of_all[1:], of_all[:1], of_all[:1], [])
    assert one.json() == of_all[2]
    assert of_all[2].pop("at").startswith("20")
    assert of_all[2] == {**revoked, "reason": "revoke"}
    assert (revoked["keys"], revoked["variants"]) == ([KEY], 1)


async def test_a_wrong_request_for_receipts_says_what_was_expected(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """An unknown number is 404; other wrong values and filters are 400. All need the token."""
    async with site(tmp_path) as here:
        for path, status, kind in (
            ("/-/purges/9", 404, "receipt-not-found"),
            ("/-/purges/nine", 400, "bad-purge"),
            ("/-/purges/" + 30 * "9", 400, "bad-purge"),
            ("/-/purges?limit=0", 400, "bad-purge"),
            ("/-/purges?limit=1001", 400, "bad-purge"),
            ("/-/purges?entries=x", 400, "bad-purge"),
            ("/-/purges?entry=a%2Fb", 400, "bad-purge"),
            ("/-/purges?entry=%FF%00", 400, "bad-purge"),
            ("/-/purges?key=a%2F..%2Fb", 400, "bad-url"),
        ):
            with subtests.test(path=path, status=status, kind=kind):
                answer = await here.get(path, **ADMIN)
                open_answer = await here.get(path)
                assert (answer.status, answer.json()["type"]) == (status, f"urn:imgproxy:problem:{kind}")
                assert open_answer.status == 401


async def test_an_edited_picture_is_new_after_its_purge(tmp_path: Path) -> None:
    """The other bytes under the same key are fetched, and have another entity tag."""
    async with site(tmp_path) as here:
        before = await here.get(f"/{KEY}?w=50")
        await here.library.put(KEY, jpeg(20))
        await here.purge(here.library.entry_id(KEY))

        after = await here.get(f"/{KEY}?w=50", If_None_Match=before.headers["ETag"])

        assert after.status == 200
        assert abs(red_of(after.body) - 20) <= 2
        assert after.headers["ETag"] != before.headers["ETag"]


async def test_keys_can_be_purged_without_their_entry(tmp_path: Path) -> None:
    """A list of keys works, and so does the method PURGE on an image's URL with any parameters."""
    async with site(tmp_path, pictures={KEY: jpeg(1), OTHER: jpeg(2)}) as here:
        for key in (KEY, OTHER):
            await here.get(f"/{key}?w=50")
        by_list = await here.send(
            "POST", "/-/purge/keys", headers=ADMIN, json={"keys": [KEY, "/" + KEY, "x/unknown.jpg"]}
        )
        by_method = await here.send("PURGE", f"/{OTHER}?w=999&s=x", headers=ADMIN)

        assert (by_list.json()["entry"], by_list.json()["keys"]) == (None, [KEY, "x/unknown.jpg"])
        assert by_list.json()["variants"] == 1
        assert by_method.json()["keys"] == [OTHER]
        assert by_method.json()["variants"] == 1
        assert "fwd=uri-miss" in (await here.get(f"/{KEY}?w=50")).cache_status


async def test_imgixs_purge_api_answers_200_on_repeats(tmp_path: Path) -> None:
    """It takes both content types and any host, and ignores the query, as a Livingdocs server needs."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}?w=50")
        body = {"data": {"type": "purges", "attributes": {"url": f"https://images.example/{KEY}?auto=format&s=abc"}}}
        first = await here.send("POST", "/api/v1/purge", headers=ADMIN, json=body)
        second = await here.send(
            "POST",
            "/api/v1/purge",
            headers={**ADMIN, "Content-Type": "application/vnd.api+json"},
            data=json.dumps(body).encode(),
        )

        odd = json.dumps(body).replace("s=abc", "s=\\ud800")
        third = await here.send("POST", "/api/v1/purge", headers=ADMIN, data=odd.encode())

        assert (first.status, second.status, third.status) == (200, 200, 400)
        assert first.json()["meta"]["variants"] == 1
        assert "fwd=uri-miss" in (await here.get(f"/{KEY}?w=50")).cache_status


async def test_a_body_without_a_list_of_keys_is_400(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Nothing is purged."""
    async with site(tmp_path) as here:
        for body in (b"", b"no", b"[]", b"{}", b'{"keys": []}', b'{"keys": [1]}', b'{"keys": "a"}', b"[" * 100_000):
            with subtests.test(body=body):
                reply = await here.send("POST", "/-/purge/keys", headers=ADMIN, data=body)

                assert reply.status == 400
                assert reply.json()["type"] == "urn:imgproxy:problem:bad-purge"
                assert here.edge.cache.epochs.seq == 0


async def test_a_body_over_its_limit_is_413(tmp_path: Path) -> None:
    """A body over the limit is refused."""
    async with site(tmp_path, purge=PurgeSettings(max_body_bytes=1000)) as here:
        reply = await here.send("POST", "/-/purge/keys", headers=ADMIN, data=b"x" * 2000)

        assert reply.status == 413


async def test_an_unknown_entry_is_404(tmp_path: Path) -> None:
    """A typo in an id does not look like a successful purge."""
    async with site(tmp_path) as here:
        reply = await here.purge("nobody")

        assert reply.status == 404
        assert "nobody" in reply.json()["detail"]


async def test_a_purge_without_the_keys_api_purges_known_keys_and_is_pending(tmp_path: Path) -> None:
    """The answer is 202 at once, with the keys last seen purged. The rest follows when the API is back."""
    settings = PurgeSettings(retry_max_s=1)
    async with site(tmp_path, purge=settings) as here:
        entry = here.library.entry_id(KEY)
        await here.purge(entry)
        await here.get(f"/{KEY}?w=50")
        await here.library.stop()

        reply = await here.purge(entry)

        assert reply.status == 202
        assert reply.json()["pending"] is True
        assert reply.json()["keys"] == [KEY]
        assert reply.json()["variants"] == 1
        assert await here.edge.cache.journal.pending_entries() == (entry,)
        await here.library.start()
        await until(lambda: here.probe.count("keys", entry) >= 2)
        await _until_expanded(here)


async def test_a_pending_purge_is_taken_up_after_a_restart(tmp_path: Path) -> None:
    """The journal has the purges that are still to be expanded."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await here.library.stop()
        assert (await here.purge(entry)).status == 202
        await here.library.start()
    async with site(tmp_path) as here:
        await _until_expanded(here)
        assert await here.edge.cache.journal.keys_of(entry) == (KEY,)


async def test_a_deleted_entry_is_purged_by_the_keys_last_seen(tmp_path: Path) -> None:
    """After the deletion only the journal knows the keys."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await here.purge(entry)
        await here.get(f"/{KEY}?w=50")
        await here.library.remove(KEY)

        reply = await here.purge(entry, "?reason=delete")

        assert (reply.status, reply.json()["keys"], reply.json()["variants"]) == (200, [KEY], 1)
        assert (await here.get(f"/{KEY}?w=50")).status == 404


async def test_purges_of_one_entry_at_once_are_few(tmp_path: Path) -> None:
    """Twenty calls share the next purge. It begins after all of them, so it covers each."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await here.get(f"/{KEY}?w=50")

        replies = await asyncio.gather(*(here.purge(entry) for _ in range(20)))

        assert {reply.status for reply in replies} == {200}
        assert here.probe.count("keys", entry) <= 3


async def test_a_soft_purge_serves_once_more_and_revalidates(tmp_path: Path) -> None:
    """The old variant is served once. The revalidation finds the change and purges."""
    async with site(tmp_path, freshness=FreshnessSettings(settle_s=0)) as here:
        entry = here.library.entry_id(KEY)
        await here.get(f"/{KEY}?w=50")
        await here.library.put(KEY, jpeg(20))

        receipt = await here.purge(entry, "?soft=1")
        stale = await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)
        fresh = await here.get(f"/{KEY}?w=50")

        assert receipt.json()["soft"] is True
        assert abs(red_of(stale.body) - 200) <= 2
        assert abs(red_of(fresh.body) - 20) <= 2


async def test_purges_of_many_entries_at_once_ask_for_a_few_at_a_time(tmp_path: Path) -> None:
    """All are acknowledged as complete: the wait for a turn does not count as silence of the keys API."""
    most = running = 0
    async with site(tmp_path, purge=PurgeSettings(expand_timeout_s=60)) as here:
        entry, ask = here.library.entry_id(KEY), here.edge.entries.ask

        async def ask_and_count(entry: str) -> ListedKeys:
            nonlocal most, running
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0.01)
                return await ask(real)
            finally:
                running -= 1

        real, here.edge.entries.ask = entry, ask_and_count  # type: ignore[method-assign]

        replies = await asyncio.gather(*(here.purge(f"entry-{number}") for number in range(80)))

        assert {reply.status for reply in replies} == {200}
        assert 1 < most <= CALLS_MAX


async def test_a_few_purges_of_a_storm_are_recorded_at_a_time(tmp_path: Path) -> None:
    """Hits have their turns between them. Purges that the disk refuses make room for the next ones."""
    most = running = 0
    async with site(tmp_path) as here:
        record = here.edge.cache.purge

        async def record_and_count(*args: Any, **options: Any) -> PurgedKeys:
            nonlocal most, running
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0.01)
                return await record(*args, **options)
            finally:
                running -= 1

        async def refuse(*args: Any, **options: Any) -> PurgedKeys:
            raise CacheUnavailable

        here.edge.cache.purge = refuse  # type: ignore[method-assign]
        refused = await asyncio.gather(*(here.purge(f"entry-{number}") for number in range(2 * BEGUN_MAX)))
        here.edge.cache.purge = record_and_count  # type: ignore[method-assign]
        replies = await asyncio.gather(*(here.purge(f"entry-{number}") for number in range(80)))

        assert ({reply.status for reply in refused}, {reply.status for reply in replies}) == ({503}, {404})
        assert 1 < most <= BEGUN_MAX


async def test_an_api_that_is_silent_keeps_no_purge_of_a_storm(tmp_path: Path) -> None:
    """Also those that wait for their turn are acknowledged as pending."""
    async with site(tmp_path, purge=PurgeSettings(expand_timeout_s=0.2)) as here:

        async def say_nothing(entry: str) -> ListedKeys:
            del entry
            await asyncio.Event().wait()
            raise AssertionError

        here.edge.entries.ask = say_nothing  # type: ignore[method-assign]

        replies = await asyncio.gather(*(here.purge(f"entry-{number}") for number in range(80)))

        assert {reply.status for reply in replies} == {202}


@pytest.mark.parametrize("point", [point for point in Point if point is not Point.MID_RESPONSE])
async def test_a_request_under_way_does_not_hide_a_soft_purge(tmp_path: Path, point: Point) -> None:
    """What it fetched or made before the soft purge is served once more at most: no later answer is a fresh hit with it."""
    held = Held()
    async with site(tmp_path, failpoints=held, freshness=FreshnessSettings(settle_s=0)) as here:
        entry = here.library.entry_id(KEY)
        await here.edge.purges.learn(entry)
        held.hold(point)
        under_way = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(point)
        receipt = await here.purge(entry, "?soft=1")
        held.release(point)
        await under_way
        await here.library.put(KEY, jpeg(20))

        once_more = await here.get(f"/{KEY}?w=50")
        await until(lambda: here.edge.originals.under_way == 0)

        assert receipt.status == 200
        assert "ttl=-" in once_more.cache_status
        assert abs(red_of((await here.get(f"/{KEY}?w=50")).body) - 20) <= 2


@pytest.mark.parametrize("reason", ["revoke", "invalid", "delete", "Revoke"])
async def test_a_takedown_is_never_soft(tmp_path: Path, reason: str) -> None:
    """A revoked picture must not be served once more."""
    async with site(tmp_path) as here:
        reply = await here.purge(here.library.entry_id(KEY), f"?soft=1&reason={reason}")

        assert reply.status == 400
        assert "hard purge" in reply.json()["detail"]


# --- settling --------------------------------------------------------------------------------------------------------


async def test_an_original_fetched_just_after_a_purge_is_revalidated_when_the_settle_time_ends(tmp_path: Path) -> None:
    """If a lagging replica served the old picture, it does not stay in the cache."""
    async with site(tmp_path, freshness=FreshnessSettings(settle_s=600)) as here:
        await here.purge(here.library.entry_id(KEY))
        assert abs(red_of((await here.get(f"/{KEY}?w=50")).body) - 200) <= 2
        await here.library.put(KEY, jpeg(20))
        assert abs(red_of((await here.get(f"/{KEY}?w=50")).body) - 200) <= 2

        await end_the_settle_time(here)
        await poll(lambda: here.get(f"/{KEY}?w=50"), lambda reply: abs(red_of(reply.body) - 20) <= 2)


async def end_the_settle_time(here: Site) -> None:
    """Make every check due. How long the settle time is, and that it ends, is in tests/unit/test_settling.py."""
    await here.edge.settling.close()
    await here.edge.cache.journal.write(lambda database: database.execute("UPDATE settling SET due_at_s = 0"))
    await here.edge.settling.start()


async def test_the_check_survives_a_restart(tmp_path: Path) -> None:
    """The journal has the keys that are to be checked."""
    async with site(tmp_path, freshness=FreshnessSettings(settle_s=600)) as here:
        await here.purge(here.library.entry_id(KEY))
        await here.get(f"/{KEY}?w=50")
        await here.library.put(KEY, jpeg(20))
    async with site(tmp_path, freshness=FreshnessSettings(settle_s=0.1)) as here:
        await until(lambda: here.edge.settling.pending == 0)

        assert abs(red_of((await here.get(f"/{KEY}?w=50")).body) - 20) <= 2


# --- webhooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["revoke", "invalid", "archive", "update", "active"])
async def test_events_that_change_a_picture_purge_it(tmp_path: Path, kind: str) -> None:
    """The receipt is the webhook's answer."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}?w=50")
        reply = await deliver(here, f"mediaLibraryEntry.{kind}", here.library.entry_id(KEY))

        assert (reply.status, reply.json()["variants"]) == (200, 1)
        assert "fwd=uri-miss" in (await here.get(f"/{KEY}?w=50")).cache_status


async def test_a_delete_event_purges_the_keys_learnt_by_the_create_event(tmp_path: Path) -> None:
    """After the deletion the keys API cannot be asked any more."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        assert (await deliver(here, "mediaLibraryEntry.create", entry)).status == 204
        tagged = await here.get(f"/{KEY}?w=50")
        await here.library.remove(KEY)

        reply = await deliver(here, "mediaLibraryEntry.delete", entry, delivery="d-2")

        assert tagged.headers["Surrogate-Key"].endswith(f" e-{entry}")
        assert (reply.status, reply.json()["variants"]) == (200, 1)
        assert (await here.get(f"/{KEY}?w=50")).status == 404


async def test_a_create_event_fails_until_its_keys_are_known(tmp_path: Path) -> None:
    """While the keys API does not answer, it is not acknowledged and its delivery is not remembered."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await here.library.stop()
        assert (await deliver(here, "mediaLibraryEntry.create", entry)).status == 502
        await here.library.start()

        assert (await deliver(here, "mediaLibraryEntry.create", entry)).status == 204
        assert await here.edge.cache.journal.keys_of(entry) == (KEY,)


@pytest.mark.parametrize("on_create", [True, False])
async def test_a_create_event_makes_the_configured_variants_if_configured(tmp_path: Path, on_create: bool) -> None:
    """The first request for a new picture is then a hit. By default nothing is rendered ahead."""
    settings = WarmSettings(queries=("w=50", "w=60"), accept=("legacy",), on_create=on_create)
    async with site(tmp_path, warm=settings) as here:
        assert (await deliver(here, "mediaLibraryEntry.create", here.library.entry_id(KEY))).status == 204
        if on_create:
            await until(lambda: len(here.edge.cache.hot.names()) == 2)
        answers = [await here.get(f"/{KEY}?w={width}") for width in (50, 60)]

        assert ["hit" in answer.cache_status for answer in answers] == [on_create] * 2


async def test_an_active_event_forgets_the_refusal(tmp_path: Path) -> None:
    """An unrevoked picture is served at once, before the remembered 403 expires."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await here.library.patch(entry, RevokeAsset())
        assert (await here.get(f"/{KEY}?w=50")).status == 403
        await here.library.patch(entry, UnrevokeAsset())
        assert (await here.get(f"/{KEY}?w=50")).status == 403

        await deliver(here, "mediaLibraryEntry.active", entry)

        assert (await here.get(f"/{KEY}?w=50")).status == 200


async def test_other_events_are_204_and_do_nothing(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Livingdocs may send them to the same URL."""
    async with site(tmp_path) as here:
        for event in ("document.update", "publication.update", "mediaLibraryEntry.unheard-of"):
            with subtests.test(event=event):
                reply = await deliver(here, event, here.library.entry_id(KEY))

                assert (reply.status, reply.body) == (204, b"")
                assert here.edge.cache.epochs.seq == 0


async def test_a_delivery_is_handled_once_also_after_a_restart(tmp_path: Path) -> None:
    """A repeated deliveryId is acknowledged and does nothing."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        await deliver(here, "mediaLibraryEntry.update", entry)
        await here.get(f"/{KEY}?w=50")
        assert (await deliver(here, "mediaLibraryEntry.update", entry)).status == 204
    async with site(tmp_path) as here:
        assert (await deliver(here, "mediaLibraryEntry.update", entry)).status == 204
        assert "hit" in (await here.get(f"/{KEY}?w=50")).cache_status


@pytest.mark.parametrize("event", ["mediaLibraryEntry.revoke", "mediaLibraryEntry.update"])
async def test_a_delivery_id_that_was_used_before_does_not_hide_another_event(tmp_path: Path, event: str) -> None:
    """A delivery is repeated only if id and body are: another event, or the same one for another entry, is handled."""
    async with site(tmp_path, pictures={KEY: jpeg(200), "b.jpg": jpeg(20)}) as here:
        await here.get(f"/{KEY}?w=50")
        await deliver(here, "mediaLibraryEntry.update", here.library.entry_id("b.jpg"))

        reply = await deliver(here, event, here.library.entry_id(KEY))

        assert (reply.status, reply.json()["variants"]) == (200, 1)
        assert (await deliver(here, event, here.library.entry_id(KEY))).status == 204


async def test_a_webhook_needs_a_signature_by_a_configured_secret(tmp_path: Path) -> None:
    """A missing signature, a wrong one, and one of other bytes are 401. Nothing is purged."""
    async with site(tmp_path) as here:
        entry = here.library.entry_id(KEY)
        assert (await deliver(here, "mediaLibraryEntry.revoke", entry, secret="guess")).status == 401
        bare = await here.send("POST", "/-/webhooks/livingdocs", data=b"{}")
        assert (bare.status, bare.json()["type"]) == (401, "urn:imgproxy:problem:bad-webhook-signature")
        assert (await deliver_raw(here, b"{}", "sha256=\udce4\udcff")).status == 401
        assert here.edge.cache.epochs.seq == 0


async def test_an_id_that_no_entry_can_have_is_400(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Its purge could never be expanded, and would be tried for ever."""
    async with site(tmp_path) as here:
        for entry in ("", ".", "..", "a/b", "a\0b", "\ud800"):
            with subtests.test(entry=entry):
                event = await deliver(here, "mediaLibraryEntry.revoke", entry)
                purge = await here.purge(quote(entry, safe="", errors="surrogatepass").replace(".", "%2E"))

                assert event.status == 400
                assert purge.status == (400 if entry not in ("", "\ud800") else 404)
                assert (here.edge.cache.epochs.seq, here.edge.purges.pending) == (0, 0)


async def test_a_delivery_id_that_is_not_text_is_400(tmp_path: Path) -> None:
    """Half of a surrogate pair cannot be written into the journal."""
    async with site(tmp_path) as here:
        reply = await deliver(here, "mediaLibraryEntry.update", here.library.entry_id(KEY), delivery="\ud800")

        assert (reply.status, here.edge.cache.epochs.seq) == (400, 0)


async def test_the_librarys_own_webhook_takes_a_revoked_picture_down(tmp_path: Path) -> None:
    """End to end: the library revokes and calls the webhook, the edge answers 403, and serves again after the unrevoke."""
    port = free_port()
    hook = Webhook(f"http://127.0.0.1:{port}/-/webhooks/livingdocs", SECRET)
    async with site(tmp_path, library={"webhook": hook}, server=ServerSettings(port=port)) as here:
        entry = here.library.entry_id(KEY)
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        await here.library.patch(entry, RevokeAsset())
        await until(lambda: here.edge.cache.facts(key_hash(KEY)) is None)
        assert (await here.get(f"/{KEY}?w=50")).status == 403
        await here.library.patch(entry, UnrevokeAsset())
        async with asyncio.timeout(20):
            while (await here.get(f"/{KEY}?w=50")).status != 200:
                await asyncio.sleep(0.02)


async def _until_expanded(here: Site) -> None:
    async with asyncio.timeout(20):
        while await here.edge.cache.journal.pending_entries():
            await asyncio.sleep(0.02)
