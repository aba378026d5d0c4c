"""
The scenarios. Each has a picture of its own, and checks what the proxy answers after the purge.

Old and new answers are recognised by comparison. Two reference pictures, one always old and one always new, are
requested in the same way through the same proxy. A variant whose bytes are those of neither is recognised by its pixels:
imgproxy makes sizes that are asked for at the same time from one decode, and their bytes may differ a little.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from .origin import PATIENCE_S, SUFFIX, Origin, Picture, Point
from .pictures import NEW, OLD, version_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .targets import Target

Verdict = bool | None  # None: does not apply


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a scenario. `note`: what was seen."""

    holds: Verdict
    note: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of an answer that are compared. Status 0: the connection broke, or no answer came."""

    status: int
    etag: str | None
    body: bytes
    modified_at: str | None = None


NOTHING = Answer(0, None, b"")


class Stage:
    """The picture of one scenario, with the steps that scenarios are made of."""

    def __init__(self, target: Target, origin: Origin, session: aiohttp.ClientSession, name: str) -> None:
        self.target = target
        self.origin = origin
        self.session = session
        self.name = name
        self.purges: list[int | None] = []

    @property
    def picture(self) -> Picture:
        """The picture at the origin."""
        return self.origin.picture(self.name)

    async def get(self, query: str = "", *, method: str = "GET", of: str | None = None, **headers: str) -> Answer:
        """Request this picture, or another, from the proxy. Underscores in header names become dashes."""
        target = f"/{of or self.name}" + (f"?{query}" if query else "")
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        url = URL(self.target.url.rstrip("/") + target, encoded=True)
        try:
            async with asyncio.timeout(PATIENCE_S), self.session.request(method, url, headers=named) as response:
                found = response.headers
                modified_at = found.get("Last-Modified", found.get("Date"))
                return Answer(response.status, found.get("ETag"), await response.read(), modified_at)
        except (aiohttp.ClientError, TimeoutError):
            return NOTHING

    def begin(self, query: str = "", **headers: str) -> asyncio.Task[Answer]:
        """Send a request, without waiting for the answer."""
        return asyncio.create_task(self.get(query, **headers))

    async def purge(self, query: str = "") -> int | None:
        """Purge the picture in the proxy. Returns the status."""
        self.purges.append(await self.target.purge(self.session, self.name, query))
        return self.purges[-1]

    async def seen(self, answer: Answer, query: str = "", *, method: str = "GET", **headers: str) -> str:
        """Say whether an answer is `old` or `new`, or return its status."""
        if answer.status not in (200, 206):
            return str(answer.status or "broken off")
        for word in ("old", "new"):
            reference = await self.get(query, method=method, of=f"reference/{word}{SUFFIX}", **headers)
            if (reference.etag, reference.body) == (answer.etag, answer.body):
                return word
        return {OLD: "old", NEW: "new"}.get(version_in(answer.body) or 0, "neither old nor new")

    async def ask(self, query: str = "", *, method: str = "GET", **headers: str) -> str:
        """Send a request, and say what was seen."""
        return await self.seen(await self.get(query, method=method, **headers), query, method=method, **headers)

    def replace(self) -> None:
        """Replace the picture at the origin."""
        self.picture.version = NEW


def expect(seen: str | list[str], wanted: str) -> Outcome:
    """Make the outcome: it holds if all that was seen is what was wanted."""
    words = [seen] if isinstance(seen, str) else seen
    return Outcome(all(word == wanted for word in words), ", ".join(dict.fromkeys(words)))


async def cached(stage: Stage) -> Outcome:
    """After the purge, the proxy serves the new picture instead of the cached old one."""
    await stage.get()
    stage.replace()
    await stage.purge()
    return expect(await stage.ask(), "new")


async def twice(stage: Stage) -> Outcome:
    """The same purge a second time is not an error, and the new picture is still served."""
    await stage.get()
    stage.replace()
    statuses = [await stage.purge(), await stage.purge()]
    seen = await stage.ask()
    if any(status is not None and status >= 300 for status in statuses):
        return Outcome(False, f"purge answered {statuses}")
    return expect(seen, "new")


async def unknown(stage: Stage) -> Outcome:
    """A purge of a picture that the proxy has never fetched is not an error."""
    status = await stage.purge()
    return Outcome(
        None if status is None else status < 300, "no purge" if status is None else f"purge answered {status}"
    )


async def sizes(stage: Stage) -> Outcome:
    """One purge removes every size of the picture."""
    queries = ("w=40", "w=60", "")
    for query in queries:
        await stage.get(query)
    stage.replace()
    await stage.purge()
    return expect([await stage.ask(query) for query in queries], "new")


async def formats(stage: Stage) -> Outcome:
    """One purge removes every variant that is selected by Vary."""
    accepts = ("image/webp", "image/png")
    for accept in accepts:
        await stage.get("auto=format", Accept=accept)
    stage.replace()
    await stage.purge("auto=format")
    return expect([await stage.ask("auto=format", Accept=accept) for accept in accepts], "new")


async def head(stage: Stage) -> Outcome:
    """The answer to HEAD describes the new picture."""
    await stage.get()
    await stage.get(method="HEAD")
    stage.replace()
    await stage.purge()
    return expect(await stage.ask(method="HEAD"), "new")


async def part(stage: Stage) -> Outcome:
    """The answer to a Range request has only bytes of the new picture."""
    await stage.get()
    await stage.get(Range="bytes=100-199")
    stage.replace()
    await stage.purge()
    return expect(await stage.ask(Range="bytes=100-199"), "new")


async def condition(stage: Stage) -> Outcome:
    """A browser that still has the old picture does not get a 304."""
    old = await stage.get()
    stage.replace()
    await stage.purge()
    if old.etag is None:
        return Outcome(None, "no ETag")
    answer = await stage.get(If_None_Match=old.etag)
    return expect(await stage.seen(answer), "new")


async def condition_by_date(stage: Stage) -> Outcome:
    """A client that knows only the date of the old picture does not get a 304, although the new file has an older date."""
    stage.picture.is_dated_backwards = True
    old = await stage.get()
    stage.replace()
    await stage.purge()
    if old.modified_at is None:
        return Outcome(None, "no date")
    answer = await stage.get(If_Modified_Since=old.modified_at)
    return expect(await stage.seen(answer), "new")


async def in_flight(stage: Stage, point: Point) -> Outcome:
    """A fetch that is under way during the purge does not answer the next client."""
    stage.origin.hold(stage.name, point)
    first = stage.begin()
    await stage.origin.arrived(stage.name, point)
    stage.replace()
    await stage.purge()
    stage.origin.release(stage.name, point)
    await first
    return expect(await stage.ask(), "new")


async def held_before_headers(stage: Stage) -> Outcome:
    """The origin has not begun its answer when the purge comes. The next client gets the new picture."""
    return await in_flight(stage, "headers")


async def held_in_the_body(stage: Stage) -> Outcome:
    """The origin has sent half of the body when the purge comes. The next client gets the new picture."""
    return await in_flight(stage, "body")


async def waiters(stage: Stage) -> Outcome:
    """Clients that wait for the fetch during the purge get the new picture, because their answers begin after it."""
    stage.origin.hold(stage.name, "headers")
    waiting = [stage.begin() for _ in range(5)]
    await stage.origin.arrived(stage.name, "headers")
    stage.replace()
    await stage.purge()
    stage.origin.release(stage.name, "headers")
    answers = await asyncio.gather(*waiting)
    return expect([await stage.seen(answer) for answer in answers], "new")


async def newcomer(stage: Stage) -> Outcome:
    """A client that comes after the purge, while the old fetch is still held, gets the new picture. It may have to wait."""
    stage.origin.hold(stage.name, "headers")
    first = stage.begin()
    await stage.origin.arrived(stage.name, "headers")
    stage.replace()
    await stage.purge()
    gate = stage.picture.gates.pop("headers")
    late = stage.begin()
    done, _ = await asyncio.wait([late], timeout=3.0)
    gate.set()
    await asyncio.gather(first, late)
    seen = await stage.seen(late.result())
    return Outcome(seen == "new", seen if done else f"{seen}, after waiting for that fetch")


async def revalidation(stage: Stage) -> Outcome:
    """A 304 from the origin that is under way during the purge does not make the old picture fresh again."""
    stage.picture.max_age_s = 1
    await stage.get()
    stage.origin.hold(stage.name, "headers")
    asked: list[asyncio.Task[Answer]] = []
    for _ in range(60):
        # When the picture has expired, a request makes the proxy ask the origin. Some proxies answer meanwhile, some wait.
        asked.append(stage.begin())
        await asyncio.sleep(0.1)
        if stage.picture.held["headers"]:
            break
    is_conditional = stage.picture.asked_if_modified > 0
    stage.replace()
    await stage.purge()
    stage.picture.max_age_s = 3600
    stage.origin.release(stage.name, "headers")
    await asyncio.gather(*asked)
    seen = await stage.ask()
    if not is_conditional:
        return Outcome(None, "never asks with a condition")
    return expect(seen, "new")


async def refusal_in_flight(stage: Stage) -> Outcome:
    """A 404 from the origin that is under way during the purge is not cached."""
    stage.picture.status = 404
    stage.origin.hold(stage.name, "headers")
    first = stage.begin()
    await stage.origin.arrived(stage.name, "headers")
    stage.picture.status = 200
    stage.replace()
    await stage.purge()
    stage.origin.release(stage.name, "headers")
    await first
    return expect(await stage.ask(), "new")


async def refusal(stage: Stage) -> Outcome:
    """The purge removes a cached 404."""
    stage.picture.status = 404
    await stage.get()
    stage.picture.status = 200
    stage.replace()
    await stage.purge()
    return expect(await stage.ask(), "new")


async def revoked(stage: Stage) -> Outcome:
    """The origin answers 403 after the purge, and so does the proxy."""
    await stage.get()
    stage.picture.status = 403
    await stage.purge()
    return expect(await stage.ask(), "403")


async def origin_down(stage: Stage) -> Outcome:
    """The purged picture is not served as stale when the origin fails."""
    await stage.get()
    stage.picture.status = 500
    await stage.purge()
    seen = await stage.ask()
    return Outcome(seen not in ("old", "new"), seen)


SCENARIOS: tuple[tuple[str, Callable[[Stage], Awaitable[Outcome]]], ...] = (
    ("cached", cached),
    ("every size (query)", sizes),
    ("every format (Vary)", formats),
    ("HEAD", head),
    ("Range", part),
    ("If-None-Match of the old", condition),
    ("If-Modified-Since, the new file is older", condition_by_date),
    ("fetch in flight, before its headers", held_before_headers),
    ("fetch in flight, in its body", held_in_the_body),
    ("clients waiting for that fetch", waiters),
    ("newcomer while that fetch is held", newcomer),
    ("304 of a revalidation in flight", revalidation),
    ("404 remembered", refusal),
    ("404 in flight", refusal_in_flight),
    ("revoked: 403 after the purge", revoked),
    ("origin fails after the purge", origin_down),
    ("purge repeated", twice),
    ("purge of an unknown picture", unknown),
)


async def run(target: Target, origin: Origin, only: str | None = None) -> dict[str, Outcome]:
    """Run every scenario on one target, one after the other."""
    found: dict[str, Outcome] = {}
    # New names in each run: a proxy may still hold the pictures of the last one.
    folder = secrets.token_hex(4)
    connector = aiohttp.TCPConnector(limit=50, force_close=True)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        for number, (title, scenario) in enumerate(SCENARIOS):
            if only is not None and only not in title:
                continue
            stage = Stage(target, origin, session, f"{folder}/{number:02}{SUFFIX}")
            try:
                outcome = await scenario(stage)
                if any(status not in (None, 200, 204) for status in stage.purges):
                    outcome = replace(outcome, note=f"{outcome.note} (purge answered {stage.purges})")
                found[title] = outcome
            except (TimeoutError, aiohttp.ClientError) as exc:
                found[title] = Outcome(False, f"gave up: {type(exc).__name__}")
    return found
