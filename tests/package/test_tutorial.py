"""docs/tutorial.md: every command of the page is run, in its order, and says what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.frontends import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8")
# Ports of the page. The test takes free ones instead.
EDGE, LIBRARY, NGINX = "8080", "9090", "8088"
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the page: what the comment above it says, and its text."""

    kind: str
    text: str


def blocks() -> list[Block]:
    """All blocks of the page."""
    found = re.findall(r"^<!-- ([^\n]+?) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == PAGE.count("\n```\n"), "a block has no comment that says what the test does with it"
    return [Block(kind, text) for kind, text in found]


class Reader:
    """Someone who follows the page in a folder that has the files of a clone."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._ports = {name: str(free_port()) for name in (EDGE, LIBRARY, NGINX)}

    def follow(self, block: Block, says: str) -> None:
        """Do what a block says. `says` is what its output must have, a part in each line."""
        text = self.with_free_ports(block.text)
        kind, _, name = block.kind.partition(": ")
        if kind == "file":
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_text(text, "utf-8")
        elif kind == "stays":
            self._start(text)
        elif kind == "runs":
            self._check(self._run(text), says)
        else:
            assert kind == "runs until it says"
            wait_until(lambda: all(line in self._run(text) for line in says.splitlines()), says)

    def with_free_ports(self, text: str) -> str:
        """The text with the test's ports instead of the page's."""
        return re.sub(rf"\b({EDGE}|{LIBRARY}|{NGINX})\b", lambda match: self._ports[match[0]], text)

    def _check(self, output: str, says: str) -> None:
        for line in says.splitlines():
            assert line in output, output

    def _run(self, text: str) -> str:
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _start(self, text: str) -> None:
        """Start what stays, and wait for its port."""
        port = self._ports[EDGE]
        if "make demo" in text:
            # The demo ends before the next step. Its environment is there: it is this one.
            ports = f"--port {port} --library-port {self._ports[LIBRARY]}"
            with running(text.replace("make demo", f"make -o .venv/.runtime demo ARGS='{ports}'"), self._folder):
                wait_until(lambda: status(f"http://127.0.0.1:{port}/-/ready") == 200, "the demo")
            return
        if "imgproxy library" in text:
            port, text = (
                self._ports[LIBRARY],
                text.replace("imgproxy library ", f"imgproxy library --port {self._ports[LIBRARY]} "),
            )
        if "nginx" in text:
            port = self._ports[NGINX]
            if os.getuid() == 0:  # else the worker of root's nginx is someone who may not read the test's folder
                text = text.replace("-c nginx.conf", "-c nginx.conf -g 'user root;'")
        self._stack.enter_context(running(text, self._folder))
        wait_until(lambda: status(f"http://127.0.0.1:{port}/-/ready") > 0, text)


@contextmanager
def running(text: str, folder: Path) -> Iterator[None]:
    """Run a block in the background until the end, then press Ctrl-C."""
    process = subprocess.Popen(
        ["bash", "-euc", text], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def status(url: str) -> int:
    """The status of an answer, 0 without one."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_until(holds: object, what: str) -> None:
    """Wait until something is so."""
    assert callable(holds)
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, f"not in {LIMIT_S:.0f} s: {what}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the tutorial activates a virtual environment")
@pytest.mark.skipif(shutil.which("make") is None or shutil.which("curl") is None, reason="needs make and curl")
@pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="needs nginx (Debian: apt-get install nginx-light)")
def test_the_tutorial_works_from_the_first_command_to_the_last(tmp_path: Path) -> None:
    """Demo, library, edge, a signed URL, nginx, a revocation, and its receipt."""
    for name in ("Makefile", "src"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    found = blocks()
    assert {block.kind.partition(":")[0] for block in found} == {"stays", "file", "runs", "runs until it says", "says"}
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        (tmp_path / "deploy/nginx").mkdir(parents=True)
        nginx = REPOSITORY / "deploy/nginx/imgproxy.conf"
        (tmp_path / "deploy/nginx/imgproxy.conf").write_text(reader.with_free_ports(nginx.read_text("utf-8")), "utf-8")
        for number, block in enumerate(found):
            if block.kind != "says":
                after = found[number + 1] if number + 1 < len(found) else None
                reader.follow(block, after.text if after is not None and after.kind == "says" else "")
