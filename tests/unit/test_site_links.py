"""Links of the documentation, as the site needs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.site_links import PAGES, with_site_links

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("folder", "page", "link", "expected"),
    [
        ("docs", "urls.md", "operation.md#extras-and-licences", "operation.md#extras-and-licences"),
        ("docs", "urls.md", "#grammar", "#grammar"),
        ("docs", "urls.md", "https://example.com/a.md", "https://example.com/a.md"),
        ("docs", "index.md", "../CHANGELOG.md", "changelog.md"),
        ("docs", "index.md", "../README.md", "index.md"),
        ("docs", "cluster.md", "../deploy/nginx/cluster.conf", "copy/deploy/nginx/cluster.conf"),
        ("", "contributing.md", "docs/glossary.md", "glossary.md"),
        ("", "contributing.md", "src/imgproxy/errors.py", "copy/src/imgproxy/errors.py"),
        ("docs/deep", "deep/page.md", "../urls.md", "../urls.md"),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(folder: str, page: str, link: str, expected: str) -> None:
    """Pages stay pages, other files become copies, links to other hosts stay."""
    text = with_site_links(f"See [it]({link}).", folder, page, lambda path: f"copy/{path}")
    assert text == f"See [it]({expected})."


def test_the_files_that_become_pages_are_there() -> None:
    """The changelog and the guide for contributors are in the root of the repository."""
    assert all((REPOSITORY / path).is_file() for path in PAGES)


def test_every_page_is_in_the_navigation() -> None:
    """The build would fail as well, but takes longer."""
    listed = set(
        re.findall(r": (\S+\.md)$|^ +- (\S+\.md)$", (REPOSITORY / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    )
    names = {first or second for first, second in listed}
    assert {path.name for path in (REPOSITORY / "docs").glob("*.md")} <= names
