"""The Helm chart, rendered by the real helm and compared with the real schemas of Kubernetes."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from yarl import URL

from imgproxy.config.load import load
from imgproxy.config.settings import Settings
from imgproxy.config.wording import is_secret, section_class
from tests.support.cli import run
from tests.support.kubernetes import (
    CHART,
    VALUES,
    VERSIONS,
    Manifest,
    go_program,
    helm,
    kubeconform,
    manifests,
    only,
    template,
    workload,
)
from tests.support.site import ADMIN, site

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = CHART / "ci" / "minimal-values.yaml"
ONE_NODE = CHART / "ci" / "one-node-values.yaml"
CLUSTER = CHART / "ci" / "cluster-values.yaml"
STORE = CHART / "ci" / "store-values.yaml"
EVERYTHING = CHART / "ci" / "everything-values.yaml"
# The services that the configuration names and that no test has.
AWAY = ("[origin]", "[cluster]", "[[downstream]]")
MADE_BY_THE_CHART = "/etc/imgproxy/secrets/"

each_file = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)


def pod_of(item: Manifest) -> dict[str, Any]:
    """Return the pod of a workload, or of the object itself."""
    found = item["spec"]["template"]["spec"] if "template" in item["spec"] else item["spec"]
    assert isinstance(found, dict)
    return found


def config_toml(values: Path, *more: str) -> str:
    """Return the configuration that the chart writes."""
    text = only("ConfigMap", manifests(values, *more))["data"]["config.toml"]
    assert isinstance(text, str)
    return text


def secret_paths(pod: dict[str, Any]) -> set[str]:
    """Return the paths of the files of secrets in a pod."""
    (mount,) = (
        mount for mount in pod["containers"][-1]["volumeMounts"] if mount["name"] == "secrets" and mount["readOnly"]
    )
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "secrets")
    return {
        f"{mount['mountPath']}/{item['path']}"
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }


@each_file
def test_helm_lint_finds_nothing(values: Path) -> None:
    """Warnings count, too."""
    helm("lint", CHART, "--strict", "--kube-version", VERSIONS[0], "--values", values)


@pytest.mark.parametrize("version", [pytest.param(VERSIONS[0], marks=pytest.mark.slow), VERSIONS[1]])
@each_file
def test_every_object_is_one_that_kubernetes_accepts(tmp_path: Path, values: Path, version: str) -> None:
    """By kubeconform, strictly: an unknown field is an error. The ServiceMonitor is skipped where Go has no module of it."""
    done = kubeconform(tmp_path, version, template(values))

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Valid: [1-9]\d*, Invalid: 0, Errors: 0", done.stdout), done.stdout


def test_a_misspelt_field_is_found(tmp_path: Path) -> None:
    """The schemas are strict at every depth, those of the ServiceMonitor too."""
    text = template(EVERYTHING)
    for right, wrong in (("readOnlyRootFilesystem:", "readOnlyRoot:"), ("sizeLimit: 128Mi", "size: 128Mi")):
        assert right in text
        assert kubeconform(tmp_path, VERSIONS[-1], text.replace(right, wrong)).returncode == 1
    done = kubeconform(tmp_path, VERSIONS[-1], text.replace("interval: 15s", "every: 15s"))
    assert done.returncode == 1 or "Skipped: 1" in done.stdout


@each_file
@pytest.mark.usefixtures("no_libraries_tried")
def test_imgproxy_check_accepts_the_configuration(tmp_path: Path, values: Path) -> None:
    """The files of the secrets are there; the network is not, so each line that fails is of what is not reached."""
    text = config_toml(values)
    for path in secret_paths(pod_of(workload(manifests(values)))):
        file = tmp_path / path.removeprefix(MADE_BY_THE_CHART)
        file.write_text("postgresql://nobody@127.0.0.1:1/none" if "database" in path else "a-secret-of-some-length")
    text = text.replace(MADE_BY_THE_CHART, f"{tmp_path}/").replace("/var/cache/imgproxy", f"{tmp_path}/cache")
    text = re.sub(r'"https://media\.example\.com"', '"http://127.0.0.1:1"', text)
    # Certificates and the bucket cannot be made up; their settings are checked by `load`.
    text = re.sub(r'(?m)^(ca|client_certificate|client_key)_file = .*\n|^url = "s3://.*\n', "", text)
    config = tmp_path / "config.toml"
    config.write_text(text)

    code, out, err = run("check", "-c", str(config))
    assert code in (0, 1), out + err
    assert "the configuration is valid" in out
    failed = [line for line in out.splitlines() if line.startswith("✗")]
    assert [line for line in failed if not any(part in line for part in AWAY)] == [], out


@each_file
def test_no_secret_is_in_a_config_map(tmp_path: Path, values: Path) -> None:
    """config.toml names files only. The chart makes no Secret: it uses those that exist."""
    found = manifests(values)
    assert not [item for item in found if item["kind"] == "Secret"]
    config = tmp_path / "config.toml"
    config.write_text(config_toml(values))
    settings = load(config, {})
    for name, info in Settings.model_fields.items():
        section = section_class(info)
        assert section is not None
        given = getattr(settings, name)
        for part in given if isinstance(given, tuple) else (given,):
            for key, setting in section.model_fields.items():
                assert not (is_secret(setting) and getattr(part, key)), f"[{name}] {key}"


@each_file
def test_every_file_that_the_configuration_names_is_mounted_and_no_other(values: Path) -> None:
    """In the service, and in the pod of `helm test`."""
    named = set(re.findall(rf'"({MADE_BY_THE_CHART}[^"]+)"', config_toml(values)))

    assert named
    for item in (workload(manifests(values)), only("Pod", manifests(values))):
        assert secret_paths(pod_of(item)) == named


@each_file
def test_a_container_can_do_nothing_that_it_need_not(values: Path) -> None:
    """No root, no privileges, a read-only root file system; only the cache and /dev/shm can be written."""
    for item in (workload(manifests(values)), only("Pod", manifests(values))):
        pod = pod_of(item)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            written = {mount["mountPath"] for mount in container.get("volumeMounts", []) if not mount.get("readOnly")}
            assert written <= {"/var/cache/imgproxy", "/dev/shm", "/extra"}
        shm = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
        assert all(volume["medium"] == "Memory" and volume["sizeLimit"] for volume in shm)


@pytest.mark.parametrize(
    ("more", "grace_s"),
    [
        ((), 40),
        (("--set", "config.server.shutdown_delay_s=0"), 30),
        (("--set-json", "config.server.shutdown_delay_s=12.5,config.server.shutdown_timeout_s=60"), 83),
        (("--set", "config.server.shutdown_delay_s=null,config.server.shutdown_timeout_s=null"), 30),
    ],
)
def test_kubernetes_waits_until_the_node_has_drained(more: tuple[str, ...], grace_s: int) -> None:
    """The delay, the time of the requests under way, and 10 s: then SIGKILL."""
    assert pod_of(workload(manifests(MINIMAL, *more)))["terminationGracePeriodSeconds"] == grace_s


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("workload.replicas=2", "more than one node needs a cluster"),
        ("autoscaling.enabled=true", "more than one node needs a cluster"),
        ("serviceMonitor.enabled=true", "serviceMonitor needs secrets.adminToken"),
        ("ingress.enabled=true", "ingress.hosts"),
        ("secrets.originToken.name=", "secrets.originToken.name"),
        ("config.origin.url=", "/config/origin/url"),
        ("image.repository=", "image.repository"),
        ("secrets.downstream.fastly.name=x", "config.downstream has no cache of that name"),
        ("cache.size=1Gi", "less than twice config.cache.min_free_bytes"),
        ("config.origin.tokken=x", "additional properties 'tokken' not allowed"),
        ("config.origin.token=x", "additional properties 'token' not allowed"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(more: str, words: str) -> None:
    """Before anything is installed."""
    assert words in template(MINIMAL, "--set", more, code=1)


def test_one_node_is_never_two() -> None:
    """Without a cluster a Deployment is replaced: two nodes at a time would not share their purges."""
    assert workload(manifests(ONE_NODE))["spec"]["strategy"] == {"type": "Recreate"}
    assert workload(manifests(STORE))["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    kinds = {item["kind"] for item in manifests(ONE_NODE)}
    assert not kinds & {"PodDisruptionBudget", "HorizontalPodAutoscaler"}


def test_a_node_of_a_cluster_is_named_after_its_pod() -> None:
    """Names must differ, and those of a StatefulSet stay."""
    name = {"name": "IMGPROXY_CLUSTER__NODE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}

    assert name in pod_of(workload(manifests(CLUSTER)))["containers"][0]["env"]
    assert name not in pod_of(workload(manifests(MINIMAL)))["containers"][0]["env"]


@each_file
def test_the_cache_is_smaller_than_its_volume(tmp_path: Path, values: Path) -> None:
    """An emptyDir over its limit is evicted, and a full disk takes no pictures."""
    config = tmp_path / "config.toml"
    config.write_text(config_toml(values))
    size = yaml.safe_load(values.read_text("utf-8")).get("cache", {}).get("size", "20Gi")

    assert 0 < load(config, {}).cache.max_bytes <= int(size.removesuffix("Gi")) * 2**30 * 0.8


@pytest.mark.parametrize("values", [ONE_NODE, CLUSTER, STORE, EVERYTHING], ids=lambda path: path.stem)
def test_the_ingress_hashes_by_path_and_hides_the_admin_routes(values: Path) -> None:
    """All sizes of a picture have one pod. Webhooks get through."""
    found = [item for item in manifests(values) if item["kind"] == "Ingress"]
    for item in found:
        annotations = item["metadata"]["annotations"]
        assert (
            annotations.get("nginx.ingress.kubernetes.io/upstream-hash-by") == "$uri"
            or annotations.get("nginx.org/lb-method") == "hash $uri consistent"
        )
    ways = {
        path["path"]: path["backend"]["service"]["name"]
        for item in found
        for path in item["spec"]["rules"][0]["http"]["paths"]
    }
    edge = workload(manifests(values))["metadata"]["name"]
    assert ways == {"/": edge, "/-": f"{edge}-nothing", "/api/v1": f"{edge}-nothing", "/-/webhooks": edge}


@pytest.mark.parametrize(
    ("values", "words", "not_words"),
    [
        (MINIMAL, ["There is one node", "secrets.webhookSecrets is not set", "signing.required"], ["emptyDir"]),
        (ONE_NODE, ["https://images.example.com/-/webhooks/livingdocs"], ["signing.required"]),
        (CLUSTER, ["rollout status statefulset/pictures"], ["There is one node"]),
    ],
    ids=["minimal", "one-node", "cluster"],
)
def test_the_notes_say_what_to_do_and_what_is_missing(
    tmp_path: Path, values: Path, words: list[str], not_words: list[str]
) -> None:
    """`helm template` does not show them, so here they are a template like the others."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    notes = (chart / "templates" / "NOTES.txt").read_text("utf-8")
    (chart / "templates" / "notes.yaml").write_text(
        '{{ define "notes" }}' + notes + '{{ end }}notes: {{ include "notes" . | quote }}\n'
    )
    text = yaml.safe_load(template(values, "--show-only", "templates/notes.yaml", chart=chart))["notes"]

    for each in words:
        assert each in text
    for each in not_words:
        assert each not in text


