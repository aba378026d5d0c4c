"""Many edges for a row: a PostgreSQL, edges over it, each a process of its own, and purges over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from benchmarks import accounting
from benchmarks.client import get
from benchmarks.servers import BenchError, Product
from imgproxy.cache.entry import OriginalFacts, VariantFacts, key_hash
from imgproxy.cache.framed import trailer
from imgproxy.digest import digest_of
from tests.support.postgres import find_binaries, new_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.bench import Bench
    from tests.support.postgres import PostgresServer

READY_WITHIN_S = 120.0
BODY = b"v" * 400


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Run a PostgreSQL with its usual settings: each commit is on the disk when it returns."""
    if find_binaries() is None:
        raise BenchError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = new_server()
    try:
        server.start(shared_buffers="128MB", max_connections="200")
        yield server
    finally:
        server.remove()


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of one cluster, with the name of their database."""

    products: tuple[Product, ...]
    database: str

    @property
    def first(self) -> Product:
        """Return the edge that gets the calls."""
        return self.products[0]


@contextlib.contextmanager
def edges(
    bench: Bench,
    server: PostgresServer,
    count: int,
    origin_url: str,
    *,
    sections: Mapping[str, Mapping[str, object]] | None = None,
    filled: Sequence[str] = (),
    variants: int = 0,
) -> Iterator[Edges]:
    """Run a cluster of edges. Each has these keys on its disk, with so many variants, and is current."""
    database = server.new_database()
    chosen = [
        {**(sections or {}), "cluster": {"node": f"node-{number}", "database_url": server.url(database)}}
        for number in range(count)
    ]
    with contextlib.ExitStack() as stack:
        made = [
            Product(bench.new_folder(f"edge-{number}"), origin_url, sections=each, name=f"edge-{number}")
            for number, each in enumerate(chosen)
        ]
        if filled:
            for product in made:
                with product:
                    pass  # makes the journal
                fill(product, filled, variants)
        for product in made:
            stack.enter_context(product)
        for product in made:
            await_current(product, is_scanned=bool(filled))
        yield Edges(tuple(made), database)


def readiness(product: Product) -> dict[str, Any]:
    """Return what /-/ready says, or nothing if it does not answer."""
    try:
        found: dict[str, Any] = json.loads(get(f"{product.url}/-/ready").body or b"{}")
    except (OSError, ValueError):
        return {}
    return found


def await_current(product: Product, *, is_scanned: bool = False) -> None:
    """Wait until an edge may answer from its cache, and has read what is on its disk."""
    end_at = time.monotonic() + READY_WITHIN_S
    while readiness(product).get("fenced") is not False or (is_scanned and not _is_scanned(product)):
        if time.monotonic() > end_at:
            raise BenchError(f"{product.name} did not become current: {product.log_tail()}")
        time.sleep(0.02)


def _is_scanned(product: Product) -> bool:
    answer = get(f"{product.url}/-/status", product.admin_headers)
    return bool(json.loads(answer.body)["cache"]["is_scanned"])


def fill(product: Product, keys: Sequence[str], variants: int) -> None:
    """
    Write keys with many variants into an edge's cache, as it leaves them. It is not running.

    The variants of a key are names of one small file: that is made fast, and a purge only needs their names.
    """
    cache = product.folder / "cache"
    with contextlib.closing(sqlite3.connect(cache / "journal.sqlite")) as journal:
        (journal_id,) = journal.execute("SELECT value FROM facts WHERE name = 'journal_id'").fetchone()
    original, now_s = digest_of(BODY), time.time()
    for key in keys:
        hashed = key_hash(key)
        where = cache / "keys" / hashed[:2] / hashed
        where.mkdir(parents=True)
        facts = OriginalFacts(key, original, len(BODY), "image/jpeg", '"e"', None, journal_id, 0, now_s, now_s)
        (where / "facts").write_bytes(trailer(facts, body_bytes=0, body_digest=bytes.fromhex(digest_of(b""))))
        (where / "original").write_bytes(BODY)
        first = where / f"v-{0:032x}"
        about = VariantFacts(key, f"{0:032x}", original, "image/webp", len(BODY), original, 10, 10)
        first.write_bytes(BODY + trailer(about, body_bytes=len(BODY), body_digest=bytes.fromhex(original)))
        for number in range(1, variants):
            (where / f"v-{number:032x}").hardlink_to(first)


def await_deleted(products: Sequence[Product]) -> None:
    """Wait until the files of the last purge are deleted, so that they do not slow down the next one."""
    while any(os.listdir(product.folder / "cache" / "trash") for product in products):
        time.sleep(0.01)


def transactions(server: PostgresServer, database: str) -> int:
    """Return how many transactions a database has had. Each statement of an edge is one."""
    return int(server.sql(f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{database}'"))


def spent_s(server: PostgresServer, products: Sequence[Product]) -> dict[str, float]:
    """Return the CPU seconds of all edges, and of the database."""
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    return {
        "an edge": sum(product.cpu_s() for product in products),
        "PostgreSQL": accounting.tree_cpu_s(postmaster),
    }


class Admin:
    """A connection to one edge for purges. It stays open, as a newsroom's server keeps it."""

    def __init__(self, product: Product) -> None:
        parts = urlsplit(product.url)
        self._headers = {**product.admin_headers, "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def purge(self, key: str) -> tuple[float, dict[str, Any]]:
        """Purge a key. Return how many seconds it took to be acknowledged, and its receipt."""
        began_s = time.monotonic()
        self._connection.request("POST", "/-/purge/keys", json.dumps({"keys": [key]}), self._headers)
        answer = self._connection.getresponse()
        receipt = json.loads(answer.read())
        took_s = time.monotonic() - began_s
        if answer.status != 200:
            raise BenchError(f"a purge was answered {answer.status}: {receipt}")
        return took_s, receipt
