"""The architecture checks find each kind of violation in a small planted tree, and nothing else."""

from pathlib import Path

import pytest

from tests.support import architecture

SHORT_AND_RIGHT = {
    "__init__.py": "__version__ = '1'\n",
    "errors.py": "class NotFound(Exception): ...\n",
    "cli/__main__.py": "from imgproxy.edge import app\nfrom imgproxy.medialibrary.server import embedded\nimport typer\n",
    "edge/__init__.py": "",
    "edge/app.py": "import asyncio\nfrom aiohttp import web\nfrom imgproxy import __version__\nfrom imgproxy.edge.fast import memo\n",
    "edge/fast/__init__.py": "",
    "edge/fast/memo.py": "from imgproxy.delivery import delivery\n",
    "delivery/delivery.py": "from imgproxy.workers.pool import Pool\nfrom imgproxy.params.plan import Plan\n",
    "workers/pool.py": "from imgproxy import errors\nclass Pool: ...\nprint(errors.__name__)\n",
    "workers/job.py": "class Job: ...\n",
    "render/child.py": "import pyvips\nfrom imgproxy.workers.job import Job\nfrom imgproxy.params.plan import Plan\n",
    "render/geometry.py": "import math\n",
    "cache/store.py": "import sqlite3\n",
    "medialibrary/models.py": "import pydantic\n",
    "medialibrary/client/client.py": "import aiohttp.http_parser\n",
    "medialibrary/server/__init__.py": "",
    "medialibrary/server/embedded.py": "from imgproxy.medialibrary import models\n",
    "params/plan.py": "class Plan: ...\n",
}


def problems_of(root: Path, planted: dict[str, str]) -> list[str]:
    """Write a tree that keeps all rules with some files planted in it, and return what all checks find."""
    for path, text in {**SHORT_AND_RIGHT, **planted}.items():
        file = root / "imgproxy" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    modules = architecture.read_tree(root / "imgproxy")
    return [problem for check in architecture.CHECKS for problem in check(modules)]


def test_a_tree_that_keeps_the_rules_has_no_problem(tmp_path: Path) -> None:
    """Imports downwards, special rooms, libraries at home and dunder names pass."""
    assert problems_of(tmp_path, {}) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from imgproxy.delivery.delivery import Delivery",
        "from imgproxy.delivery import delivery",
        "import imgproxy.delivery.delivery",
        "import imgproxy.delivery.delivery as story",
        "def late() -> None:\n    from imgproxy.delivery import delivery",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from imgproxy.delivery.delivery import Delivery",
        "import typing\nif typing.TYPE_CHECKING:\n    import imgproxy.delivery.delivery",
        "try:\n    from imgproxy.delivery import delivery\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_import_is_seen(tmp_path: Path, statement: str) -> None:
    """An import against the order is refused in every form and in every place of a module."""
    line = next(n for n, text in enumerate(statement.splitlines(), 1) if "imgproxy" in text)

    assert problems_of(tmp_path, {"cache/store.py": statement}) == [
        f"cache/store.py:{line}: imports delivery.delivery: delivery lies above cache"
    ]


