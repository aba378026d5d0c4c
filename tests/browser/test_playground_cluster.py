"""The playground of a real cluster: a purge is followed node by node."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import chromium_or_skip, wait_for_picture
from tests.support.process_cluster import process_cluster
from tests.support.site import ADMIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.slow  # a browser, a database and two edges

TOKEN = ADMIN["Authorization"].removeprefix("Bearer ")
TIMEOUT_MS = 120_000


def purge_in_the_page(edge: str) -> list[str]:
    """Purge the picture that the playground shows, and return what it says of each node."""
    with chromium_or_skip() as browser:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"{edge}/-/playground#token={TOKEN}")
        wait_for_picture(page)
        page.click("#tab-purge")
        page.get_by_role("button", name="Purge", exact=True).click()
        page.wait_for_selector(".steps >> text=Asked for it again")
        return page.locator(".steps ul li").all_inner_texts()


async def test_a_purge_is_followed_node_by_node(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Each node is a line with its state and its time; one that was killed is fenced, and no line says otherwise."""
    async with process_cluster(tmp_path, postgres_server, names=("a", "b"), server={"playground": True}) as here:
        a, b = here.nodes
        assert (await a.purge(here.entry)).status == 200  # from now on the node knows the entry, and lists its picture

        both = await asyncio.to_thread(purge_in_the_page, a.url)
        await b.kill()
        alone = await asyncio.to_thread(purge_in_the_page, a.url)

    assert [re.sub(r"[\d.]+ ms", "N ms", line) for line in sorted(both)] == [
        "a: applied after N ms",
        "b: applied after N ms",
    ]
    assert [re.sub(r"[\d.]+ ms", "N ms", line) for line in sorted(alone)] == [
        "a: applied after N ms",
        "b: fenced after N ms",
    ]
