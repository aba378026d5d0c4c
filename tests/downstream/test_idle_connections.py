"""Idle connections between a cache in front and the edge: a request on one that is just being closed gets its answer."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.downstream.front import Kind, fronted
from tests.support.frontends import NGINX_CONF
from tests.support.site import KEY, site

BOTH: list[Kind] = ["varnish", "nginx"]


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "reset"])
async def test_a_picture_comes_although_its_connection_ends_as_it_is_asked_for(
    tmp_path: Path, kind: Kind, *, is_reset: bool
) -> None:
    """The cache in front asks again over a new connection, however many old ones it has."""
    async with fronted(tmp_path, kind) as front:
        first = await asyncio.gather(*(front.get(f"/{KEY}?w={width}") for width in range(50, 54)))
        front.network.end_at_next_request(is_reset=is_reset)
        again = await asyncio.gather(*(front.get(f"/{KEY}?w={width}") for width in range(60, 64)))

        assert [reply.status for reply in first + again] == [200] * 8
        assert front.network.ended > 0


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    "is_reset", [pytest.param(False, id="fin"), pytest.param(True, id="reset", marks=pytest.mark.slow)]
)
async def test_a_webhook_comes_although_its_connection_ends_as_it_is_sent(
    tmp_path: Path, kind: Kind, *, is_reset: bool
) -> None:
    """It is sent again, too: a webhook that comes twice is handled once."""
    async with fronted(tmp_path, kind) as front:
        await front.get(f"/{KEY}?w=50")
        front.network.end_at_next_request(is_reset=is_reset)
        url = f"{front.url}/-/webhooks/livingdocs"
        async with front.here.session.post(url, json={"event": "unsigned"}) as answer:
            assert answer.status == 401

        assert front.network.ended > 0


async def test_the_cache_in_front_ends_idle_connections_before_the_edge_does(tmp_path: Path) -> None:
    """Else each connection that is used again after this time could cost a second try."""
    in_nginx = re.search(r"keepalive_timeout (\d+)s;", NGINX_CONF.read_text())
    assert in_nginx is not None
    varnish_s = 60  # backend_idle_timeout, unless it is set
    async with site(tmp_path) as here:
        assert (await here.get(f"/{KEY}?w=50")).status == 200
        (connection,) = here.edge.answers.connections
        assert connection._keepalive_timeout > max(int(in_nginx[1]), varnish_s)  # type: ignore[attr-defined]
