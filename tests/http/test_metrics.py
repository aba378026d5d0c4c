"""The metrics page of a running edge: what is declared and nothing else, as Prometheus' own tool wants it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from imgproxy.cache.entry import Tier
from imgproxy.delivery.request import Outcome
from imgproxy.purge.downstream.calls import CallResult
from imgproxy.purge.service import COUNTED_REASONS
from imgproxy.purge.webhooks import KINDS
from imgproxy.render.formats import CONTENT_TYPES
from imgproxy.telemetry import metric_table as table
from imgproxy.telemetry.metric_kinds import Kind
from imgproxy.workers.job import Lane
from imgproxy.workers.sniff import SourceKind
from tests.support.site import ADMIN, KEY, site, until

if TYPE_CHECKING:
    from enum import StrEnum
    from pathlib import Path

    from imgproxy.telemetry.metric_kinds import Label
    from tests.support.site import Site

ALWAYS = tuple(metric for metric in table.METRICS if not metric.needs)


async def page_under_load(here: Site) -> str:
    """Return the page after hits, misses, errors and a purge."""
    for target in (f"/{KEY}?w=50", f"/{KEY}?w=50", f"/{KEY}?w=50&fm=webp", f"/{KEY}", "/missing.jpg?w=9", "/-/nothing"):
        await here.get(target)
    await here.send("PURGE", f"/{KEY}", headers=ADMIN)
    await until(lambda: here.metric("imgproxy_loop_delay_seconds_count") > 0)
    return (await here.send("GET", "/-/metrics", headers=ADMIN)).body.decode()


async def test_the_page_has_what_is_declared(tmp_path: Path) -> None:
    """Every metric is there with type, help and labels, and no other; each value of a label is a declared one."""
    async with site(tmp_path) as here:
        families = {family.name: family for family in text_string_to_metric_families(await page_under_load(here))}
        declared = {metric.family: metric for metric in table.METRICS}

    assert {metric.family for metric in ALWAYS} <= families.keys() <= declared.keys()
    for name, family in families.items():
        metric = declared[name]
        assert family.type == ("gauge" if metric.kind is Kind.INFO else metric.kind), name
        assert family.documentation == metric.help or name.startswith("process_"), name
        for sample in family.samples:
            assert sample.name in metric.sample_names
            assert sample.labels.keys() - {"le"} == set(metric.label_names), sample
            for label in metric.labels:
                assert not label.values or sample.labels[label.name] in label.values, sample


async def test_promtool_has_nothing_to_say_about_the_page(tmp_path: Path) -> None:
    """`promtool check metrics` lints names, types and help texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: it comes with Debian's package prometheus")
    async with site(tmp_path) as here:
        page = await page_under_load(here)
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs
        [promtool, "check", "metrics"], input=page, text=True, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_what_the_load_was_is_in_the_page(tmp_path: Path) -> None:
    """Formats, readiness, origin, versions, memory: each with the value that the operator needs."""
    async with site(tmp_path) as here:
        await page_under_load(here)
        origin = here.library.url.removeprefix("http://")

        assert here.metric("imgproxy_sent_bodies_total", format="webp") == 1
        assert here.metric("imgproxy_render_duration_seconds_count", format="webp") == 1
        assert here.metric("imgproxy_sent_bodies_total", format="jpeg") == 3
        assert here.metric("imgproxy_sent_bytes_total", format="jpeg") > 0
        assert here.edge.metrics.registry.get_sample_value("imgproxy_origin_down", {"origin": origin}) == 0
        assert here.edge.metrics.registry.get_sample_value("imgproxy_not_ready", {"reason": "draining"}) == 0
        assert here.metric("imgproxy_render_resident_bytes") > 10_000_000
        assert here.metric("process_resident_memory_bytes") > 10_000_000
        assert here.metric("imgproxy_cache_disk_free_bytes") > 0
        here.edge.state.is_draining = True
        assert here.metric("imgproxy_not_ready", reason="draining") == 1


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (table.OUTCOME, Outcome),
        (table.HITS.labels[0], Tier),
        (table.RENDERS.labels[0], Lane),
        (table.DOWNSTREAM_PURGES.labels[1], CallResult),
    ],
    ids=lambda item: getattr(item, "name", None),
)
def test_a_label_has_the_words_of_the_code(label: Label, words: type[StrEnum]) -> None:
    """A new member of the enumeration is a new value, and must be declared."""
    assert set(label.values) == set(words)


def test_the_other_labels_have_the_words_of_the_code() -> None:
    """Reasons of purges, events, and formats."""
    assert set(table.PURGES.labels[0].values) == COUNTED_REASONS | {"other"}
    assert set(table.WEBHOOKS.labels[0].values) == KINDS | {"other"}
    assert {*CONTENT_TYPES.values(), *SourceKind} == table.FORMAT_OF.keys()
