"""docs/tutorial.md: every command of the page is run, in its order, and says what the page shows."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.followed_page import REPOSITORY, Reader, blocks, free_ports

EDGE, LIBRARY, NGINX = "8080", "9090", "8088"
LISTENS = {"nginx": NGINX, "imgproxy library": LIBRARY, "make demo": EDGE, "imgproxy serve": EDGE}


@pytest.mark.slow
@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the tutorial activates a virtual environment")
@pytest.mark.skipif(shutil.which("make") is None or shutil.which("curl") is None, reason="needs make and curl")
@pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="needs nginx (Debian: apt-get install nginx-light)")
def test_the_tutorial_works_from_the_first_command_to_the_last(tmp_path: Path) -> None:
    """Demo, library, edge, a signed URL, nginx, a revocation, and its receipt."""
    for name in ("Makefile", "src"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    found = blocks("tutorial.md")
    assert {block.kind.partition(":")[0] for block in found} == {"stays", "file", "runs", "runs until it says", "says"}
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack, free_ports(EDGE, LIBRARY, NGINX), LISTENS)
        reader.copy_with_free_ports("deploy/nginx/imgproxy.conf")
        reader.follow(found)
