"""README.md: one screen, each command tried by a test, each link right, each figure with the command that made it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text("utf-8")
LINES_MAX = 85


def commands() -> list[list[str]]:
    """The words of each command in the blocks of the page."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def test_it_is_one_screen() -> None:
    """More belongs into docs/."""
    assert len(README.splitlines()) <= LINES_MAX


def test_no_command_is_there_that_no_test_runs() -> None:
    """A new command needs a test in this module."""
    assert sorted({command[0] for command in commands()}) == ["make", "pipx", "uvx"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_each_make_command_has_a_target() -> None:
    """make knows what to do. tests/package/test_tutorial.py runs the demo, tests/package/test_site.py the site."""
    targets = {word for command in commands() if command[0] == "make" for word in command[1:]}
    targets |= set(re.findall(r"`make ([a-z-]+)", README))
    assert {"demo", "docs-serve", "bench"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=REPOSITORY, check=True, capture_output=True, timeout=60)


def test_what_is_to_install_is_what_is_built() -> None:
    """Distribution, extras and command. tests/package/test_distribution.py installs the wheel with pip, which pipx and uvx call."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    pipx, uvx = (command for command in commands() if command[0] != "make")
    assert pipx == ["pipx", "install", f"{project['name']}[all]"]
    assert uvx == ["uvx", "--from", project["name"], "imgproxy", "demo"]
    assert "imgproxy" in project["scripts"]
    extras = set(re.findall(r"`\[(\w+)\]`", README))
    assert extras == set(project["optional-dependencies"])


def test_the_command_that_made_the_table_is_one() -> None:
    """The suite of purges takes the options that the page names."""
    (command,) = re.findall(r"`cd tests && python (-m purge_tests --page [^`]+)`", README)
    done = subprocess.run(
        [sys.executable, *command.split(), "--help"],
        cwd=REPOSITORY / "tests",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--page" in done.stdout


def test_the_table_has_the_sums_of_the_measured_page() -> None:
    """The last line of docs/purge-comparison.md, in its order."""
    page = (REPOSITORY / "docs" / "purge-comparison.md").read_text("utf-8")
    alone, together = re.findall(r"^\| \*\*holds\*\* (.*)$", page, re.MULTILINE)
    measured = [(int(held), int(of)) for held, of in re.findall(r"(\d+) of (\d+)", alone)]
    cluster, _ = ((int(held), int(of)) for held, of in re.findall(r"(\d+) of (\d+)", together))
    edge, varnish, nginx, purge, ban, xkey, nginx_alone = measured
    rows = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in README.splitlines() if row.startswith("|")}
    assert rows["imgproxy, one node"] == f"{edge[0]} of {edge[1]}"
    (nodes,) = (value for name, value in rows.items() if name.startswith("imgproxy, three nodes"))
    assert nodes == f"{cluster[0]} of {cluster[1]}: {edge[1]} for each pair, {cluster[1] - 3 * edge[1]} for all"
    both = f"{varnish[0]} of {varnish[1]}, {nginx[0]} of {nginx[1]}"
    assert rows["imgproxy behind Varnish, behind nginx"] == f"all that apply: {both}"
    alone = f"{purge[0]}, {ban[0]}, {xkey[0]} of {purge[1]}"
    assert next(value for name, value in rows.items() if name.startswith("Varnish")) == alone
    assert (
        next(value for name, value in rows.items() if name.startswith("nginx"))
        == f"{nginx_alone[0]} of {nginx_alone[1]}"
    )


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_a_link_leads_somewhere(link: str) -> None:
    """A file of the repository, and in it a heading; links to other sites are not tried."""
    if link.startswith("https://"):
        return
    path, _, anchor = link.partition("#")
    target = REPOSITORY / path
    assert target.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
