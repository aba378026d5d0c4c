"""Follow a page of the documentation: run its commands in their order, and look for what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.frontends import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import ExitStack

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page: what the comment above it says, and its text."""

    kind: str
    text: str


def blocks(name: str) -> list[Block]:
    """All blocks of a page of docs/. Each has a comment that says what a reader does with it."""
    page = (REPOSITORY / "docs" / name).read_text("utf-8")
    found = re.findall(r"^<!-- ([^\n]+?) -->\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(found) == page.count("\n```\n"), "a block has no comment that says what the test does with it"
    return [Block(kind, text) for kind, text in found]


class Reader:
    """
    Someone who follows a page in a folder that has the files of a clone.

    `ports` are those of the page; the reader takes free ones instead. `listens` says where a command that stays is found:
    a part of its text, and the port of the page. `environ` is the reader's environment, besides ours.
    """

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        ports: Mapping[str, str],
        listens: Mapping[str, str],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._stack = stack
        self.ports = dict(ports)
        self._listens = listens
        self._environ = {**os.environ, **(environ or {})}

    def follow(self, found: list[Block]) -> None:
        """Do what the blocks say, in their order."""
        for number, block in enumerate(found):
            if block.kind != "says":
                after = found[number + 1] if number + 1 < len(found) else None
                self._follow(block, self.with_free_ports(after.text) if after and after.kind == "says" else "")

    def _follow(self, block: Block, says: str) -> None:
        """Do what a block says. `says` is what its output must have, a part in each line."""
        text = self.with_free_ports(block.text)
        kind, _, name = block.kind.partition(": ")
        if kind == "file":
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text, "utf-8")
        elif kind == "stays":
            self._start(text)
        elif kind == "runs":
            output = self._run(text)
            assert all(line in output for line in says.splitlines()), output
        else:
            assert kind == "runs until it says"
            wait_until(lambda: all(line in self._run(text) for line in says.splitlines()), says)

    def with_free_ports(self, text: str) -> str:
        """The text with the reader's ports instead of the page's."""
        return re.sub(rf"\b({'|'.join(self.ports)})\b", lambda match: self.ports[match[0]], text)

    def copy_with_free_ports(self, path: str) -> None:
        """Put a file of the repository into the folder."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(self.with_free_ports((REPOSITORY / path).read_text("utf-8")), "utf-8")

    def _run(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _start(self, text: str) -> None:
        """Start what stays, and wait for its port."""
        port = self.ports[next(port for part, port in self._listens.items() if part in text)]
        if "make demo" in text:
            # The demo ends before the next step. Its environment is there: it is this one.
            ports = f"--port {port} --library-port {self.ports[self._listens['imgproxy library']]}"
            command = text.replace("make demo", f"make -o .venv/.runtime demo ARGS='{ports}'")
            with running(command, self.folder, self._environ):
                wait_until(lambda: status(f"http://127.0.0.1:{port}/-/ready") == 200, "the demo")
            return
        text = text.replace("imgproxy library ", f"imgproxy library --port {port} ")
        if os.getuid() == 0:  # else the worker of root's nginx is someone who may not read the test's folder
            text = text.replace("-c nginx.conf", "-c nginx.conf -g 'user root;'")
        self._stack.enter_context(running(text, self.folder, self._environ))
        wait_until(lambda: status(f"http://127.0.0.1:{port}/-/ready") > 0, text)


@contextmanager
def running(text: str, folder: Path, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a block in the background until the end, then press Ctrl-C."""
    process = subprocess.Popen(
        ["bash", "-euc", text],
        cwd=folder,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
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


def free_ports(*ports: str) -> dict[str, str]:
    """Return a free port for each port of a page."""
    return {port: str(free_port()) for port in ports}


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
