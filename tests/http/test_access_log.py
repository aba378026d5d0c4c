"""The access log of a running edge: ids, clients, pictures, and what each kind of request leaves."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from imgproxy.config.origin import OriginSettings
from imgproxy.config.sections import LogSettings, ServerSettings
from tests.support.site import KEY, site
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.site import Site

LOCAL = ServerSettings(port=0, trusted_proxies=(ip_network("127.0.0.1/32"),))
ALL = LogSettings(access="all")


@pytest.fixture(autouse=True)
def _informed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "imgproxy.access")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["facts"] for record in caplog.records if record.name == "imgproxy.access"]


async def id_of(here: Site, request: str) -> str:
    """Send bytes over a connection of their own; return the id in the answer."""
    wire = await Wire.to(here)
    wire.writer.write(request.encode())
    head = (await wire.read_head()).decode()
    await wire.close()
    return head.partition("\r\nX-Request-Id: ")[2].partition("\r\n")[0]


async def test_a_miss_and_its_hit_say_what_they_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Outcome, tier, stages, format, bytes, page and client."""
    async with site(tmp_path, log=ALL, server=LOCAL) as here:
        head = {
            "Referer": "https://paper.example/story?token=x",
            "User-Agent": "Reader/1",
            "X-Forwarded-For": "192.0.2.7",
        }
        reply = await here.get(f"/{KEY}?w=50&fm=webp", **head)
        again = await here.get(f"/{KEY}?w=50&fm=webp", **head)
        host = here.edge.url.removeprefix("http://")

    miss, hit = lines(caplog)
    assert (miss["outcome"], miss["tier"], miss["format"], miss["bytes"]) == ("miss", "origin", "webp", len(reply.body))
    assert all(miss[stage] > 0 for stage in ("ms", "fetch_ms", "queue_ms", "render_ms"))
    assert (hit["outcome"], hit["tier"], hit["format"], hit["bytes"]) == ("hit", "memory", "webp", len(reply.body))
    for line, answer in ((miss, reply), (hit, again)):
        assert (line["referer"], line["user_agent"]) == ("https://paper.example/story?token=REDACTED", "Reader/1")
        assert (line["client"], line["host"]) == ("192.0.2.7", host)
        assert line["request_id"] == answer.headers["X-Request-Id"]
    assert miss["request_id"] != hit["request_id"]


REQUESTS = [
    ("GET", f"/{KEY}?w=50", 200),
    ("GET", f"/{KEY}", 200),
    ("HEAD", f"/{KEY}?w=50", 200),
    ("OPTIONS", f"/{KEY}?w=50", 204),
    ("GET", "/nothing.jpg?w=50", 404),
    ("DELETE", f"/{KEY}", 405),
    ("GET", "/", 200),
    ("GET", "/-/health", 200),
    ("GET", "/-/status", 401),
    ("PURGE", f"/{KEY}", 401),
    ("GET", f"/{KEY}?w=50#fragment", 400),
]


async def test_every_answer_has_the_id_of_its_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever answers it."""
    async with site(tmp_path, log=ALL) as here:
        for number, (method, path, _) in enumerate(REQUESTS):
            assert await id_of(here, f"{method} {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: id-{number}\r\n\r\n") == (
                f"id-{number}"
            )

    found = {line["request_id"]: line["status"] for line in lines(caplog)}
    assert found == {f"id-{number}": status for number, (_, _, status) in enumerate(REQUESTS)}


async def test_bytes_that_are_no_request_get_an_id_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that is made here."""
    async with site(tmp_path, log=ALL) as here:
        given = await id_of(here, "NONSENSE\r\n\r\n")

    assert given == lines(caplog)[0]["request_id"]


async def test_a_304_has_the_id_of_its_own_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also on the fast path, whose answers are prepared for many requests."""
    async with site(tmp_path, log=ALL) as here:
        tag = (await here.get(f"/{KEY}?w=50")).headers["ETag"]
        for number in range(3):
            reply = await here.get(f"/{KEY}?w=50", **{"If-None-Match": tag, "X-Request-Id": f"id-{number}"})
            assert (reply.status, reply.headers["X-Request-Id"]) == (304, f"id-{number}")

    assert [line["request_id"] for line in lines(caplog)[1:]] == ["id-0", "id-1", "id-2"]


async def test_requests_that_share_an_answer_have_ids_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One of them made the picture, the others waited for it."""
    async with site(tmp_path, log=ALL) as here:
        replies = await asyncio.gather(
            *(here.get(f"/{KEY}?w=50", **{"X-Request-Id": f"id-{number}"}) for number in range(5))
        )

    assert [reply.headers["X-Request-Id"] for reply in replies] == [f"id-{number}" for number in range(5)]
    assert sorted(line["request_id"] for line in lines(caplog)) == [f"id-{number}" for number in range(5)]
    assert sum(line.get("collapsed", False) for line in lines(caplog)) == 4


async def test_a_hit_without_a_line_has_no_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It could not be found by it, and costs nothing."""
    async with site(tmp_path, log=LogSettings(access="errors")) as here:
        await here.get(f"/{KEY}?w=50")
        hit = await here.get(f"/{KEY}?w=50")
        refused = await here.get("/nothing.jpg?w=50")

    assert "X-Request-Id" not in hit.headers
    assert [line["request_id"] for line in lines(caplog)] == [refused.headers["X-Request-Id"]]


async def test_levels_say_whose_fault_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A 5xx is a warning, a 4xx is not; `errors` has both."""
    async with site(tmp_path, log=LogSettings(access="errors")) as here:
        await here.get("/nothing.jpg?w=50")
    dead = OriginSettings(url="http://127.0.0.1:9", token=SecretStr("t" * 16))
    async with site(tmp_path, log=LogSettings(access="errors"), origin=dead) as here:
        await here.get("/other.jpg?w=50")

    found, missing = (record for record in caplog.records if record.name == "imgproxy.access")
    assert (found.levelname, vars(found)["facts"]["status"]) == ("INFO", 404)
    assert (missing.levelname, vars(missing)["facts"]["status"]) == ("WARNING", 502)
    assert vars(missing)["facts"]["code"] == "origin_unreachable"
    assert vars(missing)["facts"]["cause"]
