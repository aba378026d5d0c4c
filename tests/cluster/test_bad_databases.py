"""
A database that an edge cannot use: one line says why, and nothing is served that might be revoked.

`imgproxy check` prints the line and ends with 1. `imgproxy serve` starts all the same: it logs the line and is fenced.
So a database that is away, or a right that was taken away, stops no edge that is started again meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from imgproxy.cli.check_services import try_cluster
from imgproxy.cli.findings import Level
from imgproxy.cluster.postgres_schema import SCHEMA_VERSION
from imgproxy.cluster.postgres_status import try_database
from imgproxy.config.cluster import ClusterSettings
from tests.cluster.test_cluster_commands import imgproxy
from tests.support.certificates import OPENSSL, Authority
from tests.support.postgres import PASSWORD
from tests.support.process_cluster import process_cluster
from tests.support.process_node import ROOT
from tests.support.site import KEY, poll, red_of
from tests.support.slow import slow_but

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.postgres import PostgresServer

TARGET = f"/{KEY}?w=50"
HERE = "the cluster's database (127.0.0.1): "
CANNOT = "the log of purges is down: "
OTHER_PROGRAM = f"{HERE}its schema imgproxy belongs to another program; nothing in it was touched"
NEWER = SCHEMA_VERSION + 1
TOO_NEW = (
    f"{HERE}its schema imgproxy has version {NEWER}, and this imgproxy knows {SCHEMA_VERSION}; "
    "run the imgproxy that wrote it, or a later one"
)
# The next release of imgproxy, whose tables have one more column: what Python loads before everything else.
NEXT_RELEASE = f"""
from imgproxy.cluster import postgres_schema

