"""The documentation as a site: it builds strictly, shows a picture for each parameter, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

from imgproxy.params.table import SECTIONS
from tests.support.followed_page import running, status, wait_until
from tests.support.frontends import free_port
from tools.parameter_examples import EXAMPLES, Example
from tools.parameter_pictures import page_name

REPOSITORY = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: `make docs` installs it into .venv"
    ),
]


class Loads(HTMLParser):
    """What a page loads when it is opened: scripts, style sheets, pictures, icons."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses of an element."""
        values = dict(attrs)
        if tag in {"script", "img", "source", "iframe"} and values.get("src"):
            self.found.append(str(values["src"]))
        if tag == "link" and values.get("rel") in {"stylesheet", "icon", "preload", "preconnect"}:
            self.found.append(str(values["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew. A warning, such as a broken link or anchor, fails."""
    folder = tmp_path_factory.mktemp("site")
    if not (REPOSITORY / "build/parameters/size.md").exists():
        call("tools.parameter_pictures", "build/parameters")
    call("mkdocs", "build", "--strict", "--site-dir", str(folder))
    return folder


def environment() -> dict[str, str]:
    """The hooks are modules of the repository."""
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}", "NO_MKDOCS_2_WARNING": "1"}


def call(*arguments: str) -> None:
    """Run a module of Python in the repository."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_parameter_has_its_pictures_on_the_site(site: Path) -> None:
    """Both files of each pair are there, or the text of the answer, or the reason why there is none."""
    for title, rows in SECTIONS:
        text = (site / "parameters" / page_name(title).replace(".md", ".html")).read_text("utf-8")
        for row in rows:
            (section,) = re.findall(rf'<h2 id="{row.name}">(.*?)(?=<h2 id=|</article>)', text, re.DOTALL)
            if isinstance(EXAMPLES[row.name], Example):
                pictures = re.findall(r'src="(pictures/[^"]+)"', section)
                assert len(pictures) + section.count("<pre>") == 2, row.name
                assert all((site / "parameters" / picture).is_file() for picture in pictures)
            else:
                assert "No picture: " in section


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures are files of the site, and are there."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        for address in loads.found:
            assert not re.match(r"(https?:)?//", address), (page, address)
            base = site if address.startswith("/") else page.parent
            assert (base / address.lstrip("/").partition("?")[0]).is_file(), (page, address)


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    """In a copy of the documentation with one wrong anchor."""
    for path in REPOSITORY.iterdir():
        if path.name not in {"docs", ".git", ".venv"}:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "docs").mkdir()
    for path in (REPOSITORY / "docs").iterdir():
        (tmp_path / "docs" / path.name).symlink_to(path)
    (tmp_path / "docs/purge.md").unlink()
    (tmp_path / "docs/purge.md").write_text("# Purge\n\n[wrong](urls.md#no-such-heading)\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "out")],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "'#no-such-heading'" in done.stderr


def test_the_site_is_shown_while_it_is_written() -> None:
    """`make docs-serve` calls this."""
    port = free_port()
    command = f"exec '{sys.executable}' -m mkdocs serve --dev-addr 127.0.0.1:{port}"
    variables = " ".join(f"{name}='{environment()[name]}'" for name in ("PYTHONPATH", "NO_MKDOCS_2_WARNING"))
    with running(f"export {variables}; {command}", REPOSITORY):
        wait_until(lambda: status(f"http://127.0.0.1:{port}/") == 200, "the site")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/tutorial.html", timeout=20) as answer:
            assert b"Tutorial: from nothing" in answer.read()
