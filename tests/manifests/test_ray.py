"""The Ray Serve configuration, against what is installed: Ray's own schema where Ray is, and ours in any case."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "manifests/ray/serve.yaml").read_text())


RAYS_SCHEMA = """
import json, sys
from ray.serve.schema import ServeDeploySchema
ServeDeploySchema.model_validate(json.load(sys.stdin))
"""


def test_rays_own_schema_takes_the_configuration_and_refuses_a_wrong_one() -> None:
    own = ROOT / "build/tools/ray/bin/python"
    python = str(own) if own.exists() else sys.executable
    if subprocess.run([python, "-c", "import ray.serve.schema"], capture_output=True, check=False).returncode:
        pytest.skip("Ray is not installed: make unit puts it into build/tools/ray")

    def refused(config: dict[str, Any]) -> str:
        asked = [python, "-c", RAYS_SCHEMA]
        return subprocess.run(asked, input=json.dumps(config), capture_output=True, text=True, check=False).stderr

    assert refused(CONFIG) == ""
    (application,) = CONFIG["applications"]
    wrong = {**application, "deployments": [{"name": "Replica", "num_replicas": -1}]}
    assert "num_replicas" in refused({**CONFIG, "applications": [wrong]})


def test_the_configuration_names_code_that_is_there() -> None:
    """Read and not imported: the module needs Ray."""
    (application,) = CONFIG["applications"]
    module, _, builder = application["import_path"].partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    named = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert builder in named
    assert {deployment["name"] for deployment in application["deployments"]} <= named


def test_the_models_it_names_are_shipped() -> None:
    (application,) = CONFIG["applications"]
    for name in application["args"]["names"].split(","):
        assert (ROOT / "manifests/models" / name / "model.json").is_file()


def test_the_service_on_a_cluster_has_the_same_configuration_and_a_pod_kubernetes_accepts() -> None:
    """The RayService itself is KubeRay's to check: its schema is on no package index."""
    service = yaml.safe_load((ROOT / "manifests/kustomize/components/ray/rayservice.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == CONFIG
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_the_component_points_the_web_replicas_at_the_route_that_serve_answers_on(tmp_path: Path) -> None:
    (application,) = CONFIG["applications"]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [str(Path(os.path.relpath(ROOT / "manifests/kustomize/base", tmp_path)))],
        "components": [str(Path(os.path.relpath(ROOT / "manifests/kustomize/components/ray", tmp_path)))],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))
    (replicas,) = (d for d in found if d["kind"] == "StatefulSet")
    env = {e["name"]: e.get("value") for e in replicas["spec"]["template"]["spec"]["containers"][0]["env"]}
    (service,) = (d for d in found if d["kind"] == "RayService")
    port = CONFIG["http_options"]["port"]
    # KubeRay names the service of a RayService's healthy proxies after it.
    expected = f"http://{service['metadata']['name']}-serve-svc:{port}{application['route_prefix']}"
    assert env["ORDERSIGHT_ENGINE_URL"] == expected
    allowed = [
        p["port"]
        for d in found
        if d["kind"] == "NetworkPolicy"
        for e in d["spec"].get("egress", ())
        for p in e["ports"]
    ]
    assert port in allowed
