"""Health, readiness, metrics, status, warming, and a stop that finishes the requests under way."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from imgproxy.config.sections import LogSettings, WarmSettings
from imgproxy.failpoints import Point
from tests.support.cache import let_journal_refuse
from tests.support.site import ADMIN, KEY, Held, jpeg, poll, site, until

METRICS = (
    "imgproxy_requests_total",
    "imgproxy_request_duration_seconds_bucket",
    'imgproxy_fetch_duration_seconds_bucket{le="0.005"}',
    'imgproxy_queue_duration_seconds_bucket{le="0.005"}',
    'imgproxy_render_duration_seconds_bucket{format="jpeg",le="0.005"}',
    'imgproxy_cache_hits_total{tier="memory"}',
    "imgproxy_origin_bytes_total",
    'imgproxy_sent_bytes_total{format="jpeg"}',
    "imgproxy_cache_disk_bytes",
    "imgproxy_cache_memory_bytes",
    "imgproxy_requests_in_flight",
    "imgproxy_render_processes",
    "imgproxy_render_restarts_total",
    "imgproxy_render_waiting",
    'imgproxy_build_info{libvips="8.',
)


async def test_health_and_readiness_need_no_token(tmp_path: Path) -> None:
    """The service is alive, and ready."""
    async with site(tmp_path) as here:
        health, ready = await here.get("/-/health"), await here.get("/-/ready")

        assert (health.status, health.json()) == (200, {"status": "alive"})
        assert (ready.status, ready.json()) == (200, {"status": "ready", "reasons": []})


async def test_a_node_without_render_processes_that_start_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits are still answered, and it is ready again when one starts. A process that only crashed is no reason."""
    async with site(tmp_path) as here:
        pool = here.edge.pool
        await here.get(f"/{KEY}?w=50")
        os.kill(pool.pids[0], signal.SIGKILL)
        await until(lambda: not pool.pids)
        assert here.edge.state.not_ready() == []
        await until(lambda: bool(pool.pids))

        monkeypatch.setattr(sys, "executable", "/bin/false")
        os.kill(pool.pids[0], signal.SIGKILL)
        await until(lambda: pool.cannot_start)
        ready = await here.get("/-/ready")
        assert (ready.status, ready.json()["reasons"]) == (503, ["render_processes_do_not_start"])
        assert (await here.get(f"/{KEY}?w=50")).status == 200

        monkeypatch.undo()
        await until(lambda: bool(pool.pids))
        assert (await here.get("/-/ready")).status == 200


async def test_a_node_that_cannot_record_a_purge_is_not_ready(tmp_path: Path) -> None:
    """Its closed keys answer 503 here, but not on other nodes. It is ready when the journal takes the purge."""
    async with site(tmp_path) as here:
        let_journal_refuse(here.edge.cache.journal, refuses=True)
        purge = await here.send("PURGE", f"/{KEY}", headers=ADMIN)
        ready = await here.get("/-/ready")
        let_journal_refuse(here.edge.cache.journal, refuses=False)

        assert purge.status == 503
        assert (ready.status, ready.json()["reasons"]) == (503, ["purges_unrecorded"])
        await poll(lambda: here.get("/-/ready"), lambda reply: reply.status == 200)


async def test_the_metrics_page_has_every_promised_collector(tmp_path: Path) -> None:
    """Counts, durations, bytes, tiers, the render processes and the version of libvips are there."""
    async with site(tmp_path) as here:
        for _ in range(2):
            await here.get(f"/{KEY}?w=50")
        reply = await here.send("GET", "/-/metrics", headers=ADMIN)
        page = reply.body.decode()

        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        for name in METRICS:
            assert name in page, name
        assert here.metric("imgproxy_origin_bytes_total") == len(jpeg(200))


