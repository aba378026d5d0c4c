"""The schema in a real PostgreSQL: who makes it, who may use it, and which versions go together."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgproxy.cluster import postgres_schema
from imgproxy.cluster.log import LogUnavailable, Position
from imgproxy.cluster.postgres_schema import PROGRAM, SCHEMA_VERSION, TABLES
from imgproxy.cluster.postgres_status import RIGHTS, try_database
from tests.support.cluster import NOWHERE, edge, eventually, purge

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

# The rights of an edge that does not make the schema.
USE = "GRANT USAGE ON SCHEMA imgproxy TO {role}; " + "; ".join(
    f"GRANT {', '.join(rights)} ON imgproxy.{table} TO {{role}}" for table, rights in RIGHTS.items()
)


def new_role(server: PostgresServer) -> tuple[str, str, str]:
    """Make a role without rights, and a database. Return role, database and URL."""
    database = server.new_database()
    role = f"role_of_{database}"
    server.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'of-the-role'")
    return role, database, server.url(database, user=role, password="of-the-role")


async def works(url: str, name: str) -> None:
    """Use everything that an edge uses."""
    async with edge(url, name) as a:
        [place] = await a.log.append([purge("x.jpg")])
        await a.log.renew(place)
        await a.log.report(place)
        await a.log.read(place, 9)
        await a.log.trim(0)
        await a.facts.claim_delivery(name)
        await a.facts.remember_keys("e", ["x.jpg"])
        await a.facts.tidy()
        await a.outbox.take_turn("cdn", 1)
        await a.outbox.take_up([])
        await a.log.leave()


async def refusal(url: str) -> str:
    """Return why this database cannot be used, without the name of the server before it."""
    async with edge(url, is_member=False) as a:
        with pytest.raises(LogUnavailable) as caught:
            await a.log.members()
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("): ")[2]


async def test_many_edges_that_start_at_once_make_one_schema(database_url: str) -> None:
    """The first one makes it under a lock; the others wait, and use it."""

    async def start(name: str) -> str:
        async with edge(database_url, name) as a:
            return (await a.position()).history

    histories = await asyncio.gather(*(start(f"n{n}") for n in range(6)))
    assert len(set(histories)) == 1


async def test_a_role_that_may_create_makes_its_schema(postgres_server: PostgresServer) -> None:
    """CREATE on the database is enough, and is needed once: it can be taken away afterwards."""
    role, database, url = new_role(postgres_server)
    words = await refusal(url)
    assert words.startswith(f"there is no schema imgproxy, and the role {role} may not make one: ")
    grant = words.partition(", or ")[2]
    postgres_server.sql(grant, database=database)
    await works(url, "a")
    postgres_server.sql(grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM "), database=database)
    await works(url, "b")


async def test_a_schema_that_was_made_beforehand_is_filled(postgres_server: PostgresServer) -> None:
    """The statement that the error names is enough: the role needs no right on the database."""
    role, database, url = new_role(postgres_server)
    made = (await refusal(url)).partition("may not make one: ")[2].partition(", or ")[0]
    postgres_server.sql("CREATE SCHEMA imgproxy", database=database)
    words = await refusal(url)
    assert words == (
        f"the schema imgproxy is empty, and the role {role} may not make tables in it: "
        f'GRANT USAGE, CREATE ON SCHEMA imgproxy TO "{role}"'
    )
    postgres_server.sql("DROP SCHEMA imgproxy", database=database)
    postgres_server.sql(made, database=database)
    await works(url, "a")


async def test_a_role_with_the_documented_rights_can_do_everything(postgres_server: PostgresServer) -> None:
    """USAGE and the rights on the tables are enough. Each that is missing is named by check, in a line that mends it."""
    role, database, url = new_role(postgres_server)
    await works(postgres_server.url(database), "owner")
    assert (await refusal(url)).startswith(f"the role {role} may not use it: GRANT USAGE")
    postgres_server.sql(f"GRANT USAGE ON SCHEMA imgproxy TO {role}", database=database)
    assert (await refusal(url)).startswith("a right is missing: permission denied for table edge_schema")
    postgres_server.sql(f"GRANT SELECT ON imgproxy.edge_schema TO {role}", database=database)

    problems = (await try_database(url)).problems
    assert len(problems) == len(TABLES) - 1
    assert f'[cluster] a right is missing: GRANT SELECT, INSERT, DELETE ON imgproxy.line TO "{role}"' in problems
    for problem in problems:
        postgres_server.sql(problem.partition("missing: ")[2], database=database)

    report = await try_database(url)
    assert (len(report.good), report.notices, report.problems) == (1, (), ())
    await works(url, "a")
    assert postgres_server.sql("SELECT count(*) FROM imgproxy.delivery", database=database) == "2", "check left nothing"


async def test_a_server_that_hides_its_identity_can_be_used(postgres_server: PostgresServer) -> None:
    """Hosted servers may: then the database's own number counts instead, for one server and another."""
    role, database, url = new_role(postgres_server)
    postgres_server.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", database=database)
    postgres_server.sql(f"CREATE SCHEMA imgproxy AUTHORIZATION {role}", database=database)
    await works(url, "a")
    async with edge(url, "b") as b:
        assert re.match(r"database\d+\.[0-9A-F]{8}\.", (await b.position()).history)


async def test_the_rights_are_those_of_the_tables() -> None:
    """Each table has its rights, and each statement that makes a table is in the list."""
    made = re.findall(r"CREATE TABLE imgproxy\.(\w+)", "".join(text for text, _ in postgres_schema.STEPS))
    assert sorted(made) == sorted(TABLES) == sorted(RIGHTS)


