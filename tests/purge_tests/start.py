"""Start the installed proxies, each in front of an origin of its own, on free ports of the loopback."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import shutil
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from .doors import Doors
from .targets import Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
ADMIN_TOKEN = "purge-tests"
WEBHOOK_SECRET = "purge-tests-webhooks"
NODES = 3
START_PATIENCE_S = 40.0


class NotInstalled(Exception):
    """A program is missing; the text names it."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotInstalled(name)
    return found


async def _version(command: Sequence[str]) -> str:
    """Return the first version number that a program prints."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    match = re.search(rb"\d+\.\d+(\.\d+)?", output)
    return match.group(0).decode() if match else ""


@asynccontextmanager
async def _running(command: Sequence[str], port: int, log: Path) -> AsyncIterator[None]:
    """Run a program until the block ends. It has started when its port accepts connections."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            cwd=log.parent,
        )
    try:
        async with asyncio.timeout(START_PATIENCE_S):
            while True:
                if process.returncode is not None:
                    raise RuntimeError(log.read_text("utf-8", "replace"))
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                break
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def _imgproxy(
    directory: Path, origin_port: int, *, name: str = "imgproxy", more: str = ""
) -> AsyncIterator[Target]:
    """Run the edge of this repository as a process. It revalidates an original after two seconds."""
    port = _free_port()
    directory.mkdir(parents=True)
    config = directory / "imgproxy.toml"
    config.write_text(
        f'[server]\nport = {port}\n[origin]\nurl = "http://127.0.0.1:{origin_port}"\n'
        f'[admin]\ntoken = "{ADMIN_TOKEN}"\n[cache]\ndir = "{directory}/cache"\nmin_free_bytes = 0\n'
        f'[freshness]\nrevalidate_after_s = 2\n[render]\nprocesses = 1\n[webhook]\nsecrets = ["{WEBHOOK_SECRET}"]\n{more}',
        "utf-8",
    )
    program = [sys.executable, "-P", "-m", "imgproxy.cli"]
    version = await _version([sys.executable, "-P", "-c", "import imgproxy; print(imgproxy.__version__)"])
    async with _running([*program, "serve", "-c", str(config)], port, directory / "log"):
        yield Target(
            name,
            f"http://127.0.0.1:{port}",
            purge_headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
            version=version,
        )


@asynccontextmanager
async def _varnish(directory: Path, vcl: str, port: int) -> AsyncIterator[str]:
    """Run Varnish with this VCL. Yields its version."""
    program = _binary("varnishd")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "test.vcl"
    path.write_text(vcl, "utf-8")
    command = [program, "-F", "-j", "none", "-n", str(directory / "varnish"), "-a", f"127.0.0.1:{port}", "-T", "none"]
    command += ["-f", str(path), "-s", "malloc,64m", "-p", "thread_pool_min=20", "-p", "vsl_space=8m"]
    async with _running(command, port, directory / "log"):
        yield await _version([program, "-V"])


@asynccontextmanager
async def _nginx(directory: Path, text: str, port: int) -> AsyncIterator[str]:
    """Run nginx with this part of its http block. Yields its version."""
    program = _binary("nginx")
    directory.mkdir(parents=True, exist_ok=True)
    temporary = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi"))
    temporary += "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in ("uwsgi", "scgi"))
    path = directory / "nginx.conf"
    path.write_text(
        f"daemon off;\nuser {pwd.getpwuid(os.getuid()).pw_name};\nworker_processes 1;\npid {directory}/pid;\n"
        f"error_log stderr warn;\nevents {{ worker_connections 256; }}\n"
        f"http {{\naccess_log off;\n{temporary}{text}\n}}\n",
        "utf-8",
    )
    async with _running([program, "-p", str(directory), "-c", str(path)], port, directory / "log"):
        yield await _version([program, "-v"])


@asynccontextmanager
async def imgproxy(directory: Path, origin_port: int) -> AsyncIterator[Target]:
    """Run the edge alone."""
    async with _imgproxy(directory / "edge", origin_port) as target:
        yield target


@asynccontextmanager
async def imgproxy_varnish(directory: Path, origin_port: int) -> AsyncIterator[Target]:
    """Run the edge behind Varnish with deploy/varnish. Purges go to the edge."""
    _binary("varnishd")
    port = _free_port()
    more = f'[[downstream]]\nkind = "varnish"\nurl = "http://127.0.0.1:{port}/"\nwait_s = 10\n'
    async with _imgproxy(directory / "edge", origin_port, more=more) as edge:
        vcl = (REPOSITORY / "deploy/varnish/default.vcl").read_text("utf-8")
        vcl = vcl.replace('.port = "8080"', f'.port = "{edge.url.rsplit(":", 1)[1]}"')
        async with _varnish(directory / "front", vcl, port) as version:
            yield Target(
                "imgproxy + Varnish",
                f"http://127.0.0.1:{port}",
                purge_url=edge.url,
                purge_headers=edge.purge_headers,
                version=f"{edge.version} + {version}",
            )


