"""The Ray Serve configuration, against what is installed: Ray's own schema where Ray is, and ours in any case."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "manifests/ray/serve.yaml").read_text())


def test_rays_own_schema_takes_the_configuration_and_refuses_a_wrong_one() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="pip install 'ordersight[ray]' brings Ray's schema")
    schema.ServeDeploySchema.model_validate(CONFIG)
    (application,) = CONFIG["applications"]
    wrong = {**application, "deployments": [{"name": "Replica", "num_replicas": -1}]}
    with pytest.raises(ValueError, match="num_replicas"):
        schema.ServeDeploySchema.model_validate({**CONFIG, "applications": [wrong]})


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
