"""The files for contributors: hooks, editors, the container to develop in, and the forms of issues."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def read(path: str) -> str:
    return (REPOSITORY / path).read_text("utf-8")


def test_the_hooks_are_valid_and_use_what_is_installed() -> None:
    """pre-commit accepts the file; each hook is local, and its program is in .venv."""
    command = [str(BIN / "pre-commit"), "validate-config", ".pre-commit-config.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr

    hooks = [
        (repo["repo"], hook)
        for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
        for hook in repo["hooks"]
    ]
    assert len(hooks) == 4
    for repo, hook in hooks:
        program, *arguments = hook["entry"].split()
        assert (repo, hook["language"]) == ("local", "system"), "others are fetched"
        assert program.startswith(".venv/bin/")
        assert (BIN / Path(program).name).exists()
        assert all((REPOSITORY / each).is_file() for each in arguments if each.startswith("tests/"))


def test_editors_wrap_lines_where_ruff_does() -> None:
    """The longest line is the same, and a Makefile has tabs."""
    parser = configparser.ConfigParser()
    parser.read_string("[top]\n" + read(".editorconfig"))

    assert parser["*"]["max_line_length"] == str(tomllib.loads(read("pyproject.toml"))["tool"]["ruff"]["line-length"])
    assert parser["Makefile"]["indent_style"] == "tab"


def test_the_container_to_develop_in_has_the_packages_of_ci() -> None:
    """A test that runs in CI runs there, too."""
    (listed,) = re.findall(r"--no-install-recommends \\\n +(.+?) >/dev/null", read(".ci/run"))
    found = set(read(".devcontainer/Dockerfile").split())

    assert set(listed.split()) <= found
    settings = json.loads(read(".devcontainer/devcontainer.json"))
    assert (REPOSITORY / ".devcontainer" / settings["build"]["dockerfile"]).is_file()
    assert settings["remoteUser"] in found
    assert settings["forwardPorts"] == [8080, 9090]


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_the_forms_of_issues_have_what_the_host_asks_for(name: str) -> None:
    """A name, a description, and fields with an id and a label each; an invalid form is not shown."""
    form: dict[str, Any] = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    fields = [field for field in form["body"] if field["type"] != "markdown"]

    assert form["name"]
    assert form["description"]
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    for field in fields:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in fields)
