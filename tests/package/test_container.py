"""The container image: its base is pinned, and everything that pip installs into it exists for both architectures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text("utf-8")
# What the Dockerfile installs: the backends of builds, what runs, and that with face detection (LOCK).
LOCKS = ("requirements-build.lock", "requirements.lock", "requirements-faces.lock")
# The base's Python and its glibc: Debian 12 has 3.11 and 2.36. A wheel for an older glibc runs there, too.
PYTHON, GLIBC_MINOR = "3.11", 36
# These come as source and are built in the image. There are no headers of libvips, so pyvips becomes a pure wheel.
FROM_SOURCE = {"pyvips"}
OLDEST_GLIBC_MINOR = 17


def entries(lock: str) -> list[tuple[str, str]]:
    """Return the name of each requirement of a lock file, and its text with the hashes."""
    text = re.sub(r"(?m)^ *#.*\n", "", (REPOSITORY / lock).read_text("utf-8"))
    parts = re.split(r"(?m)^(?=[A-Za-z0-9._-]+==)", text)
    return [(part.partition("==")[0], part) for part in parts if part.strip()]


def test_the_base_is_pinned_and_brought_up_to_date() -> None:
    """A digest names one image for ever; what was mended since then comes with the build."""
    assert re.search(r"^ARG BASE=debian:[a-z-]+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "python", "python"]
    assert "apt-get upgrade --yes" in DOCKERFILE


def test_the_dockerfile_installs_what_is_locked() -> None:
    """With hashes, and no other index file than these."""
    assert set(re.findall(r"requirements[a-z-]*\.lock", DOCKERFILE)) == set(LOCKS)
    assert DOCKERFILE.count("--require-hashes") == 2


def test_what_comes_as_source_becomes_a_pure_wheel() -> None:
    """So it needs no compiler on any architecture."""
    for name in FROM_SOURCE:
        assert re.search(r"^Tag: \S+-none-any$", distribution(name).read_text("WHEEL") or "", re.MULTILINE)


def test_the_lock_with_faces_has_all_that_runs() -> None:
    """So what holds for it holds for the one without."""
    assert set(entries("requirements.lock")) <= set(entries("requirements-faces.lock"))


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["requirements-build.lock", "requirements-faces.lock"])
def test_every_locked_package_has_a_wheel_for_arm64(tmp_path: Path, lock: str) -> None:
    """Pip finds one among the files whose hashes are locked. It asks the configured index. amd64: prove-dockerfile.sh."""
    wanted = [(name, text) for name, text in entries(lock) if name not in FROM_SOURCE]
    assert not any("platform_machine" in text for _, text in wanted), "pip would evaluate it for this machine"
    requirements, report = tmp_path / "requirements.txt", tmp_path / "report.json"
    requirements.write_text("".join(text for _, text in wanted))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--ignore-installed", "--only-binary=:all:"]
    command += ["--implementation=cp", f"--python-version={PYTHON}", f"--target={tmp_path}", f"--report={report}"]
    for minor in range(OLDEST_GLIBC_MINOR, GLIBC_MINOR + 1):
        command.append(f"--platform=manylinux_2_{minor}_aarch64")
    command.append("--platform=manylinux2014_aarch64")
    done = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True, check=False, timeout=600)

    assert done.returncode == 0, done.stdout + done.stderr
    found = [item["download_info"]["url"].rpartition("/")[2] for item in json.loads(report.read_text())["install"]]
    left_out = {name for name, text in wanted if ";" in text.partition("\\")[0]}  # by a marker: Windows, other Pythons
    assert len(found) >= len(wanted) - len(left_out)
    assert all(name.endswith(("-none-any.whl", "aarch64.whl")) for name in found), found
    assert any(name.endswith("aarch64.whl") for name in found)