def test_the_documented_rights_are_those_that_are_needed() -> None:
    """The statements in the documentation grant to each table what an edge needs, and no more."""
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text("utf-8")
    granted = {
        table.strip().removeprefix("imgproxy."): tuple(right.strip() for right in rights.split(","))
        for rights, tables in re.findall(
            r"^GRANT ([A-Z, ]+) ON (imgproxy\.[^;]+?) TO edge;", page, re.MULTILINE | re.DOTALL
        )
        for table in tables.split(",")
    }
    assert granted == RIGHTS


@pytest.mark.parametrize(
    "script",
    [
        "CREATE SCHEMA imgproxy; CREATE TABLE imgproxy.images (id int)",
        "CREATE SCHEMA imgproxy; CREATE TABLE imgproxy.edge_schema (version int)",
        (
            "CREATE SCHEMA imgproxy; CREATE TABLE imgproxy.edge_schema "
            "(is_one bool, program text, version int, min_reader int); "
            "INSERT INTO imgproxy.edge_schema VALUES (true, 'another', 1, 1)"
        ),
    ],
    ids=["other tables", "a table of the same name", "the same table with another program in it"],
)
async def test_a_schema_of_another_program_is_not_touched(postgres_server: PostgresServer, script: str) -> None:
    """It is refused on one line, and stays as it is."""
    database = postgres_server.new_database()
    postgres_server.sql(script, database=database)
    before = postgres_server.dump(database)
    url = postgres_server.url(database)
    assert await refusal(url) == "its schema imgproxy belongs to another program; nothing in it was touched"
    assert len((await try_database(url)).problems) == 1
    assert _stable(postgres_server.dump(database)) == _stable(before)


def _stable(dump: str) -> str:
    """A dump without the random word that newer versions of pg_dump write."""
    return re.sub(r"\\(un)?restrict \w+", "", dump)


async def test_a_newer_schema_is_used_if_it_says_so(postgres_server: PostgresServer) -> None:
    """A later version may have added things. If older edges cannot use it, each is told, also one that is connected."""
    database = postgres_server.new_database()
    url = postgres_server.url(database)
    async with edge(url) as a:
        postgres_server.sql(
            f"UPDATE imgproxy.edge_schema SET version = {SCHEMA_VERSION + 3}; "
            "ALTER TABLE imgproxy.line ADD COLUMN added int NOT NULL DEFAULT 0; CREATE TABLE imgproxy.added (id int)",
            database=database,
        )
        await a.log.renew(NOWHERE)
        await works(url, "b")
        assert postgres_server.sql("SELECT version FROM imgproxy.edge_schema", database=database) == str(
            SCHEMA_VERSION + 3
        )
        postgres_server.sql(f"UPDATE imgproxy.edge_schema SET min_reader = {SCHEMA_VERSION + 1}", database=database)
        with pytest.raises(LogUnavailable, match=f"has version {SCHEMA_VERSION + 3}, and this imgproxy knows"):
            await a.log.renew(NOWHERE)
    assert (await refusal(url)).startswith(f"its schema imgproxy has version {SCHEMA_VERSION + 3}, ")


async def test_an_older_schema_is_migrated_by_its_owner(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step is run once. A role that may not says so, and changes nothing. Lines and history stay."""
    role, database, url = new_role(postgres_server)
    owner = postgres_server.url(database)
    async with edge(owner, "old") as old:
        [place] = await old.log.append([purge("x.jpg")])
        postgres_server.sql(USE.format(role=role), database=database)
        step = ("ALTER TABLE imgproxy.member ADD COLUMN added int NOT NULL DEFAULT 0;", 1)
        monkeypatch.setattr(postgres_schema, "STEPS", (*postgres_schema.STEPS, step))
        monkeypatch.setattr(postgres_schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        assert (await refusal(url)).startswith(
            f"the schema imgproxy is of version {SCHEMA_VERSION}, and the role may not"
        )
        async with edge(owner, "new") as new:
            assert await new.log.members()
            renewal = await new.log.renew(place)
        assert renewal.history == (await old.log.renew(place)).history == place.history
        await works(url, "with few rights")
    found = postgres_server.sql("SELECT program, version, min_reader FROM imgproxy.edge_schema", database=database)
    assert found == f"{PROGRAM}|{SCHEMA_VERSION + 1}|1"


async def test_a_migration_may_take_longer_than_a_call(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on when the call that began it has failed. Calls say so until it is done, and an edge may end meanwhile."""
    async with edge(database_url, "old") as old:
        [place] = await old.log.append([purge("x.jpg")])
    slow = "SELECT pg_sleep(2); ALTER TABLE imgproxy.member ADD COLUMN added int NOT NULL DEFAULT 0;"
    monkeypatch.setattr(postgres_schema, "STEPS", (*postgres_schema.STEPS, (slow, 1)))
    monkeypatch.setattr(postgres_schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    async with edge(database_url, "ends", is_member=False, timeout_s=1.0) as ends:
        with pytest.raises(LogUnavailable, match="no answer in time"):
            await ends.log.members()
    async with edge(database_url, "new", is_member=False, timeout_s=1.0) as new:
        with pytest.raises(LogUnavailable):
            await new.log.members()
        await eventually(new.log.members)
        [line] = await new.log.read(Position(place.history, 0), 9)
        assert line.change.keys == ("x.jpg",)
