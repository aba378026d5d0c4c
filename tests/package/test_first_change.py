"""CONTRIBUTING.md, "Your first change in 15 minutes": its steps work, one after the other, as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEADING = "Your first change in 15 minutes"
GIT = ("git", "-c", "user.name=Newcomer", "-c", "user.email=newcomer@example.com")
STEP_S = 1200


def steps() -> list[tuple[str, str]]:
    """Return the blocks of the section: their language, and their text without the indentation of the list."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    section = page.split(f"\n## {HEADING}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", section, re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(text)) for _, language, text in found]


def clone(folder: Path) -> None:
    """Make a repository with the files of this one, also those that are not committed yet, and its environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "Start")):
        subprocess.run([*GIT, *command], cwd=folder, check=True, timeout=60)
    # What `make` would install is here already.
    (folder / ".venv").mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):  # all three: with `bin` alone Python finds no package of the environment
        (folder / ".venv" / part).symlink_to(Path(sys.prefix) / part)
    for stamp in (".runtime", ".ready"):
        (folder / ".venv" / stamp).touch()


def test_there_is_a_failing_test_before_the_change_and_a_check_after_it() -> None:
    """The section has patches and commands, and none of them was missed."""
    languages = [language for language, _ in steps()]

    assert languages == ["sh", "diff", "sh", "diff", "sh", "sh", "sh"]
    assert [text for _, text in steps() if text.startswith("! ")] == [
        "! make test ARGS=tests/unit/test_params_parse.py\n"
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_first_change_works_as_it_is_written(tmp_path: Path) -> None:
    """In a clone: every command ends as the page says, every patch applies, and three files differ."""
    clone(tmp_path)
    identity = {"NAME": "Newcomer", "EMAIL": "newcomer@example.com"}
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_", "MAKE"))},
        **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in identity.items()},
        "PYTHONPATH": str(tmp_path / "src"),
    }
    for language, text in steps():
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else ["git", "apply", "--verbose", "-"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environ,
            input="" if language == "sh" else text,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_S,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"

    changed = subprocess.run(
        [*GIT, "show", "--name-only", "--format="], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert changed.split() == ["docs/urls.md", "src/imgproxy/params/table/size.py", "tests/unit/test_params_parse.py"]