async def test_status_is_json_with_the_figures_of_the_moment(tmp_path: Path) -> None:
    """Readiness, cache, render processes and versions, for a site without Prometheus."""
    async with site(tmp_path) as here:
        await here.get(f"/{KEY}?w=50")
        status = (await here.send("GET", "/-/status", headers=ADMIN)).json()

        assert status["ready"] is True
        assert status["cache"]["disk_files"] == 2
        assert status["cache"]["memory_variants"] == 1
        assert status["render"]["processes"] == 1
        assert status["libvips"].startswith("8.")


async def test_a_stop_finishes_the_requests_under_way_and_accepts_no_more(tmp_path: Path) -> None:
    """The request under way is answered; a new connection is refused."""
    held = Held()
    async with site(tmp_path, failpoints=held) as here:
        held.hold(Point.AFTER_RENDER)
        request = asyncio.create_task(here.get(f"/{KEY}?w=50"))
        await held.arrived(Point.AFTER_RENDER)
        url = here.edge.url
        runner = here.edge.server._runner
        assert runner is not None
        stopping = asyncio.create_task(here.edge.stop())
        await until(lambda: not runner.sites)  # a connection that comes while the port closes hangs in asyncio's server
        async with aiohttp.ClientSession() as other:

            async def is_accepting() -> bool:
                try:
                    await (await other.get(f"{url}/-/health")).read()
                except aiohttp.ClientError:
                    return False
                return True

            await poll(is_accepting, lambda accepting: not accepting)
        held.release(Point.AFTER_RENDER)

        assert (await request).status == 200
        await stopping


async def test_warming_makes_the_configured_variants(tmp_path: Path) -> None:
    """The first request afterwards is a hit; a second warming makes nothing."""
    settings = WarmSettings(queries=("w=200&auto=format", "w=100&auto=format"))
    async with site(tmp_path, warm=settings) as here:
        entry = here.library.entry_id(KEY)
        first = await here.send("POST", f"/-/warm/entries/{entry}", headers=ADMIN)
        again = await here.send("POST", "/-/warm/keys", headers=ADMIN, json={"keys": [KEY, "nothing.jpg"]})
        reply = await here.get(f"/{KEY}?w=200&auto=format", Accept="image/webp")

        assert first.json() == {"keys": [KEY], "made": 4, "had": 0, "failed": []}
        assert (again.json()["made"], again.json()["had"]) == (0, 4)
        assert again.json()["failed"] == [{"key": "nothing.jpg", "code": "not_found"}]
        assert "hit" in reply.cache_status
        assert reply.headers["Content-Type"] == "image/webp"


async def test_warming_without_queries_says_what_is_missing(tmp_path: Path) -> None:
    """The answer is 400, and its text names the setting."""
    async with site(tmp_path) as here:
        reply = await here.send("POST", "/-/warm/keys", headers=ADMIN, json={"keys": [KEY]})

        assert reply.status == 400
        assert "[warm] queries" in reply.json()["detail"]


@pytest.mark.parametrize(("access", "expected"), [("all", 2), ("errors", 1), ("none", 0)])
async def test_the_access_log_has_a_record_for_each_request(
    tmp_path: Path, access: str, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Method, target, status, outcome, time and bytes are fields; `errors` keeps errors only, `none` nothing."""
    caplog.set_level("INFO", "imgproxy.access")
    async with site(tmp_path, log=LogSettings(access=access)) as here:
        await here.get(f"/{KEY}?w=50")
        await here.get("/nothing.jpg?w=50")

    records = [record for record in caplog.records if record.name == "imgproxy.access"]
    assert len(records) == expected
    for record in records:
        facts = record.__dict__["facts"]
        assert {"method", "target", "status", "outcome", "ms", "bytes"} <= set(facts)


async def test_several_edges_live_in_one_process(tmp_path: Path) -> None:
    """Nothing is global: each has metrics and a cache of its own."""
    async with site(tmp_path / "a") as one, site(tmp_path / "b") as other:
        await one.get(f"/{KEY}?w=50")

        assert one.metric("imgproxy_requests_total", outcome="miss", status="200") == 1
        assert other.metric("imgproxy_requests_total", outcome="miss", status="200") == 0