STEP = ("ALTER TABLE imgproxy.member ADD COLUMN added int NOT NULL DEFAULT 0;", {SCHEMA_VERSION})
postgres_schema.STEPS = (*postgres_schema.STEPS, STEP)
postgres_schema.SCHEMA_VERSION = {NEWER}
"""


@dataclass(frozen=True, slots=True)
class Bad:
    """A database that cannot be used, and the line that says why."""

    url: str
    line: str


def prepared(server: PostgresServer) -> str:
    """Make a database with the tables of this version. Return its name."""
    database = server.new_database()
    assert asyncio.run(try_database(server.url(database))).problems == ()
    return database


def wrong_password(request: pytest.FixtureRequest) -> Bad:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return Bad(server.url(password="wrong"), f"{HERE}the password is wrong")


def unreachable(request: pytest.FixtureRequest) -> Bad:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = server.url(port=closed.getsockname()[1])
    return Bad(url, f"{HERE}the connection is refused: is PostgreSQL running there?")


def of_another_program(request: pytest.FixtureRequest) -> Bad:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = server.new_database()
    server.sql("CREATE SCHEMA imgproxy; CREATE TABLE imgproxy.pictures (id int)", database=database)
    return Bad(server.url(database), OTHER_PROGRAM)


def of_another_program_with_the_same_table(request: pytest.FixtureRequest) -> Bad:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = prepared(server)
    server.sql("UPDATE imgproxy.edge_schema SET program = 'another'", database=database)
    return Bad(server.url(database), OTHER_PROGRAM)


def too_new(request: pytest.FixtureRequest) -> Bad:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = prepared(server)
    server.sql(f"UPDATE imgproxy.edge_schema SET version = {NEWER}, min_reader = {NEWER}", database=database)
    return Bad(server.url(database), TOO_NEW)


def without_rights(request: pytest.FixtureRequest) -> Bad:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = server.new_database()
    role = f"stranger_{database}"
    server.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    return Bad(
        server.url(database, user=role),
        f"{HERE}there is no schema imgproxy, and the role {role} may not make one: "
        f'CREATE SCHEMA imgproxy AUTHORIZATION "{role}", or GRANT CREATE ON DATABASE "{database}" TO "{role}"',
    )


def with_another_certificate(request: pytest.FixtureRequest) -> Bad:
    if OPENSSL is None:
        pytest.skip("the program openssl is not installed")
    server: PostgresServer = request.getfixturevalue("own_server")
    server.expect_tls()
    folder: Path = request.getfixturevalue("tmp_path") / "authority"
    folder.mkdir()
    authority = Authority(folder)
    signed = authority.sign("server", subject="DNS:db.example")
    server.restart(
        ssl="on",
        ssl_cert_file=str(server.write("server.pem", signed.certificate.read_text("ascii"))),
        ssl_key_file=str(server.write("server.key", signed.key.read_text("ascii"))),
    )
    return Bad(
        f"{server.url()}?sslmode=verify-full&sslrootcert={authority.own.certificate}",
        f"{HERE}the server's certificate is not accepted: "
        "IP address mismatch, certificate is not valid for '127.0.0.1'.",
    )


CASES: dict[str, Callable[[pytest.FixtureRequest], Bad]] = {
    "the password is wrong": wrong_password,
    "nothing listens there": unreachable,
    "the schema is of another program": of_another_program,
    "another program has the same table": of_another_program_with_the_same_table,
    "the schema is too new": too_new,
    "the role has no rights": without_rights,
    "the certificate is for another host": with_another_certificate,
}


@pytest.fixture
def bad(request: pytest.FixtureRequest) -> Bad:
    return CASES[request.param](request)


@pytest.mark.parametrize("bad", CASES, indirect=True)
def test_why_a_database_cannot_be_used_is_one_finding_of_check(bad: Bad) -> None:
    """It names the database, and has no password."""
    [found] = asyncio.run(try_cluster(ClusterSettings(database_url=SecretStr(bad.url))))
    assert (found.level, found.text) == (Level.BROKEN, f"[cluster] {bad.line}")
    assert PASSWORD not in found.text


@pytest.mark.parametrize("bad", slow_but(["the password is wrong"], CASES), indirect=True)
@pytest.mark.usefixtures("no_libraries_tried")
def test_check_says_why_a_database_cannot_be_used(bad: Bad) -> None:
    """On one line, with exit code 1 and without a traceback or a password."""
    code, out, err = imgproxy("check", url=bad.url)
    assert f"✗ [cluster] {bad.line}" in out.splitlines()
    assert sum("database" in line for line in out.splitlines()) == 1
    assert (code, err) == (1, "")
    assert PASSWORD not in out


@pytest.mark.slow
@pytest.mark.parametrize("bad", CASES, indirect=True)
async def test_an_edge_whose_database_cannot_be_used_serves_nothing_that_may_be_revoked(
    bad: Bad, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """The old picture on its disk is not served: the edge asks the origin, and without an origin it answers 503."""
    async with process_cluster(tmp_path, postgres_server, names=("a",), is_started=False) as here:
        [a] = here.nodes
        await a.start()
        assert (await a.get(TARGET)).status == 200
        assert await a.stop() == 0
        runs_before = len(a.log)
        await here.put(30)

        await a.start(is_current=False, environ={"IMGPROXY_CLUSTER__DATABASE_URL": bad.url})
        assert abs(red_of((await a.get(TARGET)).body) - 30) <= 3
        a.origin.cut()
        assert (await a.get(TARGET)).status == 503

        ready = await a.ready()
        assert (ready["fenced"], ready["why"]) == (True, "the log of purges cannot be reached")
        await poll(lambda: a.messages("warning").count(f"{CANNOT}{bad.line}"), lambda found: found == 1)
        said = a.log[runs_before:]
        assert said.count("is down: the cluster's database") == 1
        assert a.messages("error") == []
        assert "Traceback" not in said
        assert PASSWORD not in said
        assert await a.stop() == 0


@pytest.mark.slow
async def test_the_database_can_be_mended_under_an_edge_that_runs(tmp_path: Path, own_server: PostgresServer) -> None:
    """It is away, then it does not let the edge in, then it does: a line for each reason, and the edge is current."""
    async with process_cluster(tmp_path, own_server, names=("a",), is_started=False) as here:
        [a] = here.nodes
        a.database.cut()
        await a.start(is_current=False)
        own_server.sql("ALTER ROLE postgres PASSWORD 'another'")
        a.database.mend()
        await poll(lambda: a.messages("warning"), lambda found: f"{CANNOT}{HERE}the password is wrong" in found)
        own_server.sql(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
        await a.current()
        reasons = [each for each in a.messages("warning") if each.startswith(CANNOT)]
        assert len(reasons) == len(set(reasons)) >= 2


@pytest.mark.slow
async def test_edges_of_two_releases_run_beside_each_other(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """The next release migrates the older tables, and the older edge goes on, until the tables say that it is too old."""
    release = tmp_path / "next"
    release.mkdir()
    (release / "sitecustomize.py").write_text(NEXT_RELEASE)
    sections = {"lease_s": 6.0, "wait_s": 60.0}
    names = ("old", "new")
    async with process_cluster(tmp_path, postgres_server, names=names, is_started=False, cluster=sections) as here:
        old, new = here.nodes
        await old.start()
        await new.start(environ={"PYTHONPATH": f"{release}:{ROOT}"})
        database = _database_of(old.config)
        found = "SELECT version, min_reader FROM imgproxy.edge_schema"
        assert postgres_server.sql(found, database=database) == f"{NEWER}|{SCHEMA_VERSION}"
        assert await old.stop() == 0
        await old.start()
        for node, red in ((old, 30), (new, 90)):
            await here.put(red)
            assert (await node.purge(here.entry)).status == 200
            assert [red_of((await each.get(TARGET)).body) for each in here.nodes] == pytest.approx([red, red], abs=3)

        postgres_server.sql(f"UPDATE imgproxy.edge_schema SET min_reader = {NEWER}", database=database)
        await old.fenced()
        await poll(lambda: old.messages("warning"), lambda found: found.count(f"{CANNOT}{TOO_NEW}") == 1)
        await here.put(150)
        assert (await new.purge(here.entry)).status == 200
        assert [red_of((await each.get(TARGET)).body) for each in here.nodes] == pytest.approx([150, 150], abs=3)
        assert not (await new.ready())["fenced"]


def _database_of(config: Path) -> str:
    [line] = [line for line in config.read_text("utf-8").splitlines() if line.startswith("database_url")]
    return line.strip("'").rpartition("/")[2]


@pytest.mark.slow
async def test_two_edges_with_one_name_say_so(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Each logs one line when it has seen the other one, `/-/ready` has it, and so has `imgproxy check`."""
    async with process_cluster(tmp_path, postgres_server, names=("a", "b"), cluster={"node": "a"}) as here:
        line = "another node is named a, too: give each a [cluster] node of its own. Purges wait for both"
        for node in here.nodes:
            await poll(node.ready, lambda found: found.get("warning") == "another node has the same name")
            await poll(partial(node.messages, "error"), lambda found: found.count(line) == 1)
        url = postgres_server.url(_database_of(here.nodes[0].config))
        words = "several edges are called a (or one has restarted just now); each needs a [cluster] node of its own"

        def checked() -> list[str]:
            return imgproxy("check", url=url)[1].splitlines()

        # Both count only while both leases run, and a busy machine renews them late.
        await poll(lambda: asyncio.to_thread(checked), lambda found: f"! {words}" in found)
