"""Programs that `go install` builds, for tests. `.ci/run` installs them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def find_go_program(name: str) -> str | None:
    """Return the path of a program, from PATH or from where `go install` puts it."""
    places = [os.environ.get("GOBIN", ""), str(Path(os.environ.get("GOPATH", Path.home() / "go")) / "bin")]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(filter(None, places)))
