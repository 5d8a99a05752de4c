"""The Kubernetes files, against the API's own schemas, and against what the service really has."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cds_service.app import create_app
from cds_service.settings import Settings, documented
from cds_service.trust.clients import Clients, load_clients

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "manifests/kustomize"
NOT_OF_KUBERNETES = {"Kustomization", "Component", "ServiceMonitor", "RayService"}
KUBERNETES = "1.34"


def documents(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*.yaml")):
        if path.name != "clients.yaml":
            for document in yaml.safe_load_all(path.read_text()):
                yield (
                    f"{path.relative_to(folder)}: {document['kind']} {document.get('metadata', {}).get('name')}",
                    document,
                )


DOCUMENTS = dict(documents(FOLDER))
CHECKED = {name: d for name, d in DOCUMENTS.items() if d["kind"] not in NOT_OF_KUBERNETES}


def base(kind: str) -> dict[str, Any]:
    return next(copy.deepcopy(d) for name, d in DOCUMENTS.items() if name.startswith("base/") and d["kind"] == kind)


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = base("StatefulSet")["spec"]["template"]["spec"]
    return spec


def rendered(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("name", list(CHECKED))
def test_every_file_is_what_the_kubernetes_api_accepts(name: str) -> None:
    kubernetes_validate.validate(CHECKED[name], KUBERNETES, strict=True)


def test_all_kinds_a_deployment_needs_are_there() -> None:
    kinds = {d["kind"] for name, d in CHECKED.items() if name.startswith("base/")}
    assert kinds == {
        "ServiceAccount",
        "StatefulSet",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
    }


@pytest.mark.parametrize(
    ("kind", "path", "key", "typo"),
    [
        ("StatefulSet", "spec.template.spec.securityContext", "runAsNonRoot", "runAsNonroot"),
        ("NetworkPolicy", "spec", "egress", "egres"),
        ("PodDisruptionBudget", "spec", "maxUnavailable", "maxUnavailabel"),
        ("HorizontalPodAutoscaler", "spec", "maxReplicas", "maximumReplicas"),
    ],
)
def test_a_typing_error_in_a_key_is_found(kind: str, path: str, key: str, typo: str) -> None:
    document = base(kind)
    place = document
    for part in path.split("."):
        place = place[part]
    place[typo] = place.pop(key)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_every_container_runs_as_nobody_on_a_read_only_root() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["initContainers"] + spec["containers"]:
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_probes_ask_for_paths_the_service_answers(tmp_path: Path) -> None:
    settings = Settings(jwt="off", state_dir=tmp_path, manifests=ROOT / "manifests")
    app = create_app(settings, clients=Clients([]))
    try:
        paths = {rule.rule for rule in app.url_map.iter_rules()}
    finally:
        app.extensions["ordersight"].close()
    (container,) = pod()["containers"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {p["path"] for p in probes.values()} <= paths
    assert probes["readiness"]["path"] == "/readyz"
    # A readiness answer waits for nothing of another machine, so an unready replica is never killed for it.
    assert probes["liveness"]["path"] == "/healthz"
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert {p["port"] for p in probes.values()} <= set(ports)
    assert ports["hooks"] == next(int(default) for name, default, _ in documented() if name == "ORDERSIGHT_PORT")


def test_calls_under_way_are_answered_before_a_replica_is_killed() -> None:
    spec = pod()
    (drain_s,) = (int(default) for name, default, _ in documented() if name == "ORDERSIGHT_DRAIN_S")
    assert spec["terminationGracePeriodSeconds"] >= 5 + drain_s


def test_every_variable_set_anywhere_is_a_setting_of_ours() -> None:
    known = {name for name, _, _ in documented()}
    text = "".join(p.read_text() for p in FOLDER.rglob("*.yaml"))
    overlay = DOCUMENTS["overlays/example/kustomization.yaml: Kustomization None"]
    literals = [line.partition("=")[0] for g in overlay["configMapGenerator"] for line in g.get("literals", ())]
    env = [e["name"] for c in pod()["initContainers"] + pod()["containers"] for e in c["env"]]
    assert literals
    assert env
    assert {*literals, *env} <= known
    assert "ORDERSIGHT_JWT" not in text


def test_selectors_find_the_pods_of_the_template() -> None:
    labels = base("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for name, document in CHECKED.items():
        if not name.startswith("base/"):
            continue
        spec = document.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            assert wanted, f"{name} selects every pod of the namespace"
            assert wanted.items() <= labels.items(), name


def test_the_autoscaler_scales_the_workload_that_is_there() -> None:
    target = base("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    workload = base("StatefulSet")
    assert target == {"apiVersion": workload["apiVersion"], "kind": "StatefulSet", "name": workload["metadata"]["name"]}


def test_the_example_registers_a_client_the_service_reads() -> None:
    clients = load_clients(FOLDER / "overlays/example/clients.yaml")
    overlay = DOCUMENTS["overlays/example/kustomization.yaml: Kustomization None"]
    literals = [line for g in overlay["configMapGenerator"] for line in g.get("literals", ())]
    assert [c.name for c in clients.all] == ["general-hospital"]
    assert f"ORDERSIGHT_BASE_URL={clients.all[0].audience}" in literals


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl to render the overlay with")
@pytest.mark.parametrize("monitored", [False, True])
def test_the_overlay_renders_to_what_the_api_accepts(tmp_path: Path, monitored: bool) -> None:
    shutil.copytree(FOLDER, tmp_path / "kustomize")
    overlay = tmp_path / "kustomize/overlays/example"
    if monitored:
        written = overlay / "kustomization.yaml"
        written.write_text(written.read_text().replace("# components:", "components:"))
    found = rendered(overlay)
    for document in found:
        if document["kind"] not in NOT_OF_KUBERNETES:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    (workload,) = (d for d in found if d["kind"] == "StatefulSet")
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.org/ordersight:0.1.0"
    assert ("metrics" in {p["name"] for p in container["ports"]}) is monitored
    assert {"ORDERSIGHT_METRICS"} <= {e["name"] for e in container["env"]} or not monitored
    maps = {d["metadata"]["name"] for d in found if d["kind"] == "ConfigMap"}
    named = {v["configMap"]["name"] for v in workload["spec"]["template"]["spec"]["volumes"] if "configMap" in v}
    assert named | {container["envFrom"][0]["configMapRef"]["name"]} == maps
