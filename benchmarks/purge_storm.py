"""
Many purges at once, for `benchmarks.purge_under_load`: does anyone else have to wait, and what does each purge cost?

Each purge is a call of its own, over a connection of its own, for an entry of its own with an original and two variants
on disk. All calls are sent at the same moment. The keys API is a process of its own that answers at once. Meanwhile one
more process asks for a hit on another picture, again and again, and notes how long each took.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import sqlite3
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks import accounting
from benchmarks.client import urgent

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event
    from pathlib import Path

    from benchmarks.purge_under_load import Edge

HIT_KEY = "another.jpg"
HIT_TARGET = f"/{HIT_KEY}?w=40"
HIT_EVERY_S = 0.002
IDLE_S = 5.0
# The storms whose CPU is measured, without hits: purges at once, and how often.
CPU_STORMS = ((10, 20), (100, 5), (1_000, 2))
HIT_STORMS = (500, 1_000)
# Receipts and notes about deleted files are written this long after a purge at the latest.
WRITTEN_S = 1.0
P99_RATIO_GOAL = 5.0
CPU_RATIO_GOAL = 1.5
# In a newsroom the sender and the library are other machines. Here they have the same cores, and a lower priority.
SENDER_NICE = 10


@dataclass(frozen=True, slots=True)
class Storm:
    """The answers of one storm by status, how long it took, its end with all files deleted, the CPU for each purge."""

    statuses: Counter[int]
    seconds: float
    ended_s: float  # of the monotonic clock
    cpu_ms: float

    @property
    def acknowledged(self) -> float:
        """The share that was acknowledged as complete."""
        return self.statuses[200] / self.statuses.total()


async def measure(
    work: Path, start_edge: Callable[[Path, str], Edge], fill: Callable[[Path, str, str], None], picture: bytes
) -> dict[str, Any]:
    """Run all storms against one edge, and return the figures."""
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    library = context.Process(target=serve_library, args=(picture, child_pipe), daemon=True)
    library.start()
    edge = start_edge(work, f"http://127.0.0.1:{pipe.recv()}")
    try:
        entries = [
            f"e{number}" for number in range(sum(count * times for count, times in CPU_STORMS) + sum(HIT_STORMS))
        ]
        async with edge:
            pass  # makes the journal
        with sqlite3.connect(edge.cache_dir / "journal.sqlite") as database:
            (journal_id,) = database.execute("SELECT value FROM facts WHERE name = 'journal_id'").fetchone()
        database.close()
        for entry in entries:
            fill(edge.cache_dir, key_of(entry), journal_id)
        async with edge:
            await until_hit(edge.url)
            return await run_storms(edge, entries)
    finally:
        library.kill()


async def run_storms(edge: Edge, entries: list[str]) -> dict[str, Any]:
    """First the CPU of storms alone, then hits alone, then hits during storms."""
    cpu_ms = {}
    for count, times in CPU_STORMS:
        found = [await storm(edge, [entries.pop() for _ in range(count)]) for _ in range(times)]
        cpu_ms[str(count)] = round(statistics.median(item.cpu_ms for item in found), 3)
    idle_ms, _ = await with_hits(edge, [])
    result: dict[str, Any] = {"cpu_ms_a_purge": cpu_ms, "hit_ms_idle": quantiles(idle_ms), "storms": {}}
    for count in HIT_STORMS:
        hits_ms, done = await with_hits(edge, [entries.pop() for _ in range(count)])
        result["storms"][str(count)] = {
            "acknowledged": done.acknowledged,
            "statuses": {str(status): number for status, number in done.statuses.items()},
            "seconds": round(done.seconds, 2),
            "hits": len(hits_ms),
            "hit_ms": quantiles(hits_ms),
        }
    return result


def quantiles(values_ms: list[float]) -> dict[str, float]:
    """Return median, p99 and the longest, in milliseconds."""
    cuts = statistics.quantiles(values_ms, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(values_ms), 3)}


def rows_of(storm: dict[str, Any]) -> list[tuple[str, str, bool, str]]:
    """Return the rows of the storms: name, value, whether the goal is met, and the goal."""
    idle_ms, cpu_ms = storm["hit_ms_idle"]["p99"], storm["cpu_ms_a_purge"]
    rows = []
    for count, found in storm["storms"].items():
        share, p99_ms = found["acknowledged"], found["hit_ms"]["p99"]
        rows.append((f"{count} purges at once: acknowledged", f"{share:.1%}", share == 1.0, "100 %"))
        limit_ms = P99_RATIO_GOAL * idle_ms
        value = f"{idle_ms:.1f}, {p99_ms:.1f} ms"
        rows.append((f"{count} purges at once: p99 of hits, idle and then", value, p99_ms <= limit_ms, "5 x idle"))
    ratio = cpu_ms["1000"] / cpu_ms["10"]
    value = ", ".join(f"{ms:.1f}" for ms in cpu_ms.values()) + " ms"
    rows.append(("CPU a purge, 10, 100, 1,000 at once", value, ratio <= CPU_RATIO_GOAL, "1,000 <= 1.5 x 10"))
    return rows


# --- the storm -----------------------------------------------------------------------------------------------------


async def storm(edge: Edge, entries: list[str]) -> Storm:
    """Purge all these entries at once, from a process of its own, so that its work takes no time from the hits."""
    pid = edge.pid
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    sender = context.Process(target=send_purges, args=(edge.url, entries, child_pipe), daemon=True)
    sender.start()
    try:
        await asyncio.to_thread(pipe.recv)  # it is connected
        await asyncio.sleep(0.2)
        idle_from_s, idle_cpu_s = time.monotonic(), accounting.thread_cpu_s(pid)
        await asyncio.sleep(WRITTEN_S)
        began_s, began_cpu_s = time.monotonic(), accounting.thread_cpu_s(pid)
        idle_rate = (began_cpu_s - idle_cpu_s) / (began_s - idle_from_s)
        pipe.send("send")
        statuses: Counter[int] = await asyncio.to_thread(pipe.recv)
        seconds = time.monotonic() - began_s
        while os.listdir(edge.cache_dir / "trash"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(WRITTEN_S)
        ended_s = time.monotonic()  # the thousand connections that close now are not a part of it
        used_s = accounting.thread_cpu_s(pid) - began_cpu_s - idle_rate * (time.monotonic() - began_s)
        return Storm(statuses, seconds, ended_s, used_s * 1000 / len(entries))
    finally:
        sender.kill()
        await asyncio.to_thread(sender.join, 10)


def send_purges(url: str, entries: list[str], pipe: Connection) -> None:
    """Connect once for each entry and tell `pipe`. When it answers, send all purges, then tell it the statuses."""
    os.nice(SENDER_NICE)

    async def send() -> None:
        gate = asyncio.Semaphore(50)

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            async with gate:
                return await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))

        streams = await asyncio.gather(*(connect() for _ in entries))
        pipe.send("connected")
        await asyncio.to_thread(pipe.recv)
        for entry, (_, writer) in zip(entries, streams, strict=True):
            writer.write(
                f"POST /-/purge/entries/{entry} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bench\r\n"
                f"Content-Length: 0\r\n\r\n".encode()
            )
        pipe.send(Counter(await asyncio.gather(*(status_of(reader) for reader, _ in streams))))
        await asyncio.to_thread(pipe.recv)  # until it is killed

    asyncio.run(send())


async def status_of(reader: asyncio.StreamReader) -> int:
    return int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])


async def with_hits(edge: Edge, entries: list[str]) -> tuple[list[float], Storm]:
    """Ask for a hit again and again during a storm, or for a while without one. Return the milliseconds of each."""
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    is_over = context.Event()
    port = int(edge.url.rpartition(":")[2])
    reader = context.Process(target=ask_for_hits, args=(port, is_over, child_pipe), daemon=True)
    reader.start()
    try:
        await asyncio.to_thread(pipe.recv)  # it has begun
        if entries:
            began_s = time.monotonic()
            done = await storm(edge, entries)
            # The hits before and after the storm do not count.
            since_s = began_s
        else:
            since_s = time.monotonic()
            await asyncio.sleep(IDLE_S)
            done = Storm(Counter(), IDLE_S, time.monotonic(), 0.0)
        is_over.set()
        asked: list[tuple[float, float]] = await asyncio.to_thread(pipe.recv)
        return [ms for at_s, ms in asked if since_s <= at_s < done.ended_s], done
    finally:
        is_over.set()
        await asyncio.to_thread(reader.join, 10)


def ask_for_hits(port: int, is_over: Event, pipe: Connection) -> None:
    """Send (when it was asked, milliseconds) of each hit when it is over."""
    request = f"GET {HIT_TARGET} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    asked = []
    with urgent(), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe.send("begun")
        while not is_over.is_set():
            at_s = time.monotonic()
            connection.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)
            head, _, body = answer.partition(b"\r\n\r\n")
            missing = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
            while missing > 0:
                missing -= len(connection.recv(65536))
            asked.append((at_s, (time.monotonic() - at_s) * 1000))
            assert b"; hit" in head, head
            time.sleep(HIT_EVERY_S)
    pipe.send(asked)


async def until_hit(url: str) -> None:
    """Have the picture of the hits made."""
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(url + HIT_TARGET) as answer:
                assert answer.status == 200, answer.status


# --- the library ---------------------------------------------------------------------------------------------------


def key_of(entry: str) -> str:
    return f"storm/{entry}.jpg"


class LibraryConnection(asyncio.Protocol):
    """Answers each call at once: the keys API with one key, everything else with a picture."""

    picture = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._waiting = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._waiting = (self._waiting + data).split(b"\r\n\r\n")
        for head in heads:
            parts = head.split(b" ", 2)[1].decode().split("/")
            body, kind = self.picture, "image/jpeg"
            if parts[-1] == "keys":
                body, kind = json.dumps({"results": [key_of(parts[-2])]}).encode(), "application/json"
            start = f'HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nETag: "1"\r\nContent-Length: {len(body)}\r\n\r\n'
            self._transport.write(start.encode() + body)


def serve_library(picture: bytes, pipe: Connection) -> None:
    """Serve until the process is ended. Send the port."""
    os.nice(SENDER_NICE)

    async def serve() -> None:
        LibraryConnection.picture = picture
        server = await asyncio.get_running_loop().create_server(LibraryConnection, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())
