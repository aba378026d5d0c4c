"""
Scenarios for a service with several doors: the nodes of a cluster, or what stands in front of them.

A purge is sent to one door, and the answers of all doors are checked. The scenarios of the other module run, too: each door
answers in turn, and the next one is purged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from .origin import PATIENCE_S, SUFFIX, Origin, Picture, entry_of
from .pictures import NEW, OLD
from .scenarios import Outcome, Stage, expect, run
from .targets import Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Results = list[tuple[Target, dict[str, Outcome]]]
ROUNDS = 4
WORDS = {OLD: "old", NEW: "new"}


@dataclass(frozen=True, slots=True)
class Doors:
    """
    One service with several doors; each is purged as its target says.

    With a webhook secret, the service is taken for imgproxy: it gets webhooks, and is asked for receipts.
    """

    name: str
    doors: tuple[Target, ...]
    webhook_secret: str | None = None

    def pairs(self) -> list[Target]:
        """Return each door as a target whose purges go to the next door."""
        return [
            replace(
                asked,
                name=f"{asked.name}, purged at {purged.name}",
                purge_by=purged.purge_by,
                purge_url=purged.purge_url or purged.url,
                purge_headers=purged.purge_headers,
                service=self.name,
            )
            for asked, purged in zip(self.doors, (*self.doors[1:], self.doors[0]), strict=True)
        ]


class Stages:
    """One picture, and a stage for each door. Doors are counted from 0; the one after the last is the first."""

    def __init__(self, service: Doors, origin: Origin, session: aiohttp.ClientSession, name: str) -> None:
        self.service = service
        self.name = name
        self.each = [Stage(door, origin, session, name) for door in service.doors]
        self._session = session

    @property
    def picture(self) -> Picture:
        """The picture at the origin."""
        return self.each[0].picture

    def stage(self, number: int) -> Stage:
        """Return the stage of a door."""
        return self.each[number % len(self.each)]

    def replace(self) -> str:
        """Replace the picture at the origin, each time by the other version. Returns the word for what it is now."""
        self.picture.version = OLD if self.picture.version == NEW else NEW
        return WORDS[self.picture.version]

    async def fill(self, *queries: str) -> None:
        """Ask for the picture at every door."""
        await asyncio.gather(*(stage.get(query) for stage in self.each for query in queries or ("",)))

    async def ask(self, *queries: str) -> list[str]:
        """Ask for the picture at every door. Returns what was seen: with the name of the door, if not all saw the same."""
        asked = [(stage, query) for stage in self.each for query in queries or ("",)]
        seen = await asyncio.gather(*(stage.ask(query) for stage, query in asked))
        if len(set(seen)) == 1:
            return [seen[0]]
        return [f"{word} at {stage.target.name}" for (stage, _), word in zip(asked, seen, strict=True)]

    async def deliver(self, number: int, event: str, delivery: str) -> int:
        """Send a webhook about this picture's entry to a door. Returns the status of the answer."""
        body = json.dumps(
            {"event": f"mediaLibraryEntry.{event}", "deliveryId": delivery, "mediaId": entry_of(self.name)}
        )
        secret = (self.service.webhook_secret or "").encode()
        signature = "sha256=" + hmac.new(secret, body.encode(), hashlib.sha256).hexdigest()
        url = self.stage(number).target.url.rstrip("/") + "/-/webhooks/livingdocs"
        async with self._session.post(url, data=body, headers={"x-livingdocs-signature": signature}) as response:
            await response.read()
            return response.status

    async def receipts(self, number: int) -> list[dict[str, Any]]:
        """Ask a door for the receipts of this picture, newest first."""
        target = self.stage(number).target
        url = URL(f"{target.url.rstrip('/')}/-/purges?key={self.name}", encoded=True)
        async with self._session.get(url, headers=target.purge_headers) as response:
            answer = await response.json(content_type=None)
            return list(answer["purges"])


async def kept_everywhere(stages: Stages) -> Outcome:
    """Every door has every size. A purge at one of them, at each in turn, removes all of them from every door."""
    queries, seen, wanted = ("", "w=40", "w=60"), list[str](), list[str]()
    for stage in stages.each:
        await stages.fill(*queries)
        wanted.append(stages.replace())
        await stage.purge()
        seen += [_ok(word, wanted[-1]) for word in await stages.ask(*queries)]
    return expect(seen, "new")


async def while_another_renders(stages: Stages) -> Outcome:
    """One door makes many sizes of the picture when another is purged. No size made from the old picture is served."""
    queries = [f"w={width}" for width in range(20, 44)]
    begun = [stages.stage(0).begin(query) for query in queries]
    await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
    stages.replace()
    await stages.stage(1).purge()
    late = await stages.ask(*queries)
    await asyncio.gather(*begun)
    return expect(late + await stages.ask(*queries), "new")


async def while_another_fetches(stages: Stages) -> Outcome:
    """Every door fetches the picture when one of them is purged. The answers that begin after that are new."""
    origin, name = stages.stage(0).origin, stages.name
    origin.hold(name, "headers")
    begun = [stage.begin() for stage in stages.each]
    await origin.arrived(name, "headers")
    with suppress(TimeoutError):  # fewer fetches than doors, if two doors lead to the same node
        await origin.arrived(name, "headers", len({stage.target.url for stage in stages.each}))
    stages.replace()
    await stages.stage(-1).purge()
    origin.release(name, "headers")
    early = [await stage.seen(answer) for stage, answer in zip(stages.each, await asyncio.gather(*begun), strict=True)]
    return expect(early + await stages.ask(), "new")


