"""
The row of purges under a hit load on every edge of a cluster: no old answer after an acknowledgement.

Each picture has generations. For each purge the picture is changed at the origin first. An answer is old if its request
was sent after the purge of a later generation was acknowledged, at whichever edge. `ETag` tells the generation.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import random
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from benchmarks.client import Engine, Request, get
from benchmarks.edges import Admin, edges, postgres
from benchmarks.rows import Result, Row
from benchmarks.servers import BenchError
from benchmarks.stats import percentile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

    from benchmarks.bench import Bench

EDGES = 3
PICTURES = 200
PURGES, ANSWERS = 1_000, 100_000
CONNECTIONS = 12
GIVE_UP_S = 1_800.0
TARGET = "?w=40&fm=webp"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the load. `sent_at` is of the monotonic clock, which all processes share."""

    picture: int
    sent_at: float
    status: int
    etag: str
    is_hit: bool


class ChangingOrigin:
    """serve-image for pictures that change: `N.jpg` is one of so many generations."""

    def __init__(self) -> None:
        self.generations = [0] * PICTURES
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                number = int(self.path.rsplit("/", 1)[1].removesuffix(".jpg"))
                origin.answer(self, number)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler, number: int) -> None:
        """Send the picture as it is now, or 304."""
        body = picture(number, self.generations[number])
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        is_same = handler.headers.get("If-None-Match") == etag
        handler.send_response(304 if is_same else 200)
        handler.send_header("ETag", etag)
        handler.send_header("Content-Type", "image/jpeg")
        handler.send_header("Content-Length", "0" if is_same else str(len(body)))
        handler.end_headers()
        if not is_same:
            handler.wfile.write(body)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def picture(number: int, generation: int) -> bytes:
    """Return a small JPEG that differs from all others."""
    pixels = np.random.default_rng([number, generation]).integers(0, 256, (60, 80, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


def measure_purge_hits(bench: Bench, result: Result) -> None:
    """Purge a thousand times while readers ask every edge without a pause."""
    purges, answers_goal = bench.scaled(PURGES, 100), bench.scaled(ANSWERS, 5_000)
    with ChangingOrigin() as origin, postgres() as server, edges(bench, server, EDGES, origin.url) as found:
        urls = [product.url for product in found.products]
        for number in range(PICTURES):
            for url in urls:
                if get(_url(url, number)).status != 200:
                    raise BenchError(f"no picture: {found.first.log_tail()}")
        with reading(urls) as load, contextlib.ExitStack() as stack:
            admins = [stack.enter_context(Admin(product)) for product in found.products]
            etags: dict[str, int] = {}
            acknowledged: list[list[float]] = [[] for _ in range(PICTURES)]
            took_ms = []
            for turn in range(purges):
                number, at = turn % PICTURES, turn % EDGES
                origin.generations[number] += 1
                took_s, _ = admins[at].purge(_key(number))
                acknowledged[number].append(time.monotonic())
                took_ms.append(took_s * 1e3)
                etags[get(_url(urls[at], number)).headers["etag"]] = origin.generations[number]
            answers = load.end(answers_goal)
    shown = [answer for answer in answers if answer.status == 200]
    old = [answer for answer in shown if etags.get(answer.etag, 0) < _needed(acknowledged, answer)]
    result.figure("purge under load: acknowledgement", "ms", took_ms)
    result.figure("purge under load: acknowledgement, p99", "ms", [percentile(took_ms, 99)])
    result.figure("share of answers that were hits", "x", [sum(answer.is_hit for answer in shown) / len(shown)])
    result.at_most("old answers", len(old), 0, "answers")
    result.at_least("answers with a picture", len(shown), answers_goal, "answers")
    result.at_least("purges that every edge had applied", purges, purges, "purges")
    result.facts["statuses"] = {
        str(status): sum(answer.status == status for answer in answers) for status in {each.status for each in answers}
    }
    result.notes.append(
        f"{EDGES} edges, {PICTURES} pictures, {CONNECTIONS} connections that ask all edges at random without a pause, "
        "from a process of its own. Each purge is of a picture that was changed at the origin before it, at one edge "
        "after the other. Old: sent after the acknowledgement, with an earlier generation."
    )


def _needed(acknowledged: Sequence[Sequence[float]], answer: Answer) -> int:
    """Return the generation that an answer must have at least."""
    return sum(at < answer.sent_at for at in acknowledged[answer.picture])


def _key(number: int) -> str:
    return f"changing/{number}.jpg"


def _url(edge_url: str, number: int) -> str:
    return f"{edge_url}/{_key(number)}{TARGET}"


# --- the load, in a process of its own ------------------------------------------------------------------------------


class Load:
    """The process of the readers, as seen from the row."""

    def __init__(self, pipe: Connection, is_over: Event, count: Synchronized[int]) -> None:
        self._pipe, self._is_over, self._count = pipe, is_over, count

    def end(self, least: int) -> list[Answer]:
        """End the load when it has sent so many requests. Return all answers."""
        end_at = time.monotonic() + GIVE_UP_S
        while self._count.value < least * 1.02 and time.monotonic() < end_at:
            time.sleep(0.1)
        self._is_over.set()
        found: list[Answer] = self._pipe.recv()
        return found


@contextlib.contextmanager
def reading(urls: Sequence[str]) -> Iterator[Load]:
    """Ask every edge for every picture, at random, until `Load.end`."""
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    is_over, count = context.Event(), context.Value("l", 0, lock=False)
    process = context.Process(target=_read, args=(list(urls), is_over, count, child_pipe), daemon=True)
    process.start()
    try:
        pipe.recv()  # it has begun
        yield Load(pipe, is_over, count)  # type: ignore[arg-type]
    finally:
        is_over.set()
        process.join(10)
        if process.is_alive():
            process.kill()


def _read(urls: list[str], is_over: Event, count: Any, pipe: Connection) -> None:
    chosen = random.Random(1)
    requests = [
        Request(_url(url, number), kind=str(number)) for url in urls for number in range(PICTURES)
    ]  # made once: that costs more than to send them

    def endless() -> Iterator[Request]:
        while not is_over.is_set():
            count.value += 1
            yield chosen.choice(requests)

    pipe.send("begun")
    with Engine() as engine:
        samples = engine.closed(endless(), CONNECTIONS)
    answers = []
    for sample in samples:
        headers = sample.headers
        is_hit = "; hit" in headers.get("cache-status", "")
        answers.append(Answer(int(sample.request.kind), sample.due_at, sample.status, headers.get("etag", ""), is_hit))
    pipe.send(answers)


ROWS = (Row("purge-hits", "A thousand purges under a hit load on three edges: old answers", measure_purge_hits),)
