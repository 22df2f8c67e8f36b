"""The container file, the RayJob and the commands of infra/README.md say what the code needs."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.flow.cluster import environment
from pipelines.compose import compose
from pipelines.recipe import Options, Recipe

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "infra" / "constraints.txt").read_text(), re.MULTILINE))
JOB = yaml.safe_load((ROOT / "infra" / "rayjob-code-13b.yaml").read_text())["spec"]
CLUSTER = JOB["rayClusterSpec"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
PODS = {"head": CLUSTER["headGroupSpec"]["template"]["spec"], "workers": WORKERS["template"]["spec"]}


def container(pod: str) -> Any:
    (only,) = PODS[pod]["containers"]
    return only


def instructions() -> list[tuple[str, str]]:
    """Of the container file: comments left out, no line continues the one before."""
    lines = (ROOT / "infra" / "Containerfile").read_text().splitlines()
    assert not any(line.endswith("\\") for line in lines)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")]


@pytest.fixture(scope="module")
def recipe() -> tuple[Recipe, Options]:
    """What the job's entrypoint asks for."""
    program, script, *overrides = shlex.split(JOB["entrypoint"])
    assert program == "python"
    assert script == f"{dict(instructions())['WORKDIR']}/pipelines/full.py"
    return compose(overrides)


def test_the_image_has_the_ray_that_was_tested_and_a_python_that_is_allowed() -> None:
    image = dict(instructions())["FROM"]
    found = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-gpu", image)
    assert found is not None
    ray, *python = found.groups()
    assert ray == PINS["ray"] == CLUSTER["rayVersion"]
    lowest, highest = re.findall(r"\d+\.(\d+)", PROJECT["requires-python"])
    assert int(python[0]) == 3
    assert int(lowest) <= int(python[1]) < int(highest)


def test_the_image_runs_as_no_root_and_takes_what_is_there_and_no_more() -> None:
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users == ["ray"]
    copied = [source for word, rest in instructions() if word == "COPY" for source in rest.split()[1:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert {"components", "pipelines", "conf", "pyproject.toml", "infra/constraints.txt"} <= set(copied)
    assert not {".", "runs", ".git"} & set(copied)


@pytest.mark.parametrize("pod", PODS)
def test_pods_carry_the_settings_of_the_code(pod: str) -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}  # KubeRay sets the mode itself
    given = {variable["name"]: variable["value"] for variable in container(pod)["env"]}
    assert given | {"RAY_AUTH_MODE": "token"} == environment(loopback=False)


@pytest.mark.parametrize("pod", PODS)
def test_pods_share_image_user_and_the_folder_of_the_workspace(pod: str, recipe: tuple[Recipe, Options]) -> None:
    assert container(pod)["image"] == container("head")["image"]
    assert PODS[pod]["securityContext"]["runAsNonRoot"]
    (mount,), (volume,) = container(pod)["volumeMounts"], PODS[pod]["volumes"]
    assert mount["name"] == volume["name"]
    assert "persistentVolumeClaim" in volume
    for path in (recipe[1].workspace, recipe[0].corpus.path):
        assert Path(str(path)).is_relative_to(mount["mountPath"])


def test_the_cluster_is_what_the_recipe_reckons_with(recipe: tuple[Recipe, Options]) -> None:
    asked = recipe[0].cluster
    assert recipe[0].name == JOB["metadata"]["job_name"] == "code_13b"
    assert asked.address == "auto"
    assert WORKERS["replicas"] == WORKERS["minReplicas"] == WORKERS["maxReplicas"] == asked.nodes
    limits = container("workers")["resources"]["limits"]
    assert limits == container("workers")["resources"]["requests"]
    found = int(limits["cpu"]), int(limits["nvidia.com/gpu"]), int(limits["memory"].removesuffix("G")) * 10**9
    assert found == (asked.node_cpus, asked.node_gpus, asked.node_memory_bytes)
    workers = asked.training
    assert WORKERS["replicas"] * found[1] >= workers.workers * workers.gpus_per_worker
    assert workers.cpus_per_worker is not None
    assert found[0] >= found[1] * workers.cpus_per_worker


def test_the_commands_of_the_readme_export_the_settings_of_the_code() -> None:
    text = (ROOT / "infra" / "README.md").read_text()
    exported = [
        dict(pair.split("=") for pair in shlex.split(line.removeprefix("export ")))
        for line in text.replace("\\\n", "").splitlines()
        if line.startswith("export RAY_USAGE")
    ]
    assert exported == [environment(loopback=True), environment(loopback=False)]
