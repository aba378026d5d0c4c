"""An overload: which requests are refused, with which answer, and which are answered all the same."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import SecretStr

from imgproxy.config.sections import LogSettings, SigningSettings
from imgproxy.params.signature import sign
from tests.support.clock import StandingClock
from tests.support.overload import PATIENT, PICTURES, overloaded
from tests.support.processes import stopped
from tests.support.site import ADMIN, KEY, jpeg, site, until, width_of
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clock() -> StandingClock:
    """Admission's clock. It stands, because a slow machine takes longer to send a burst than a burst may last."""
    return StandingClock()


async def test_a_picture_that_must_be_fetched_is_refused_before_the_fetch(tmp_path: Path, clock: StandingClock) -> None:
    """The fast path gives the same answer as delivery, which takes HEAD; nobody may keep it."""
    async with (
        site(tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock) as here,
        overloaded(here, clock),
    ):
        quick = await here.get("/third.jpg?w=10")
        usual = await here.send("HEAD", "/third.jpg?w=10")

        assert (quick.status, usual.status) == (503, 503)
        assert here.probe.count("serveImage", "third.jpg") == 0
        for name in ("Content-Type", "Cache-Control", "Cache-Status", "X-Content-Type-Options", "Server"):
            assert quick.headers[name] == usual.headers[name]
        assert "Server-Timing" in usual.headers
        assert "Server-Timing" not in quick.headers  # from the fast path
        assert int(quick.headers["Retry-After"]) >= 1
        assert "Date" in quick.headers
        assert json.loads(quick.body)["type"] == "urn:imgproxy:problem:overloaded"
        assert len(quick.body) == int(usual.headers["Content-Length"])


async def test_requests_without_a_render_are_answered_as_ever(tmp_path: Path, clock: StandingClock) -> None:
    """Hits, originals, bad URLs and admin routes are not refused."""
    async with site(tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock) as here:
        first = await here.get(f"/{KEY}?w=20")
        async with overloaded(here, clock):
            hit = await here.get(f"/{KEY}?w=20")
            original = await here.get("/fourth.jpg")
            mistake = await here.get("/third.jpg?w64=%21")
            health = await here.get("/-/health")

        assert hit.body == first.body
        assert (hit.status, original.status, mistake.status, health.status) == (200, 200, 400, 200)


async def test_a_fetched_picture_is_refused_only_in_an_overload(tmp_path: Path, clock: StandingClock) -> None:
    """Without an overload any number of sizes waits; in an overload a larger size answers if there is one."""
    async with site(tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock) as here:
        await here.get(f"/{KEY}?w=20")
        async with overloaded(here, clock):
            refused = await here.get(f"/{KEY}?w=30&flip=h")
            larger = await here.get(f"/{KEY}?w=10")
        with stopped(*here.edge.pool.pids):
            burst = [asyncio.create_task(here.get(f"/{KEY}?w={width}&flip=h")) for width in range(30, 90)]
            await until(lambda: here.edge.variants.under_way == len(burst))
        served = await asyncio.gather(*burst)

        assert refused.status == 503
        assert refused.headers["Cache-Control"] == "no-store"
        assert int(refused.headers["Retry-After"]) >= 1
        assert (larger.status, width_of(larger.body)) == (200, 20)
        assert larger.headers["Cache-Control"] == "public, max-age=10, must-revalidate"
        assert {reply.status for reply in served} == {200}


async def test_sizes_that_share_a_decode_with_an_admitted_one_are_admitted(
    tmp_path: Path, clock: StandingClock
) -> None:
    """One size waits since before the overload, so the others cost little more; those beyond one job are refused."""
    async with site(tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock) as here:
        await here.get(f"/{KEY}?w=20")
        async with overloaded(here, clock, f"/{KEY}?w=30&flip=h"):
            under_way, refused = here.edge.variants.under_way, here.metric("imgproxy_refused_total", rule="overload")
            srcset = [asyncio.create_task(here.get(f"/{KEY}?w={width}&flip=h")) for width in range(31, 38)]
            await until(lambda: here.edge.variants.under_way == under_way + len(srcset))
            one_more = await here.get(f"/{KEY}?w=38&flip=h")
        served = await asyncio.gather(*srcset)

        assert one_more.status == 503
        assert {reply.status for reply in served} == {200}
        assert here.metric("imgproxy_refused_total", rule="overload") == refused + 1


async def test_a_signature_is_checked_before_admission(tmp_path: Path, clock: StandingClock) -> None:
    """A request without a valid signature is 403, overload or not."""
    signing = SigningSettings(tokens=(SecretStr("token"),), required=True)
    async with (
        site(tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock, signing=signing) as here,
        overloaded(here, clock, sign_by=lambda target: sign(target, "token")),
    ):
        reply = await here.get("/third.jpg?w=10")

        assert reply.status == 403


@pytest.mark.parametrize("access", ["all", "misses", "errors"])
async def test_a_refusal_is_counted_and_logged(
    tmp_path: Path, clock: StandingClock, caplog: pytest.LogCaptureFixture, access: Literal["all", "misses", "errors"]
) -> None:
    """It is in the metrics and, unless that is switched off, in the access log."""
    async with site(
        tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock, log=LogSettings(access=access)
    ) as here:
        with caplog.at_level(logging.INFO, logger="imgproxy.access"):
            async with overloaded(here, clock):
                await here.get("/third.jpg?w=10")
                page = (await here.get("/-/metrics", **ADMIN)).body.decode()

        assert 'imgproxy_requests_total{outcome="error",status="503"} 1.0' in page
        lines = [record.facts for record in caplog.records if hasattr(record, "facts")]
        refused = [line for line in lines if line["status"] == 503]
        assert [(line["target"], line["code"], line["outcome"]) for line in refused] == [
            ("/third.jpg?w=10", "overloaded", "error")
        ]


async def test_the_connection_stays_open_after_a_refusal(tmp_path: Path, clock: StandingClock) -> None:
    """The next request over the same connection is answered."""
    async with site(tmp_path, render=PATIENT, pictures=PICTURES, admission_clock=clock) as here:
        await here.get(f"/{KEY}?w=20")
        async with overloaded(here, clock):
            wire = await Wire.to(here)
            for target, expected in (("/third.jpg?w=10", 503), ("/fourth.jpg?w=10", 503), (f"/{KEY}?w=20", 200)):
                wire.ask(target)
                status, _, _ = await wire.read_answer()
                assert status == expected
            await wire.close()


async def test_many_new_pictures_at_once_are_all_served(tmp_path: Path, clock: StandingClock) -> None:
    """There are more pictures than fetches at a time, and all wait for one new watermark: none waits for ever."""
    pictures = {f"{number}.jpg": jpeg(number) for number in range(30)} | {"mark.jpg": jpeg(9, (20, 20))}
    async with site(tmp_path, pictures=pictures, render=PATIENT, admission_clock=clock) as here, asyncio.timeout(60):
        replies = await asyncio.gather(*(here.get(f"/{number}.jpg?w=10&mark=/mark.jpg") for number in range(30)))

        assert {reply.status for reply in replies} == {200}
        assert here.probe.count("serveImage", "mark.jpg") == 1