async def at_two_doors_at_once(stages: Stages) -> Outcome:
    """The picture is replaced again and again, and purged at two doors at the same moment, while all are asked for it."""
    seen: list[str] = []
    for _ in range(ROUNDS):
        await stages.fill()
        wanted = stages.replace()
        await asyncio.gather(stages.stage(0).purge(), stages.stage(1).purge(), stages.fill())
        seen += [_ok(word, wanted) for word in await stages.ask()]
    return expect(seen, "new")


async def revoked(stages: Stages) -> Outcome:
    """The origin revokes the picture. After a purge at one door, every door answers 403."""
    await stages.fill()
    stages.picture.status = 403
    await stages.stage(1).purge()
    return expect(await stages.ask(), "403")


async def webhook(stages: Stages) -> Outcome:
    """The webhook of a revoke comes to one door. Every door answers 403."""
    if stages.service.webhook_secret is None:
        return Outcome(None, "no webhook")
    await stages.fill()
    stages.picture.status = 403
    status = await stages.deliver(0, "revoke", secrets.token_hex(8))
    return _answered(status, expect(await stages.ask(), "403"))


async def webhook_twice(stages: Stages) -> Outcome:
    """The same delivery comes to one door, and then to another. It is handled once: every door has the same receipt."""
    if stages.service.webhook_secret is None:
        return Outcome(None, "no webhook")
    await stages.fill()
    delivery = secrets.token_hex(8)
    statuses = [await stages.deliver(number, "revoke", delivery) for number in range(len(stages.each))]
    found = [await stages.receipts(number) for number in range(len(stages.each))]
    same = _same(found, 1)
    return _answered(max(statuses), Outcome(same, "handled once" if same else f"receipts: {_counts(found)}"))


async def receipts(stages: Stages) -> Outcome:
    """The receipt of a purge can be asked for at every door."""
    if stages.service.webhook_secret is None:
        return Outcome(None, "no receipts")
    await stages.fill()
    await stages.stage(0).purge()
    await stages.stage(1).purge()
    found = [await stages.receipts(number) for number in range(len(stages.each))]
    same = _same(found, 2)
    return Outcome(same, "the same at every door" if same else f"receipts: {_counts(found)}")


def _ok(seen: str, wanted: str) -> str:
    """Return `new` if what was seen is the current picture, and `old` for the one before, with the rest of the text."""
    word, _, rest = seen.partition(" ")
    return " ".join(filter(None, (("new" if word == wanted else "old") if word in WORDS.values() else word, rest)))


def _answered(status: int, outcome: Outcome) -> Outcome:
    """Return the outcome; or a failure, if the webhook was not answered by a status that promises something."""
    return outcome if status in (200, 204) else Outcome(False, f"webhook answered {status}; {outcome.note}")


def _same(found: list[list[dict[str, Any]]], count: int) -> bool:
    """Whether every door has so many receipts, and the same ones."""
    numbers = [[(item["seq"], item["at"]) for item in items] for items in found]
    return all(len(set(items)) == count and items == numbers[0] for items in numbers)


def _counts(found: list[list[dict[str, Any]]]) -> str:
    return ", ".join(str(len(items)) for items in found)


SCENARIOS: tuple[tuple[str, Callable[[Stages], Awaitable[Outcome]]], ...] = (
    ("kept at every door, purged at each in turn", kept_everywhere),
    ("purged at one door while another renders", while_another_renders),
    ("purged at one door while all fetch", while_another_fetches),
    ("purged at two doors at once, several times", at_two_doors_at_once),
    ("revoked, purged at one door", revoked),
    ("webhook at one door", webhook),
    ("the same webhook at every door", webhook_twice),
    ("receipts at every door", receipts),
)


async def run_doors(service: Doors, origin: Origin, only: str | None = None) -> Results:
    """Run every scenario: those of one door for each pair of doors, then those of all doors together."""
    results = [(pair, await run(pair, origin, only)) for pair in service.pairs()]
    found: dict[str, Outcome] = {}
    folder = secrets.token_hex(4)
    connector = aiohttp.TCPConnector(limit=100, force_close=True)
    timeout = aiohttp.ClientTimeout(total=4 * PATIENCE_S)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout) as session:
        for number, (title, scenario) in enumerate(SCENARIOS):
            if only is not None and only not in title:
                continue
            stages = Stages(service, origin, session, f"{folder}/{number:02}{SUFFIX}")
            found[title] = await _play(stages, scenario)
    first = service.doors[0]
    together = Target(f"{service.name}: all doors", first.url, version=first.version, service=service.name)
    return [*results, (together, found)]


async def _play(stages: Stages, scenario: Callable[[Stages], Awaitable[Outcome]]) -> Outcome:
    """Run one scenario. A purge that is not answered by 200 or 204 has promised nothing, so it is a failure, too."""
    try:
        outcome = await scenario(stages)
    except (TimeoutError, aiohttp.ClientError, ValueError, KeyError) as error:
        return Outcome(False, f"gave up: {type(error).__name__}")
    refused = [status for stage in stages.each for status in stage.purges if status not in (None, 200, 204)]
    return Outcome(False, f"{outcome.note} (purge answered {refused})") if refused else outcome
