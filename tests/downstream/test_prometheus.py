"""A real Prometheus scrapes a real edge: every query of dashboard and alerts is answered, and an alert names the origin."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml

from tests.support.frontends import free_port
from tests.support.site import ADMIN, KEY, poll, site
from tools.alert_rules import every_alert, rules
from tools.dashboard import DASHBOARD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

from tests.support.site import Site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is missing: it is a package of Debian"),
]
# What needs a CDN, a cluster or a store has no values at an edge alone.
ELSEWHERE = ("imgproxy_outbox", "imgproxy_downstream", "imgproxy_cluster", "imgproxy_shared_store", "imgproxy_updated")


@asynccontextmanager
async def prometheus(folder: Path, here: Site) -> AsyncIterator[str]:
    """Run Prometheus, which scrapes the edge every second. Alerts wait a second instead of minutes. Gives its API."""
    found = yaml.safe_load(rules())
    for group in found["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule["for"] = "1s"
    (folder / "alerts.yml").write_text(yaml.safe_dump(found), "utf-8")
    edge = here.edge.url.removeprefix("http://")
    job = {
        "job_name": "imgproxy",
        "metrics_path": "/-/metrics",
        "scrape_interval": "1s",
        "authorization": {"credentials": ADMIN["Authorization"].removeprefix("Bearer ")},
        "static_configs": [{"targets": [edge]}],
    }
    config = {"scrape_configs": [job], "rule_files": [str(folder / "alerts.yml")]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    log, port = folder / "prometheus.log", free_port()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=output,
            stderr=output,
        )
    try:
        async with aiohttp.ClientSession() as session:
            await poll(lambda: is_up(session, f"http://127.0.0.1:{port}/-/ready"), bool)
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        await process.wait()


async def is_up(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether it answers 200."""
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def ask(api: str, path: str, **parameters: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{api}/{path}", params=parameters) as answer:
        found = await answer.json()
    assert found["status"] == "success", (parameters, found)
    return found["data"]


async def values(api: str, expression: str) -> list[Any]:
    """Return what a query of the dashboard gives, with the variables chosen."""
    for name, value in (("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "30s")):
        expression = expression.replace(name, value)
    found: list[Any] = (await ask(api, "query", query=expression))["result"]
    return found


async def load(here: Site) -> None:
    """Hits, misses, another format, the original, a wrong key, a purge, and a webhook's worth of nothing."""
    for number in range(3):
        for query in (f"?w={50 + number}", "?w=50", "?w=50&fm=webp", ""):
            await here.get(f"/{KEY}{query}")
        await here.get("/missing.jpg?w=9")
    await here.send("PURGE", f"/{KEY}", headers=ADMIN)


async def test_every_query_is_answered_by_a_prometheus_that_scrapes_an_edge(tmp_path: Path) -> None:
    """Dashboard and alerts: the API takes each expression; what an edge alone has under load, has values."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    async with site(tmp_path) as here, prometheus(tmp_path, here) as api:
        await poll(lambda: values(api, "imgproxy_requests_in_flight"), bool)
        await load(here)

        async def empty() -> list[str]:
            await load(here)  # a rate needs two scrapes of a busy edge, and forgets what is half a minute old
            return [query for query in here_queries if not await values(api, query)]

        here_queries = [query for query in queries if not any(word in query for word in ELSEWHERE)]
        await poll(empty, lambda found: not found)
        for expression in (*queries, *(alert.expr for alert in every_alert())):
            await values(api, expression)

    assert len(queries) > 70


async def test_an_origin_that_is_stopped_raises_an_alert_that_names_it(tmp_path: Path) -> None:
    """ImgproxyOriginDown fires with host and port of the Media Library; before, it is silent."""
    async with site(tmp_path) as here, prometheus(tmp_path, here) as api:
        origin = here.library.url.removeprefix("http://")

        async def firing() -> list[Any]:
            alerts = (await ask(api, "alerts"))["alerts"]
            return [item for item in alerts if item["state"] == "firing"]

        await here.get(f"/{KEY}?w=50")
        await poll(lambda: values(api, "imgproxy_origin_down == 0"), bool)
        assert "ImgproxyOriginDown" not in [item["labels"]["alertname"] for item in await firing()]

        await here.library.stop()
        await here.get("/another.jpg?w=51")
        await poll(firing, lambda found: "ImgproxyOriginDown" in [item["labels"]["alertname"] for item in found])
        alert = next(item for item in await firing() if item["labels"]["alertname"] == "ImgproxyOriginDown")

    assert alert["labels"]["origin"] == origin
    assert alert["annotations"]["summary"].endswith(f"cannot reach the Media Library {origin}")
