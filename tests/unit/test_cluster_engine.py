"""The driver of the cluster's database is loaded only where there is a cluster."""

from __future__ import annotations

import subprocess
import sys

import pytest

from imgproxy.cluster.engine import open_engine, read_status, try_database
from imgproxy.errors import ConfigError

URL = "postgresql://127.0.0.1/d"


def test_an_edge_alone_does_not_load_the_driver() -> None:
    """Neither the edge nor the command line imports it, nor what is written for it."""
    program = (
        "import sys, imgproxy.edge.app, imgproxy.cli.__main__, imgproxy.cluster.engine\n"
        "print([name for name in sys.modules if 'asyncpg' in name or 'postgres_log' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


async def test_without_the_extra_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for call in (lambda: open_engine(URL, node="a", run="r", timeout_s=1.0), lambda: read_status(URL)):
        with pytest.raises(ConfigError, match=r"pip install 'imgproxy-edge\[cluster\]'"):
            await call()  # type: ignore[misc]
    with pytest.raises(ConfigError, match="is not installed"):
        await try_database(URL)
