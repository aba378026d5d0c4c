"""A real Varnish and a real nginx for a test, with the configurations in deploy/, on free ports of the loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

REPOSITORY = Path(__file__).parents[2]
VARNISH_VCL = REPOSITORY / "deploy" / "varnish" / "default.vcl"
NGINX_CONF = REPOSITORY / "deploy" / "nginx" / "imgproxy.conf"
PURGE_TOKEN = "varnish-token"


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary(name: str) -> str:
    """The path of a program; skips the test where it is missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install varnish varnish-modules nginx-light haproxy)")
    return found


@asynccontextmanager
async def running(
    command: Sequence[str], port: int, *, environment: dict[str, str] | None = None
) -> AsyncIterator[None]:
    """Run a program until the block ends; it is up when its port takes connections."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdout is not None
    output = asyncio.create_task(process.stdout.read())
    try:
        await _accepting(port, process, output)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
        output.cancel()
        await asyncio.gather(output, return_exceptions=True)


async def _accepting(port: int, process: asyncio.subprocess.Process, output: asyncio.Task[bytes]) -> None:
    async with asyncio.timeout(30):
        while True:
            if process.returncode is not None:
                raise AssertionError((await output).decode(errors="replace"))
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return


@asynccontextmanager
async def varnish(
    directory: Path,
    backend_port: int,
    *,
    vcl: str | None = None,
    port: int | None = None,
    purge_token: str | None = PURGE_TOKEN,
) -> AsyncIterator[str]:
    """Varnish before a backend on the loopback, with the VCL in deploy/ unless another is given; its URL."""
    program = binary("varnishd")
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    text = (vcl or VARNISH_VCL.read_text()).replace('.port = "8080"', f'.port = "{backend_port}"')
    path = directory / "test.vcl"
    path.write_text(text)
    command = [program, "-F", "-j", "none", "-n", str(directory / "varnish"), "-a", f"127.0.0.1:{port}"]
    # A small node: two pools of threads for a hundred requests, and memory that is not the machine's.
    command += ["-T", "none", "-f", str(path), "-s", "malloc,64m", "-p", "thread_pool_min=10", "-p", "vsl_space=8m"]
    async with running(command, port, environment={} if purge_token is None else {"IMGPROXY_PURGE_TOKEN": purge_token}):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def nginx(directory: Path, backend_port: int, *, config: str | None = None) -> AsyncIterator[str]:
    """Nginx before a backend on the loopback, with the configuration in deploy/ unless another is given; its URL."""
    program = binary("nginx")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    text = (config or NGINX_CONF.read_text()).replace("127.0.0.1:8080", f"127.0.0.1:{backend_port}")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    text = text.replace("/run/nginx-imgproxy.sock", f"{directory}/inner.sock")
    text = text.replace("/var/cache/nginx/imgproxy", f"{directory}/cache")
    path = nginx_main(directory, text)
    command = [program, "-p", str(directory), "-c", str(path)]
    async with running(command, port):
        yield f"http://127.0.0.1:{port}"


def nginx_main(directory: Path, http: str, *, workers: int = 1) -> Path:
    """Write nginx.conf with this as its http block. All its files are in the directory. Returns its path."""
    temporary = "".join(
        f"    {kind}_temp_path {directory}/temp-{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = directory / "nginx.conf"
    path.write_text(
        f"daemon off;\nuser {_user()};\nworker_processes {workers};\npid {directory}/nginx.pid;\n"
        f"error_log stderr warn;\nevents {{ worker_connections 256; }}\n"
        f"http {{\n    access_log off;\n{temporary}{http}\n}}\n"
    )
    return path


def _user() -> str:
    """Who runs the test, so that the worker may write what the master made."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
