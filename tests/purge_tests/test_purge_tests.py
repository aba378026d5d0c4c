"""The black-box suite, run against our edge, Varnish, nginx, several doors, and a proxy that ignores purges."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.purge_tests import doors
from tests.purge_tests.origin import Origin, origin
from tests.purge_tests.scenarios import SCENARIOS, Outcome, run
from tests.purge_tests.table import as_json, markdown, several
from tests.purge_tests.targets import Target
from tests.support.frontends import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

TESTS = Path(__file__).parents[1]
IN_FLIGHT = ("fetch in flight, before its headers", "clients waiting for that fetch", "404 in flight")


class NeverForgets:
    """A proxy that keeps the first answer to each request, confirms every purge, and ignores it."""

    def __init__(self, session: aiohttp.ClientSession, origin_port: int) -> None:
        self._session = session
        self._origin = f"http://127.0.0.1:{origin_port}"
        self._kept: dict[tuple[str, str, str, str], tuple[int, dict[str, str], bytes]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PURGE":
            return web.Response()
        headers = request.headers
        key = (request.method, request.raw_path, headers.get("Accept", ""), headers.get("Range", ""))
        if key not in self._kept:
            url = URL(self._origin + request.raw_path, encoded=True)
            async with self._session.request(request.method, url, headers={"Accept": key[2]}) as answer:
                found = answer.status, {"ETag": answer.headers.get("ETag", "")}, await answer.read()
                self._kept.setdefault(key, found)
        status, kept, body = self._kept[key]
        return web.Response(status=status, headers=kept, body=body)


@asynccontextmanager
async def never_forgets(origin_port: int) -> AsyncIterator[Target]:
    """Run one."""
    async with aiohttp.ClientSession() as session:
        proxy = NeverForgets(session, origin_port)
        runner = web.ServerRunner(web.Server(proxy.handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield Target("never forgets", f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()


async def outcomes_of_never_forgets(there: Origin, only: str | None = None) -> tuple[Target, dict[str, Outcome]]:
    async with never_forgets(there.port) as target:
        return target, await run(target, there, only)


@pytest.mark.parametrize(
    "only", ["cached", "size", "format", "HEAD", "Range", "before its headers", "revoked", "fails"]
)
async def test_a_proxy_that_ignores_purges_fails(only: str) -> None:
    """Every kind of scenario sees the old picture there; otherwise a green row would prove nothing."""
    async with origin() as there:
        _, outcomes = await outcomes_of_never_forgets(there, only)

        assert [outcome.holds for outcome in outcomes.values()] == [False] * len(outcomes)
        assert all("old" in outcome.note for outcome in outcomes.values())


async def test_the_table_has_a_row_a_scenario_and_says_what_was_kept() -> None:
    """The table in Markdown and the JSON have the same outcomes."""
    async with origin() as there:
        result = await outcomes_of_never_forgets(there, "cached")

        assert markdown([result]).splitlines() == [
            "| the purge meets | never forgets |",
            "| --- | --- |",
            "| cached | **kept** |",
            "| **holds** | **0 of 1** |",
        ]
        (found,) = json.loads(as_json([result]))
        assert found["outcomes"] == {"cached": {"holds": False, "seen": "old"}}


def test_a_service_with_several_doors_has_one_column() -> None:
    """A scenario holds there if it holds at every door that it applies to. Else the cell says at how many it fails."""
    held, kept, left_out = Outcome(True, "new"), Outcome(False, "old"), Outcome(None, "no webhook")
    results = [
        (Target("one", "http://one", service="apart"), {"cached": kept, "HEAD": held}),
        (Target("two", "http://two", service="apart"), {"cached": held, "HEAD": left_out}),
        (Target("all", "http://one", service="joined"), {"receipts": held}),
    ]

    assert several(results).splitlines() == [
        "| the purge meets | apart | joined |",
        "| --- | --- | --- |",
        "| cached | **fails** at 1 of 2 |  |",
        "| HEAD | holds |  |",
        "| receipts |  | holds |",
        "| **holds** | **2 of 3** | **1 of 1** |",
    ]


async def test_several_targets_are_doors_of_one_service() -> None:
    """Each is asked after a purge at the next one, and all of them after a purge at one."""
    port = free_port()
    async with never_forgets(port) as one, never_forgets(port) as two:
        arguments = ["--target", one.url, "--target", two.url, "--origin-port", str(port)]
        code, found = await run_suite(*arguments, "--only", "kept at every door")

        assert code == 1
        assert [item["name"] for item in found] == [
            "target 1, purged at target 2",
            "target 2, purged at target 1",
            "target: all doors",
        ]
        ((_, seen),) = failed(found[-1]["outcomes"]).items()
        assert "old" in seen


@pytest.mark.slow
async def test_one_edge_given_twice_keeps_every_promise() -> None:
    """Two doors of one node: every scenario holds, so one that fails elsewhere fails for a reason."""
    code, found = await run_suite("--start", "imgproxy-twice")

    assert (code, [failed(item["outcomes"]) for item in found]) == (0, [{}, {}, {}])
    assert [set(item["outcomes"]) for item in found] == [{title for title, _ in SCENARIOS}] * 2 + [
        {title for title, _ in doors.SCENARIOS}
    ]


@pytest.mark.slow
async def test_two_edges_without_a_cluster_fail() -> None:
    """The control: edges that do not know of each other fail wherever one is purged and another is asked."""
    code, found = await run_suite("--start", "imgproxy-apart")
    kept = [set(failed(item["outcomes"])) for item in found]

    assert code == 1
    assert kept[:2] == [{title for title, _ in SCENARIOS} - {"purge of an unknown picture"}] * 2
    # Here both are purged, so both forget.
    assert kept[2] == {title for title, _ in doors.SCENARIOS} - {"purged at two doors at once, several times"}


@pytest.mark.slow
async def test_the_nodes_of_a_cluster_keep_the_promise_that_one_of_them_gave(database_url: str) -> None:
    """A short version, over three nodes and a real PostgreSQL: every scenario of all doors together."""
    code, found = await run_suite("--start", "imgproxy-cluster", "--database-url", database_url, "--only", "door")

    assert (code, [failed(item["outcomes"]) for item in found]) == (0, [{}] * 4)
    assert set(found[-1]["outcomes"]) == {title for title, _ in doors.SCENARIOS}


async def run_suite(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the suite as documented, from tests/."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "purge_tests",
        "--json",
        *arguments,
        cwd=TESTS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode in (0, 1), errors.decode()
    return process.returncode, json.loads(output)


def failed(outcomes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {title: outcome["seen"] for title, outcome in outcomes.items() if outcome["holds"] is False}


def installed(names: Iterable[str]) -> bool:
    return all(shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/sbin:/usr/local/bin") for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "programs"),
    [("imgproxy", ()), ("imgproxy-varnish", ("varnishd",)), ("imgproxy-nginx", ("nginx",))],
)
async def test_every_scenario_holds_for_us(start: str, programs: tuple[str, ...]) -> None:
    """The edge passes alone, behind Varnish and behind nginx, with the configurations in deploy/."""
    if not installed(programs):
        pytest.skip(f"{', '.join(programs)} is not installed")
    code, (ours,) = await run_suite("--start", start)

    assert (code, failed(ours["outcomes"])) == (0, {})
    assert set(ours["outcomes"]) == {title for title, _ in SCENARIOS}


@pytest.mark.slow
@pytest.mark.parametrize("start", ["varnish-purge", "varnish-ban", "varnish-xkey", "nginx"])
async def test_what_others_keep_is_recorded(start: str, record_property: Callable[[str, object], None]) -> None:
    """The control: others remove a cached picture, and keep a fetch in flight. Only claims of the table are checked."""
    if not installed(["nginx" if start == "nginx" else "varnishd"]):
        pytest.skip(f"{start}: not installed")
    _, (found,) = await run_suite("--start", start)
    record_property(start, json.dumps(found))
    kept = failed(found["outcomes"])

    assert set(IN_FLIGHT) <= set(kept), "it does better now: run the suite again and correct docs/purge-comparison.md"
    assert ("cached" in kept) == (start == "nginx")
