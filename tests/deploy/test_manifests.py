"""The cluster files are valid for the tools that read them, and agree with each other and with constraints.txt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from frozenseg.errors import UserInputError
from pipelines.ray_session import AUTOSCALES_VARIABLE, check_schedulable
from pipelines.train import needs
from pipelines.train_file import load_train_config

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER_FILES = ("cluster.yaml", "deploy/cluster-gcp.yaml", "deploy/cluster-onprem.yaml")
KUBERAY_FILES = ("raycluster", "rayjob", "rayservice")
CLUSTER_KEY = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / path).read_text()))


def constrained_version(name: str) -> str:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith(f"{name}=="):
            return line.partition("==")[2]
    raise AssertionError(f"constraints.txt does not name {name}")


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    key = CLUSTER_KEY[manifest["kind"]]
    spec: dict[str, Any] = manifest["spec"] if key is None else manifest["spec"][key]
    return spec


def pod_templates(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["template"]


@pytest.mark.parametrize("path", LAUNCHER_FILES)
def test_launcher_file_passes_rays_schema_and_validator(path: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(documents(path)[0])
    validate_config(prepared)
    # Ray's own checks both miss a head node type that is not there.
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("path", LAUNCHER_FILES[:2])
def test_launcher_node_groups_are_what_the_documentation_says(path: str) -> None:
    config = documents(path)[0]
    groups = config["available_node_types"]
    assert config["head_node_type"] in groups
    assert groups[config["head_node_type"]]["resources"].get("GPU", 0) == 0
    assert groups["encoder"]["min_workers"] == 0
    assert groups["encoder"]["resources"]["GPU"] >= 1
    assert groups["trainer"]["resources"]["GPU"] >= 1
    assert sum(g.get("max_workers", 0) for g in groups.values()) <= config["max_workers"]
    assert config["docker"]["image"] == f"rayproject/ray:{constrained_version('ray')}-py311-gpu"


def test_aws_encoders_are_on_spot_and_trainers_are_not() -> None:
    groups = documents("cluster.yaml")[0]["available_node_types"]
    assert groups["encoder"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in groups["trainer"]["node_config"]


@pytest.mark.parametrize("path", ["cluster.yaml", "deploy/cluster-gcp.yaml"])
def test_the_papers_run_fits_the_full_cluster_and_is_let_wait_for_it(path: str) -> None:
    config = documents(path)[0]
    groups = config["available_node_types"]
    full = [group["resources"] for group in groups.values() for _ in range(group.get("max_workers", 1))]
    plan = needs(load_train_config(ROOT / "configs" / "coco-convnext-large-node-groups.toml"))
    check_schedulable(plan, full)
    with pytest.raises(UserInputError, match="cannot be scheduled"):
        check_schedulable(plan, [groups[config["head_node_type"]]["resources"]])
    assert any(f"{AUTOSCALES_VARIABLE}=1" in line for line in config["head_start_ray_commands"])


def test_on_premise_counts_agree() -> None:
    config = documents("deploy/cluster-onprem.yaml")[0]
    assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])


def test_dockerfile_agrees_with_constraints_and_copies_what_exists() -> None:
    source = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{constrained_version('ray')}-py311-gpu" in source
    for line in re.findall(r"^COPY --chown=\S+ (.+)$", source, flags=re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), f"the Dockerfile copies {name}, which is not there"


@pytest.mark.shared
@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kuberay_manifest_fits_its_definition(name: str, shared_dir: Path) -> None:
    manifest = documents(f"deploy/kuberay/{name}.yaml")[0]
    definition = yaml.safe_load((shared_dir / "schemas" / f"ray.io_{name}s.yaml").read_text())
    version = next(v for v in definition["spec"]["versions"] if f"ray.io/{v['name']}" == manifest["apiVersion"])
    schema = version["schema"]["openAPIV3Schema"]
    jsonschema.validate(manifest, close_objects(schema))


def close_objects(schema: Any) -> Any:
    """Kubernetes drops unknown fields silently; here they are an error, so that a misspelt key cannot hide."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close_objects(value) for key, value in schema.items()}
    has_fields = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or not schema.get("properties", {}).keys() - {
        "metadata"
    }
    if has_fields and not is_open:
        closed.setdefault("additionalProperties", False)
    if "x-kubernetes-int-or-string" in schema:
        closed = {"type": ["integer", "string"]}
    return closed


@pytest.mark.shared
def test_the_definition_check_finds_a_misspelt_key(shared_dir: Path) -> None:
    manifest = documents("deploy/kuberay/rayjob.yaml")[0]
    manifest["spec"]["entrypont"] = "python"
    definition = yaml.safe_load((shared_dir / "schemas" / "ray.io_rayjobs.yaml").read_text())
    schema = close_objects(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    with pytest.raises(jsonschema.ValidationError, match="entrypont"):
        jsonschema.validate(manifest, schema)


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kuberay_pods_are_valid_kubernetes_pods(name: str) -> None:
    spec = cluster_spec(documents(f"deploy/kuberay/{name}.yaml")[0])
    for template in pod_templates(spec):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "check"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.31", strict=True)


def test_storage_is_valid_and_is_the_one_that_pods_claim() -> None:
    namespace, claim = documents("deploy/kuberay/storage.yaml")
    kubernetes_validate.validate(namespace, "1.31", strict=True)
    kubernetes_validate.validate(claim, "1.31", strict=True)
    for name in KUBERAY_FILES:
        manifest = documents(f"deploy/kuberay/{name}.yaml")[0]
        assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]
        for template in pod_templates(cluster_spec(manifest)):
            volumes = {v["name"]: v for v in template["spec"]["volumes"]}
            assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
            for container in template["spec"]["containers"]:
                assert {m["name"] for m in container["volumeMounts"]} <= volumes.keys()


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_kuberay_versions_and_resources_agree(name: str) -> None:
    spec = cluster_spec(documents(f"deploy/kuberay/{name}.yaml")[0])
    [head] = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": AUTOSCALES_VARIABLE, "value": "1"} in head["env"]
    assert spec["rayVersion"] == constrained_version("ray")
    for group in spec["workerGroupSpecs"]:
        container = group["template"]["spec"]["containers"][0]
        assert group["rayStartParams"]["num-gpus"] == container["resources"]["limits"]["nvidia.com/gpu"]
        # Ray is handed this through a shell: quotes around the JSON, escaped quotes inside.
        resources = json.loads(json.loads(group["rayStartParams"]["resources"].strip("'")))
        assert set(resources) <= {"trainer", "encoder"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_job_and_service_name_things_that_exist() -> None:
    job = documents("deploy/kuberay/rayjob.yaml")[0]
    for word in job["spec"]["entrypoint"].split():
        if "/" in word:
            assert (ROOT / word).is_file(), f"the RayJob runs {word}, which is not there"
    service = yaml.safe_load(documents("deploy/kuberay/rayservice.yaml")[0]["spec"]["serveConfigV2"])
    module, _, attribute = service["applications"][0]["import_path"].partition(":")
    assert f"def {attribute}" in (ROOT / (module.replace(".", "/") + ".py")).read_text()
