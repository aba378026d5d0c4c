"""The files in deploy/ agree with each other and with the settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgproxy.config.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
SECTIONS = {*Settings.model_fields, "cluster"}


def compose(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_every_variable_of_a_compose_file_is_a_setting(path: Path) -> None:
    """A misspelt variable would be refused at the start."""
    names = {
        tuple(name.removeprefix("IMGPROXY_").lower().split("__"))
        for service in compose(path)["services"].values()
        for name in service.get("environment", {})
        if name.startswith("IMGPROXY_")
    }
    assert ("origin", "url") in names
    for section, key in names:
        assert section in SECTIONS
        if section in Settings.model_fields:
            annotation = Settings.model_fields[section].annotation
            assert key in annotation.model_fields, f"[{section}] {key}"  # type: ignore[union-attr]


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_a_compose_file_names_what_it_declares(path: Path) -> None:
    """Each secret, volume and service that is named exists, and each secret file is read through /run/secrets."""
    found = compose(path)
    for service in found["services"].values():
        secrets = service.get("secrets", [])
        assert set(secrets) <= set(found["secrets"])
        assert set(service.get("depends_on", {})) <= set(found["services"])
        volumes = {mount.split(":")[0] for mount in service.get("volumes", []) if not mount.startswith(".")}
        assert volumes <= set(found["volumes"])
        for name, value in service.get("environment", {}).items():
            if name.endswith("_FILE"):
                assert value.removeprefix("/run/secrets/") in secrets


def test_the_balancers_have_the_nodes_of_the_compose_file() -> None:
    """Names and number of the nodes are the same in nginx' and HAProxy's configuration."""
    nodes = {name for name in compose(DEPLOY / "compose.cluster.yaml")["services"] if name.startswith("edge-")}

    assert len(nodes) > 1
    for path in (DEPLOY / "nginx" / "cluster.conf", DEPLOY / "haproxy" / "haproxy.cfg"):
        lines = re.findall(r"^ *server (?:edge-\d+ )?(edge-\d+):8080", path.read_text("utf-8"), re.MULTILINE)
        assert set(lines) == nodes
        assert len(lines) == len(nodes) * (2 if path.suffix == ".cfg" else 1), "HAProxy has two backends"


def test_only_the_names_of_the_nodes_differ() -> None:
    """Nodes of a cluster have one configuration, each its own name and its own disk."""
    services = compose(DEPLOY / "compose.cluster.yaml")["services"]
    one, two = services["edge-1"], services["edge-2"]

    assert one["environment"].pop("IMGPROXY_CLUSTER__NODE") == "edge-1"
    assert two["environment"].pop("IMGPROXY_CLUSTER__NODE") == "edge-2"
    assert one.pop("volumes") != two.pop("volumes")
    assert one == two
