"""The balancers of deploy/ in front of several nodes, with the shipped files, on free ports of the loopback."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tests.support.frontends import NGINX_CONF, REPOSITORY, binary, free_port, nginx_main, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

Kind = Literal["nginx", "haproxy"]

NGINX_CLUSTER = REPOSITORY / "deploy" / "nginx" / "cluster.conf"
HAPROXY_CFG = REPOSITORY / "deploy" / "haproxy" / "haproxy.cfg"


@dataclass(frozen=True, slots=True)
class Balancer:
    """A running balancer: the URL of its public port, and that of its port for admin routes."""

    url: str
    admin_url: str


def with_nodes(text: str, ports: Sequence[int]) -> str:
    """Return a configuration with these nodes: the line of edge-1, once for each of them, and no other node."""
    lines: list[str] = []
    for line in text.splitlines():
        if re.match(r"\s*server edge-1\b", line):
            for number, port in enumerate(ports, 1):
                node = line.replace("edge-1:8080", f"127.0.0.1:{port}")
                lines.append(re.sub(r"\bid 1\b", f"id {number}", node.replace("edge-1", f"edge-{number}")))
        elif not re.match(r"\s*server edge-\d", line):
            lines.append(line)
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def balancer(kind: Kind, directory: Path, nodes: Sequence[int]) -> AsyncIterator[Balancer]:
    """Run a balancer in front of the nodes with these ports. Skips the test if the program is not installed."""
    program = binary(kind)
    directory.mkdir(parents=True, exist_ok=True)
    port, admin_port = free_port(), free_port()
    if kind == "nginx":
        text = with_nodes(NGINX_CLUSTER.read_text(), nodes)
        text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
        text = text.replace("listen 8081;", f"listen 127.0.0.1:{admin_port};")
        path = nginx_main(directory, text, workers=2)
        command = [program, "-p", str(directory), "-c", str(path)]
    else:
        text = with_nodes(HAPROXY_CFG.read_text(), nodes)
        text = text.replace("bind :80\n", f"bind 127.0.0.1:{port}\n")
        text = text.replace("bind :8081\n", f"bind 127.0.0.1:{admin_port}\n")
        path = directory / "haproxy.cfg"
        path.write_text(text)
        command = [program, "-db", "-f", str(path)]
    async with running(command, port):
        yield Balancer(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")


def nginx_with_cache(nodes: Sequence[int]) -> str:
    """Return deploy/nginx/imgproxy.conf with the map and the upstream of cluster.conf, as that file advises."""
    cluster = with_nodes(NGINX_CLUSTER.read_text(), nodes)
    routing = cluster[cluster.index("map $uri") : cluster.index("server {")]
    text, replaced = re.subn(
        r"upstream imgproxy \{.*?\n\}\n", lambda _: routing, NGINX_CONF.read_text(), flags=re.DOTALL
    )
    assert replaced == 1
    return text
