"""
The Helm chart, rendered by the real helm, and the schemas that the real kubeconform compares it with.

The schemas of Kubernetes are those in the wheel of kubernetes-validate. They refer to each other by addresses of a website; here each
is written as a file of its own, with all definitions in it, so that nothing is fetched. The schema of a ServiceMonitor is in the module
of the Prometheus operator, in Go's cache of modules.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.go_programs import find_go_program

CHART: Final = Path(__file__).parents[2] / "deploy" / "helm" / "imgproxy"
VALUES: Final = tuple(sorted((CHART / "ci").glob("*-values.yaml")))
HELM: Final = "helm.sh/helm/v3/cmd/helm@v3.19.0"
KUBECONFORM: Final = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
# The oldest version that the chart allows (Chart.yaml), and the newest one with schemas.
VERSIONS: Final = ("1.27.0", "1.37.0")
# How the schemas of the wheel refer to their definitions.
_REFERENCE: Final = "/api/_definitions.json#/$defs/"

Manifest = dict[str, Any]


def go_program(name: str, module: str) -> str:
    """Return the path of a program; skips the test where it is missing."""
    found = find_go_program(name)
    if found is None:
        pytest.skip(f"{name} is not installed: go install {module}")
    return found


def helm(*arguments: str | Path, code: int = 0) -> str:
    """Run helm, which must exit with this code. Returns what it printed, also on standard error if it failed."""
    program = go_program("helm", HELM)
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def template(values: Path, *more: str | Path, code: int = 0, chart: Path = CHART) -> str:
    """Render the chart. The name of the release is `pictures`."""
    return helm("template", "pictures", chart, "--kube-version", VERSIONS[0], "--values", values, *more, code=code)


@functools.cache
def manifests(values: Path, *more: str) -> tuple[Manifest, ...]:
    """Return the objects that the chart makes of these values."""
    return tuple(item for item in yaml.safe_load_all(template(values, *more)) if item)


def only(kind: str, found: tuple[Manifest, ...]) -> Manifest:
    """Return the one object of this kind."""
    (item,) = (each for each in found if each["kind"] == kind)
    return item


def workload(found: tuple[Manifest, ...]) -> Manifest:
    """Return the StatefulSet or the Deployment."""
    (item,) = (each for each in found if each["kind"] in ("StatefulSet", "Deployment"))
    return item


def schema_folder(folder: Path, version: str, found: tuple[Manifest, ...]) -> tuple[str, list[str]]:
    """
    Write the strict schemas of these objects into the folder.

    Returns the value of `-schema-location`, and the kinds that have no schema here.
    """
    packed = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"
    definitions = json.loads((packed / "_definitions.json").read_text("utf-8"))["$defs"]
    missing = []
    for kind, api_version in {(item["kind"], item["apiVersion"]) for item in found}:
        group, _, number = api_version.rpartition("/")
        name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], number))) + ".json"
        if kind == "ServiceMonitor":
            schema = _service_monitor()
            if schema is None:
                missing.append(kind)
                continue
            (folder / name).write_text(json.dumps(_strict(schema)), "utf-8")
            continue
        schema = json.loads((packed / name).read_text("utf-8"))
        del schema["$id"]
        whole = schema | {"$defs": {each: definitions[each] for each in _needed(schema, definitions)}}
        (folder / name).write_text(json.dumps(whole).replace(f'"{_REFERENCE}', '"#/$defs/'), "utf-8")
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", missing


def _needed(schema: Any, definitions: Manifest) -> set[str]:
    """Return the names of the definitions that a schema refers to, also by way of others. All together are 1 MB."""
    found: set[str] = set()
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            name = str(item.get("$ref", "")).removeprefix(_REFERENCE).removeprefix("#/$defs/")
            if name and name not in found:
                found.add(name)
                pending.append(definitions[name])
            pending += item.values()
    return found


def _service_monitor() -> Any:
    """Return the schema of the custom resource, or None where Go's cache does not have the module."""
    go = shutil.which("go")
    if go is None:
        return None
    cache = subprocess.run([go, "env", "GOMODCACHE"], capture_output=True, text=True, check=True, timeout=60).stdout
    folder = Path(cache.strip()) / OPERATOR / "example" / "prometheus-operator-crd"
    path = folder / "monitoring.coreos.com_servicemonitors.yaml"
    if not path.is_file():
        return None
    (version,) = (item for item in yaml.safe_load(path.read_text("utf-8"))["spec"]["versions"] if item["name"] == "v1")
    return version["schema"]["openAPIV3Schema"]


def _strict(schema: Any) -> Any:
    """Return a schema in which an object has only the properties that are named."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        strict.setdefault("additionalProperties", False)
    return strict


def kubeconform(folder: Path, version: str, text: str) -> subprocess.CompletedProcess[str]:
    """Compare rendered objects with the schemas of a version of Kubernetes, strictly. `folder` is for the schemas."""
    program = go_program("kubeconform", KUBECONFORM)
    found = tuple(item for item in yaml.safe_load_all(text) if item)
    location, missing = schema_folder(folder, version, found)
    command = [program, "-strict", "-summary", "-schema-location", location, "-kubernetes-version", version]
    if missing:
        command += ["-skip", ",".join(missing)]
    # No proxy: a schema that is not in the folder must not be looked for elsewhere.
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(
        [*command, "-"], input=text, env=clean, capture_output=True, text=True, check=False, timeout=60
    )
