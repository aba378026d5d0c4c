"""
Finds the interpreters of Python on this machine that this project supports.

`python -m tools.interpreters` prints a line for each: version and path. They are looked for on the PATH and among those
of pyenv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# As in `classifiers` of pyproject.toml; a test compares them.
SUPPORTED: Final = ("3.11", "3.12", "3.13", "3.14")
ANSWER_S: Final = 20
_SAYS_VERSION: Final = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def find_interpreter(version: str) -> Path | None:
    """Return an interpreter of this version ("3.12") that can make virtual environments, or None."""
    return next((path for path in _candidates(version) if _version_of(path) == version), None)


def _candidates(version: str) -> Iterator[Path]:
    """Yield where an interpreter may be."""
    found = shutil.which(f"python{version}")
    if found is not None:
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)
    # Debian's own, where another one comes first on the PATH.
    yield Path(f"/usr/bin/python{version}")


def _version_of(path: Path) -> str | None:
    """Return the version that an interpreter names, or None if it does not run. Some shims of pyenv only complain."""
    command = [str(path), "-I", "-c", _SAYS_VERSION]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=ANSWER_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    for each in SUPPORTED:
        print(each, find_interpreter(each) or "none")  # noqa: T201 - the output of a script
