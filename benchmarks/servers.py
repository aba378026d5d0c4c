"""The servers of a benchmark: each is a process on a free loopback port. They are ended by their process id."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from benchmarks import accounting
from benchmarks.client import get

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 15.0


class BenchError(Exception):
    """A row could not be measured; the text is the reason."""


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def pinned(core: int | None) -> list[str]:
    """Return the words before a command that keep it on one core."""
    return [] if core is None else ["taskset", "-c", str(core)]


class Server:
    """A process that answers HTTP at `url`."""

    ready_within_s = START_TIMEOUT_S

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        url: str,
        log: Path,
        ready_path: str = "/",
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self._command = [*pinned(core), *command]
        self._log = log
        self._ready_path = ready_path
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        try:
            self._await_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        below = accounting.tree(process.pid)[1:]
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process = None

    @property
    def pid(self) -> int:
        """Return its process id. It is that of the server, because `taskset` calls exec."""
        assert self._process is not None, "the server is started"
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the CPU seconds so far, of the process and its descendants."""
        return accounting.tree_cpu_s(self.pid)

    def resident_bytes(self) -> int:
        """Return the resident size of the process and its descendants."""
        return accounting.tree_resident_bytes(self.pid)

    def log_tail(self) -> str:
        """Return the end of its output."""
        return self._log.read_text(errors="replace")[-800:]

    def _await_ready(self) -> None:
        parts = urlsplit(self.url)
        end_at = time.monotonic() + self.ready_within_s
        while time.monotonic() < end_at:
            assert self._process is not None
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} ended as it started: {self.log_tail()}")
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
            try:
                connection.request("GET", self._ready_path)
                connection.getresponse().read()
            except OSError:
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()
        raise BenchError(f"{self.name} did not answer within {self.ready_within_s:.0f} s: {self.log_tail()}")


# --- the product ----------------------------------------------------------------------------------------------------


def imgproxy_command(*words: str) -> list[str]:
    """Return a command of the product, from the environment that runs the benchmark."""
    script = Path(sys.executable).parent / "imgproxy"
    if not script.exists():
        raise BenchError(f"{script} is not there: run `make bench`, or install the project beside this Python")
    return [str(script), *words]


class Product(Server):
    """`imgproxy serve` with a configuration of its own. `sections` adds to or overrides `{section: {key: value}}`."""

    ADMIN = "bench-admin"

    def __init__(
        self,
        folder: Path,
        origin_url: str,
        *,
        sections: Mapping[str, Mapping[str, object]] | None = None,
        core: int | None = None,
        name: str = "imgproxy",
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        settings: dict[str, dict[str, object]] = {
            "server": {"port": free_port(), "shutdown_timeout_s": 2},
            "origin": {"url": origin_url, "token": "bench-token"},
            "admin": {"token": self.ADMIN},
            "cache": {"dir": str(folder / "cache")},
            "log": {"access": "none"},
            # A benchmark runs longer than five minutes, the default. Revalidations must not disturb it.
            "freshness": {"revalidate_after_s": 86_400},
        }
        for section, values in (sections or {}).items():
            settings.setdefault(section, {}).update(values)
        port = settings["server"]["port"]
        file = folder / "edge.toml"
        file.write_text(_toml(settings), encoding="utf-8")
        super().__init__(
            name,
            imgproxy_command("serve", "-c", str(file)),
            url=f"http://127.0.0.1:{port}",
            log=folder / "edge.log",
            ready_path="/-/ready",
            core=core,
            # An installed service has its bytecode. This one has it after its first start.
            environment={"PYTHONDONTWRITEBYTECODE": ""},
        )

    @property
    def admin_headers(self) -> dict[str, str]:
        """Return the headers that /-/metrics and /-/status need."""
        return {"Authorization": f"Bearer {self.ADMIN}"}

    @property
    def render_pids(self) -> list[int]:
        """Return the render processes: all descendants of the edge."""
        return accounting.tree(self.pid)[1:]

    def render_cpu_s(self) -> float:
        """Return the CPU seconds of the render processes, those that have ended included."""
        return accounting.tree_cpu_s(self.pid) - accounting.cpu_s(self.pid, with_reaped=False)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels."""
        text = get(f"{self.url}/-/metrics", self.admin_headers).body.decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.split("{")[0].split(" ")[0] == name and all(part in line for part in wanted)
        )


def _toml(settings: Mapping[str, Mapping[str, object]]) -> str:
    def value(given: object) -> str:
        if isinstance(given, bool):
            return str(given).lower()
        return f'"{given}"' if isinstance(given, str) else str(given)

    return "\n".join(
        f"[{section}]\n" + "\n".join(f"{key} = {value(given)}" for key, given in values.items()) + "\n"
        for section, values in settings.items()
    )


class Library(Server):
    """`imgproxy library` over a folder of pictures. `options` are further words of the command."""

    def __init__(self, pictures: Path, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        words = ("--port", str(port), "--token", "bench-token", "--state", str(folder), *options)
        super().__init__(
            "library",
            imgproxy_command("library", str(pictures), *words),
            url=f"http://127.0.0.1:{port}",
            log=folder / "library.log",
        )


# --- nginx ----------------------------------------------------------------------------------------------------------

_NGINX = """
worker_processes 1; daemon off; {user}
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log {access_log}; sendfile on; tcp_nopush on; keepalive_requests 1000000000; etag on;
  open_file_cache max=20000 inactive=600s; open_file_cache_valid 600s;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ image/jpeg jpg jpeg; image/webp webp; image/gif gif; image/png png; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {folder}/www;
{locations}
  }}
}}
"""


class Nginx(Server):
    """nginx with one worker over the folder `www`, which is made here."""

    def __init__(
        self, folder: Path, locations: str, *, core: int | None = None, name: str = "nginx", access_log: str = "off"
    ) -> None:
        if shutil.which("nginx") is None:
            raise BenchError("nginx is not installed (Debian: apt-get install nginx-light)")
        self.folder = folder
        self.www = folder / "www"
        self.www.mkdir(parents=True)
        port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        conf = folder / "nginx.conf"
        conf.write_text(
            _NGINX.format(folder=folder, port=port, locations=locations, user=user, access_log=access_log),
            encoding="utf-8",
        )
        super().__init__(
            name,
            ["nginx", "-p", str(folder), "-c", str(conf)],
            url=f"http://127.0.0.1:{port}",
            log=folder / "out.log",
            ready_path="/ready-or-not",
            core=core,
        )

    @property
    def worker_pid(self) -> int:
        """Return the id of the process that answers."""
        return accounting.children(self.pid)[0]


class Origin(Nginx):
    """
    serve-image by nginx: `any/key/NAME` is the picture NAME of `www`.

    So a row has as many keys as it needs, and the origin is never what is measured. Each fetch is a line of the access
    log, which counts independently of the product.
    """

    def __init__(self, folder: Path) -> None:
        locations = (
            f"location ~ ^/api/[^/]+/mediaLibrary/serve-image/(?:.*/)?([^/]+)$ {{ alias {folder}/www/$1; }}\n"
            f"location ~ ^/(?:.*/)?([^/]+)$ {{ alias {folder}/www/$1; }}"
        )
        super().__init__(folder, locations, name="origin", access_log=f"{folder}/access.log")

    def fetches(self, part: str) -> int:
        """Return how many lines of the access log have this text."""
        with (self.folder / "access.log").open(encoding="utf-8") as file:
            return sum(part in line for line in file)
