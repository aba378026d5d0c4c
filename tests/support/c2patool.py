"""
A second reader of Content Credentials: the program c2patool, in tests that find it.

`cargo install c2patool@0.27.22 --locked` builds it. It is made of the same Rust library as c2pa-python, but of another
version, and it is run in a process of its own, with files and no settings of ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.credentials import Authority


def find_c2patool() -> str | None:
    """Return the path of the program, from PATH or from where `cargo install` puts it."""
    homes = [os.environ.get("CARGO_INSTALL_ROOT"), os.environ.get("CARGO_HOME"), str(Path.home() / ".cargo")]
    places = os.pathsep.join(str(Path(home) / "bin") for home in homes if home)
    return shutil.which("c2patool") or shutil.which("c2patool", path=places)


C2PATOOL = find_c2patool()
needs_c2patool = pytest.mark.skipif(C2PATOOL is None, reason="needs c2patool: cargo install c2patool@0.27.22 --locked")


def read_file(path: Path, *, trusted: Authority | None = None, manifest: Path | None = None) -> dict[str, Any] | None:
    """
    Return the manifest store of a file as c2patool reports it; None if it has none.

    Those whom `trusted` has signed are trusted. `manifest` is a store beside the file. Without it, the program fetches
    what the file has a link to.
    """
    assert C2PATOOL is not None
    command = [C2PATOOL, str(path)]
    if manifest is not None:
        command += ["--external-manifest", str(manifest)]
    if trusted is not None:
        anchors = path.with_suffix(".anchors.pem")
        anchors.write_text(trusted.anchor)
        command += ["trust", "--trust_anchors", str(anchors)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode and "No claim found" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
