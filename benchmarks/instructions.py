"""
Instructions of an answer, counted by valgrind: a figure that other work on the machine does not change.

The CPU time of an answer varies by some per cent from process to process, and by much more on a busy machine. So it
cannot show a difference of one per cent. The service runs in callgrind, which counts the instructions of its main
process while hits are sent, and then for as long without hits. What is left is that of the hits. Instructions of the
kernel are not counted.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks.servers import BenchError, Product

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WARM_UP = 300
HITS = 2_000
PROGRAMS = ("valgrind", "callgrind_control")


def has_valgrind() -> bool:
    """Whether instructions can be counted here."""
    return all(shutil.which(program) is not None for program in PROGRAMS)


class Counted(Product):
    """The service in callgrind. It counts nothing yet. All of it takes about fifty times as long."""

    ready_within_s = 600.0

    def __init__(
        self, folder: Path, origin_url: str, *, sections: Mapping[str, Mapping[str, object]] | None, name: str
    ) -> None:
        super().__init__(folder, origin_url, sections=sections, name=name)
        self._counts = folder / "counts"
        options = ("--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self._counts}")
        self._command = ["valgrind", *options, "--", *self._command]

    def instructions(self, target: str, headers: Mapping[str, str]) -> float:
        """Send hits, one after the other, over one connection. Return the instructions of one."""
        parts = urlsplit(self.url)
        fields = "".join(f"{name}: {value}\r\n" for name, value in {"Host": parts.netloc, **headers}.items())
        request = f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode()
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=120) as connection:
            for _ in range(WARM_UP):
                _ask(connection, request)
            self._control("--instr=on")
            for _ in range(WARM_UP):
                _ask(connection, request)
            self._control("--zero")
            began_s = time.monotonic()
            for _ in range(HITS):
                _ask(connection, request)
            took_s = time.monotonic() - began_s
            busy = self._count()
            time.sleep(took_s)
            idle = self._count()
            self._control("--instr=off")
        return (busy - idle) / HITS

    def _count(self) -> int:
        """Return the instructions since the last count."""
        before = set(self.folder.glob("counts.*"))
        self._control("--dump")
        found = set(self.folder.glob("counts.*")) - before
        texts = [path.read_text() for path in found]
        totals = [int(total) for text in texts for total in re.findall(r"^totals: (\d+)", text, re.MULTILINE)]
        if not totals:
            raise BenchError(f"callgrind has counted nothing: {self.log_tail()}")
        return sum(totals)

    def _control(self, option: str) -> None:
        subprocess.run(["callgrind_control", option, str(self.pid)], check=True, capture_output=True)


def _ask(connection: socket.socket, request: bytes) -> None:
    """Send a request, and read its answer, which must be a hit."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    missing = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
    while missing > 0:
        missing -= len(connection.recv(1 << 16))
    if b"; hit" not in head:
        raise BenchError(f"the answer was no hit: {head.decode('latin-1')}")