async def test_what_kubernetes_asks_for_is_what_a_node_answers(tmp_path: Path) -> None:
    """The paths of the probes are open, the metric of the autoscaler exists, and the pod of `helm test` tells right from wrong."""
    go_program("helm", "helm.sh/helm/v3/cmd/helm")
    found = manifests(EVERYTHING)
    container = pod_of(workload(found))["containers"][0]
    metric = only("HorizontalPodAutoscaler", found)["spec"]["metrics"][0]["pods"]["metric"]["name"]
    endpoint = only("ServiceMonitor", found)["spec"]["endpoints"][0]
    *command, _, _ = next(item for item in pod_of(only("Pod", found))["containers"] if item["name"] == "ready")[
        "command"
    ]
    assert command.pop(0) == "python"
    async with site(tmp_path) as here:

        async def test_pod() -> int | None:
            url = URL(here.edge.url)
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, str(url.host), str(url.port), stdout=asyncio.subprocess.DEVNULL
            )
            return await process.wait()

        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert (await here.get(container[probe]["httpGet"]["path"])).status == 200
        page = await here.get(endpoint["path"], **ADMIN)
        assert re.search(rf"^{metric} \d", page.body.decode(), re.MULTILINE)
        assert await test_pod() == 0
        here.edge.state.is_draining = True
        assert await test_pod() == 1
        here.edge.state.is_draining = False
