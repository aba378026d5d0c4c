"""docs/cluster-tutorial.md: every command of the page is run over a real PostgreSQL, and says what the page shows."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.followed_page import REPOSITORY, Reader, blocks, free_ports
from tests.support.postgres import PASSWORD

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

NGINX, NGINX_ADMIN, EDGE_1, EDGE_2, LIBRARY, POSTGRES = "8080", "8081", "8181", "8182", "9090", "5432"
LISTENS = {"nginx": NGINX, "imgproxy library": LIBRARY, "edge-1": EDGE_1, "edge-2": EDGE_2}


@pytest.mark.slow
@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the page activates a virtual environment")
@pytest.mark.skipif(not all(map(shutil.which, ("curl", "openssl", "psql"))), reason="needs curl, openssl and psql")
@pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="needs nginx (Debian: apt-get install nginx-light)")
def test_a_revoke_on_one_node_is_gone_from_the_other_before_the_answer(
    tmp_path: Path, own_server: PostgresServer
) -> None:
    """Database, library, two nodes, nginx, and a purge at one node while the other is asked again and again."""
    (tmp_path / "src").symlink_to(REPOSITORY / "src")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    ports = {**free_ports(NGINX, NGINX_ADMIN, EDGE_1, EDGE_2, LIBRARY), POSTGRES: str(own_server.port)}
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack, ports, LISTENS, {"PGPASSWORD": PASSWORD})
        reader.copy_with_free_ports("deploy/nginx/cluster.conf")
        reader.follow(blocks("cluster-tutorial.md"))

    seen = (tmp_path / "try" / "seen").read_text("utf-8").splitlines()
    after = seen[seen.index("edge-1 has purged: 200") + 1 :]
    # The first of these may have been asked for before the purge was answered, and printed after that.
    assert len(after) >= 500
    assert set(after[1:]) == {"edge-2 answers 403"}