@pytest.mark.parametrize(
    ("path", "statement", "problem"),
    [
        ("delivery/x.py", "from imgproxy.edge import app", "edge.app: edge lies above delivery"),
        ("delivery/x.py", "import imgproxy.edge", "edge: edge lies above delivery"),
        ("delivery/x.py", "from imgproxy import edge", "edge: edge lies above delivery"),
        ("errors.py", "from imgproxy.params import plan", "params.plan: params lies above top level"),
        ("edge/x.py", "from imgproxy.edge.fast import memo", "edge.fast.memo: edge.fast is imported by edge.app, edge.parts, edge.server and itself alone"),
        ("cli/x.py", "from imgproxy.edge.fast import memo", "edge.fast.memo: edge.fast is imported by edge.app, edge.parts, edge.server and itself alone"),
        ("edge/fast/x.py", "import imgproxy.cli.__main__", "cli.__main__: edge.fast imports only itself, edge, delivery, admission, purge, cluster, credentials, workers, cache, medialibrary, config, params, telemetry, top level"),
        ("workers/x.py", "from imgproxy.render import child", "render.child: render is imported by itself alone"),
        ("cli/x.py", "from imgproxy.render import child", "render.child: render is imported by itself alone"),
        ("render/x.py", "from imgproxy.workers import pool", "workers.pool: render imports only itself, workers.job, workers.channel, workers.faces, workers.sniff, params, top level"),
        ("render/x.py", "from imgproxy.cache import store", "cache.store: render imports only itself, workers.job, workers.channel, workers.faces, workers.sniff, params, top level"),
        ("edge/x.py", "import imgproxy.medialibrary.server.embedded", "medialibrary.server.embedded: medialibrary.server is imported by cli and itself alone"),
        ("medialibrary/x.py", "from imgproxy.medialibrary import server", "medialibrary.server: medialibrary.server is imported by cli and itself alone"),
        ("medialibrary/server/x.py", "from imgproxy.cache import store", "cache.store: medialibrary.server imports only itself, medialibrary, config, params, telemetry, top level"),
        ("edge/x.py", "from imgproxy.demo import tour", "demo.tour: demo is imported by cli and itself alone"),
        ("demo/x.py", "from imgproxy.workers import pool", "workers.pool: demo imports only itself, medialibrary, config, params, telemetry, top level"),
        ("edge/x.py", "from imgproxy.nowhere import thing", "nowhere: it does not exist"),
    ],
)  # fmt: skip
def test_an_import_against_the_order_is_refused(tmp_path: Path, path: str, statement: str, problem: str) -> None:
    """The message names the module, the line and the rule."""
    planted = {"demo/tour.py": "", path: statement}

    assert problems_of(tmp_path, planted) == [f"{path}:1: imports {problem}"]


@pytest.mark.parametrize(
    "statement", ["from . import store", "from .store import Store", "from ..errors import NotFound"]
)
def test_a_relative_import_is_refused(tmp_path: Path, statement: str) -> None:
    """A relative import hides which room is meant."""
    assert problems_of(tmp_path, {"cache/x.py": statement}) == [
        "cache/x.py:1: relative import; name the module from imgproxy on"
    ]


@pytest.mark.parametrize("path", ["shiny/new.py", "helpers.py", "edge.py", "render.py"])
def test_a_module_outside_the_rooms_is_refused(tmp_path: Path, path: str) -> None:
    """A new folder or a new module at the top level must be added to the table."""
    assert problems_of(tmp_path, {path: ""}) == [
        f"{path}: lies in no known room; add its room, or its name at the top level, to the table"
    ]


@pytest.mark.parametrize(
    ("path", "statement", "problem"),
    [
        ("workers/x.py", "import pyvips", "pyvips, which is for render"),
        ("workers/x.py", "from pyvips.enums import Kernel", "pyvips, which is for render"),
        ("workers/x.py", "def late():\n    import pyvips", "pyvips, which is for render"),
        ("delivery/x.py", "from aiohttp import web", "aiohttp.web, which is for edge, medialibrary.server"),
        ("medialibrary/client/x.py", "import aiohttp.web", "aiohttp.web, which is for edge, medialibrary.server"),
        ("edge/x.py", "import yarl", "yarl, which is for medialibrary.client, purge.downstream, cli.edge_calls"),
        ("cache/x.py", "import blake3", "blake3, which is for digest"),
        ("medialibrary/x.py", "import pydantic", "pydantic, which is for cli, config, medialibrary.client, medialibrary.models"),
        ("render/x.py", "import scipy", "scipy, which is not in the table of libraries"),
        ("purge/x.py", "import sqlite3", "sqlite3, which is for cache, medialibrary.server"),
        ("workers/x.py", "import ctypes.util", "ctypes, which is for manifests.signer, render"),
        ("workers/x.py", "import subprocess", "subprocess, which is for nobody"),
        ("cli/x.py", "from urllib import request", "urllib.request, which is for nobody"),
        ("edge/x.py", "from importlib import import_module", "importlib, which is for nobody"),
    ],
)  # fmt: skip
def test_a_library_outside_its_home_is_refused(tmp_path: Path, path: str, statement: str, problem: str) -> None:
    """This holds for third-party libraries, and for a few modules of the standard library."""
    line = len(statement.splitlines())

    assert problems_of(tmp_path, {path: statement}) == [f"{path}:{line}: imports {problem}"]


