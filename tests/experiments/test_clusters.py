"""The manifests against KubeRay's definitions and Ray's schemas, and what they start against our own parsers."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from experiments import peg_insert
from experiments.runtime.arguments import parse_settings
from reward_service.guards import TOKEN_VARIABLE, IngressConfig

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "clusters"
DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay"
DEFAULT_PORT = IngressConfig().port
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
KINDS = {"rayjob.yaml": "rayjobs", "rayservice.yaml": "rayservices"}

Json = dict[str, Any]


def manifest(name: str) -> Json:
    content: Json = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return content


def definition(name: str) -> Json:
    """The schema of a manifest's kind and version; fields that it does not name are errors, not silently dropped."""
    path = DEFINITIONS / f"ray.io_{KINDS[name]}.yaml.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there: KubeRay's definitions are not part of this repository")
    content = yaml.load(gzip.decompress(path.read_bytes()), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = manifest(name)["apiVersion"].partition("/")[2]
    [schema] = [v["schema"]["openAPIV3Schema"] for v in content["spec"]["versions"] if v["name"] == version]
    schema["properties"]["metadata"] = {"type": "object"}
    strict: Json = _strict(schema)
    return strict


def _strict(schema: Any) -> Any:
    """The same schema as JSON Schema, where objects have no fields but those that are named."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _strict(value) for key, value in schema.items() if key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["type"] = ["integer", "string"]
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result.setdefault("additionalProperties", False)
    return result


def faults(name: str, content: Json, schema: Json) -> list[str]:
    return [
        f"{name}: {error.json_path}: {error.message}"
        for error in jsonschema.Draft7Validator(schema).iter_errors(content)
    ]


def groups(name: str) -> Iterator[Json]:
    """Head and worker groups of a manifest."""
    spec = manifest(name)["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    yield from (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])


def containers(name: str) -> Iterator[Json]:
    for group in groups(name):
        yield from group["template"]["spec"]["containers"]


@pytest.mark.parametrize("name", KINDS)
def test_kuberay_accepts_the_manifest_and_drops_nothing_of_it(name: str) -> None:
    schema, content = definition(name), manifest(name)
    assert faults(name, content, schema) == []
    cluster = "rayClusterSpec" if "rayClusterSpec" in content["spec"] else "rayClusterConfig"
    content["spec"][cluster]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resource"] = {}
    content["spec"][cluster]["headGroupSpec"]["template"] = "none"
    del content["spec"][cluster]["workerGroupSpecs"][0]["groupName"]
    assert len(faults(name, content, schema)) == 3


def test_ray_up_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = manifest("cluster.yaml")
    validate_config(prepare_config(content))
    assert content["docker"]["image"] == f"dopamine-rl:{VERSION}"
    assert content["max_workers"] == len(content["provider"]["worker_ips"])
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(content | {"head_nodes": 1}))


@pytest.mark.parametrize("name", KINDS)
def test_pods_have_one_image_resources_and_no_root(name: str) -> None:
    tag = f"dopamine-rl:{VERSION}" + ("-vllm" if name == "rayservice.yaml" else "")
    for container in containers(name):
        assert container["image"] == tag
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
        assert container["securityContext"]["runAsNonRoot"]
        assert {"containerPort": 8080, "name": "metrics"} in container["ports"]
    for group in groups(name):
        [container] = group["template"]["spec"]["containers"]
        limits, given = container["resources"]["limits"], group["rayStartParams"]
        assert given["num-cpus"] == limits["cpu"]
        assert given.get("num-gpus") == limits.get("nvidia.com/gpu")
    cluster = manifest(name)["spec"].get("rayClusterSpec") or manifest(name)["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == ray.__version__


def test_the_job_is_one_of_ours_and_its_cluster_is_large_enough() -> None:
    spec = manifest("rayjob.yaml")["spec"]
    python, module, name, *arguments = shlex.split(spec["entrypoint"])
    assert (python, module, name) == ("python", "-m", "experiments.peg_insert")
    _, config = parse_settings(peg_insert.Arguments, peg_insert.Settings, arguments, name, peg_insert.__doc__)
    workers = spec["rayClusterSpec"]["workerGroupSpecs"]
    cpus = sum(int(group["rayStartParams"]["num-cpus"]) * group.get("replicas", 1) for group in groups("rayjob.yaml"))
    sims = sum(
        json.loads(json.loads(group["rayStartParams"]["resources"]))[config.learner.actor_resource] * group["replicas"]
        for group in workers
    )
    learner, service = config.learner, config.service
    assert sims >= learner.num_env_runners
    assert cpus >= learner.num_env_runners * learner.num_cpus_per_env_runner + service.replicas * service.num_cpus
    assert cpus >= config.simulation.workers * config.simulation.num_cpus
    mounted = {mount["mountPath"] for container in containers("rayjob.yaml") for mount in container["volumeMounts"]}
    assert mounted == {arguments[arguments.index("--storage") + 1]}


def test_the_service_is_what_our_builders_take(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(manifest("rayservice.yaml")["spec"]["serveConfigV2"]))
    built = {}
    for application in config.applications:
        module, _, builder = application.import_path.partition(":")
        built[application.name] = getattr(importlib.import_module(module), builder)(application.args)
        assert application.args["app_name"] == "reward"
    reward, http = (built[name]._bound_deployment for name in ("reward", "http"))
    name, service, checkpoint = reward.init_args
    assert (name, service.lease_s, checkpoint) == ("reward", 0.0, "/models/grm")
    assert reward.ray_actor_options["num_gpus"] == 1
    assert (http.name, http.num_replicas) == ("http", 1)
    port = config.http_options.port
    assert port == DEFAULT_PORT
    for container in containers("rayservice.yaml"):
        assert {"containerPort": port, "name": "serve"} in container["ports"]
        assert TOKEN_VARIABLE in {variable["name"] for variable in container["env"]}
    [gpus] = [g for g in groups("rayservice.yaml") if "num-gpus" in g["rayStartParams"]]
    assert gpus["maxReplicas"] >= service.max_replicas


def test_the_image_holds_what_it_needs_and_does_not_run_as_root() -> None:
    steps = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", steps, re.M) for word in line.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert copied == packages | {"pyproject.toml", "README.md", "LICENSE", "scripts"}
    kept = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied
    assert re.search(r"^FROM python:3\.11", steps, re.M)
    assert steps.index("USER 1000") < steps.index("CMD [")
    assert f":{DEFAULT_PORT}/healthz" in steps
    command = json.loads(steps[steps.index("CMD [") + 4 :].splitlines()[0])
    from experiments.commands.serve import parse

    arguments = parse(command[2:])
    assert (str(arguments.checkpoint), arguments.port, arguments.insecure) == ("grm-mini", DEFAULT_PORT, True)