@asynccontextmanager
async def imgproxy_nginx(directory: Path, origin_port: int) -> AsyncIterator[Target]:
    """Run the edge behind nginx with deploy/nginx. Purges go to the edge, which nginx asks before each use."""
    _binary("nginx")
    port = _free_port()
    async with _imgproxy(directory / "edge", origin_port) as edge:
        text = (REPOSITORY / "deploy/nginx/imgproxy.conf").read_text("utf-8")
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{edge.url.rsplit(':', 1)[1]}")
        text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
        text = text.replace("/run/nginx-imgproxy.sock", f"{directory}/inner.sock")
        text = text.replace("/var/cache/nginx/imgproxy", f"{directory}/cache")
        async with _nginx(directory / "front", text, port) as version:
            yield Target(
                "imgproxy + nginx",
                f"http://127.0.0.1:{port}",
                purge_url=edge.url,
                purge_headers=edge.purge_headers,
                version=f"{edge.version} + {version}",
            )


@asynccontextmanager
async def varnish_purge(directory: Path, origin_port: int) -> AsyncIterator[Target]:
    """Run Varnish, purged by URL."""
    async with _plain_varnish(directory, origin_port) as (url, version):
        yield Target("Varnish PURGE", url, "PURGE", version=version)


@asynccontextmanager
async def varnish_ban(directory: Path, origin_port: int) -> AsyncIterator[Target]:
    """Run Varnish, purged by a ban on the path."""
    async with _plain_varnish(directory, origin_port) as (url, version):
        yield Target("Varnish BAN", url, "BAN", version=version)


@asynccontextmanager
async def varnish_xkey(directory: Path, origin_port: int) -> AsyncIterator[Target]:
    """Run Varnish, purged by tag."""
    async with _plain_varnish(directory, origin_port) as (url, version):
        yield Target("Varnish xkey", url, "xkey", version=version)


@asynccontextmanager
async def _plain_varnish(directory: Path, origin_port: int) -> AsyncIterator[tuple[str, str]]:
    port = _free_port()
    vcl = (HERE / "configs" / "varnish.vcl").read_text("utf-8").replace("@ORIGIN_PORT@", str(origin_port))
    async with _varnish(directory, vcl, port) as version:
        yield f"http://127.0.0.1:{port}", version


@asynccontextmanager
async def nginx(directory: Path, origin_port: int) -> AsyncIterator[Target]:
    """Run nginx with proxy_cache, which open-source nginx cannot purge."""
    port = _free_port()
    text = (HERE / "configs" / "nginx.conf").read_text("utf-8").replace("@ORIGIN_PORT@", str(origin_port))
    text = text.replace("@PORT@", str(port)).replace("@DIRECTORY@", str(directory))
    async with _nginx(directory, text, port) as version:
        yield Target("nginx (no purge)", f"http://127.0.0.1:{port}", "none", version=version)


@asynccontextmanager
async def _nodes(directory: Path, origin_port: int, more: Sequence[str]) -> AsyncIterator[tuple[Target, ...]]:
    """Run an edge for each of these additions to its configuration."""
    async with AsyncExitStack() as stack:
        yield tuple(
            [
                await stack.enter_async_context(
                    _imgproxy(directory / f"node-{number}", origin_port, name=f"node {number}", more=text)
                )
                for number, text in enumerate(more, 1)
            ]
        )


@asynccontextmanager
async def twice(directory: Path, origin_port: int, database_url: str | None) -> AsyncIterator[Doors]:
    """Run one edge, and give it as two doors."""
    del database_url
    async with _nodes(directory, origin_port, [""]) as (node,):
        yield Doors("imgproxy, 1 node, given twice", (node, node), WEBHOOK_SECRET)


@asynccontextmanager
async def apart(directory: Path, origin_port: int, database_url: str | None) -> AsyncIterator[Doors]:
    """Run two edges that do not know of each other. They cannot keep the promise: the control."""
    del database_url
    async with _nodes(directory, origin_port, ["", ""]) as nodes:
        yield Doors("imgproxy, 2 nodes, no cluster", nodes, WEBHOOK_SECRET)


@asynccontextmanager
async def clustered(directory: Path, origin_port: int, database_url: str | None) -> AsyncIterator[Doors]:
    """Run the nodes of a cluster over a PostgreSQL that runs already."""
    if database_url is None:
        raise NotInstalled("a database (--database-url)")
    sections = [
        f'[cluster]\ndatabase_url = {json.dumps(database_url)}\nnode = "node-{number}"\n' for number in range(NODES)
    ]
    async with _nodes(directory, origin_port, sections) as nodes:
        await _all_current(nodes)
        yield Doors(f"imgproxy, {NODES} nodes, one cluster", nodes, WEBHOOK_SECRET)


async def _all_current(nodes: Sequence[Target]) -> None:
    """Wait until every node may answer from its cache. A fenced one asks the origin each time, and proves nothing here."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(START_PATIENCE_S):
        for node in nodes:
            while (await _readiness(session, node)).get("fenced") is not False:
                await asyncio.sleep(0.05)


async def _readiness(session: aiohttp.ClientSession, node: Target) -> dict[str, Any]:
    async with session.get(f"{node.url}/-/ready") as response:
        found = await response.json()
    return dict(found)


SEVERAL: dict[str, Callable[[Path, int, str | None], AbstractAsyncContextManager[Doors]]] = {
    "imgproxy-cluster": clustered,
    "imgproxy-twice": twice,
    "imgproxy-apart": apart,
}

STARTERS: dict[str, Callable[[Path, int], AbstractAsyncContextManager[Target]]] = {
    "imgproxy": imgproxy,
    "imgproxy-varnish": imgproxy_varnish,
    "imgproxy-nginx": imgproxy_nginx,
    "varnish-purge": varnish_purge,
    "varnish-ban": varnish_ban,
    "varnish-xkey": varnish_xkey,
    "nginx": nginx,
}
