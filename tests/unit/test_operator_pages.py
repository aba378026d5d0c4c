"""The pages for operators: what they name exists, and what exists is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imgproxy.config.settings import Settings
from imgproxy.config.wording import section_class
from imgproxy.telemetry import metric_table

REPOSITORY = Path(__file__).parents[2]
PAGES = ["admin", "capacity", "hardening", "operation", "troubleshooting", "upgrade"]
SOURCE = (REPOSITORY / "src" / "imgproxy" / "edge" / "admin.py").read_text("utf-8")


def text_of(page: str) -> str:
    """The text of a page."""
    return (REPOSITORY / "docs" / f"{page}.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_each_metric_that_a_page_names_exists(page: str) -> None:
    """An operator copies it into a query."""
    known = {metric.name for metric in metric_table.METRICS}
    assert set(re.findall(r"`(imgproxy_[a-z_]+)(?:\{[a-z]+\})?`", text_of(page))) <= known


@pytest.mark.parametrize("page", PAGES)
def test_each_setting_that_a_page_names_exists(page: str) -> None:
    """`[section] key` is one of the configuration."""
    for section, key in re.findall(r"`\[{1,2}(\w+)\]{1,2} (\w+)(?= =|`|, )", text_of(page)):
        model = section_class(Settings.model_fields[section])
        assert model is not None
        assert key in model.model_fields, (section, key)


def test_each_route_is_on_the_page_of_the_admin_api() -> None:
    """A new route needs its lines there."""
    routes = re.findall(r'"(/(?:-|api)/[\w/-]+)": Route\("(\w+)"', SOURCE)
    assert len(routes) >= 13
    page = text_of("admin")
    assert [path for path, _ in routes if path not in page] == []