@pytest.mark.parametrize("path", ["params/x.py", "render/geometry.py"])
def test_io_in_a_pure_module_is_refused(tmp_path: Path, path: str) -> None:
    """Parsing, plans and geometry read no file, no clock and no random number."""
    assert problems_of(tmp_path, {path: "import math\nimport os.path\nfrom time import monotonic"}) == [
        f"{path}:2: is pure, and imports os",
        f"{path}:3: is pure, and imports time",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("from imgproxy.workers.pool import _LIMIT", "1: imports the private name workers.pool._LIMIT"),
        ("from imgproxy.workers import _hidden", "1: imports the private name workers._hidden"),
        ("from imgproxy.workers._hidden import name", "1: imports the private name workers._hidden.name"),
        ("from imgproxy.workers import pool\nprint(pool._LIMIT)", "2: uses the private name workers.pool._LIMIT"),
        ("from imgproxy.workers import pool as p\np._LIMIT.x()", "2: uses the private name workers.pool._LIMIT"),
        ("import imgproxy.workers.pool\nimgproxy.workers.pool._go()", "2: uses the private name workers.pool._go"),
        ("import imgproxy.workers.pool as p\np._LIMIT = 2", "2: uses the private name workers.pool._LIMIT"),
    ],
)  # fmt: skip
def test_a_private_name_of_another_module_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Neither as an import nor as an attribute of an imported module."""
    planted = {"workers/_hidden.py": "", "delivery/x.py": text}

    assert problems_of(tmp_path, planted) == [f"delivery/x.py:{problem}"]


def test_private_attributes_of_objects_pass(tmp_path: Path) -> None:
    """A private name that is no module's is not the business of this check."""
    text = (
        "from imgproxy.workers.pool import Pool\nclass Mine(Pool):\n    def go(self):\n        return self._pool._x\n"
    )

    assert problems_of(tmp_path, {"delivery/x.py": text}) == []


def test_an_import_cycle_is_refused(tmp_path: Path) -> None:
    """Each circle is told once, with its modules in the order in which they import each other."""
    planted = {
        "purge/a.py": "from imgproxy.purge import b",
        "purge/b.py": "def late():\n    import imgproxy.purge.c",
        "purge/c.py": "from imgproxy.purge.a import thing",
    }

    assert problems_of(tmp_path, planted) == ["import cycle: purge.a > purge.b > purge.c > purge.a"]


def test_an_import_for_types_makes_no_cycle(tmp_path: Path) -> None:
    """Imports under TYPE_CHECKING do not run."""
    planted = {
        "purge/a.py": "from imgproxy.purge import b",
        "purge/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from imgproxy.purge import a",
    }

    assert problems_of(tmp_path, planted) == []


def test_a_module_is_measured_by_its_path(tmp_path: Path) -> None:
    """A short module does not hide a long one of the same name."""
    planted = {"edge/store.py": "\n" * 401, "purge/store.py": "\n" * 400}

    assert problems_of(tmp_path, planted) == ["edge/store.py: has 401 lines, more than 400"]


def test_a_high_median_is_refused(tmp_path: Path) -> None:
    """Half of all modules stay short."""
    planted = dict.fromkeys((f"purge/long_{number}.py" for number in range(2 * len(SHORT_AND_RIGHT))), "\n" * 320)

    assert problems_of(tmp_path, planted) == ["the median module has 320 lines, more than 150"]
