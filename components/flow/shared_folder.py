"""Before the first stage on a cluster: does every node see the workspace, and run the same code on the same packages?

A file written here is read on every node, and one written there is looked for here.
"""

import hashlib
import importlib.metadata
import os
import platform
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 60.0
"""For all nodes to start a process and answer."""
CACHE_SECONDS = 10.0
"""For a network file system to show what another machine wrote."""
PACKAGES = ("torch", "ray", "pyarrow", "sentencepiece", "pydantic", "safetensors", "numpy")
OURS = "from-here"


@dataclass(frozen=True)
class Answer:
    """What a node says."""

    sees: bool
    """Whether it read what was written here."""
    trouble: str | None
    """Why it could not write, too."""
    versions: Mapping[str, str | None]
    """Of Python and the packages; None: not installed."""
    code: tuple[str, str]
    """Where this package lies there, and a digest of its source."""


def check_nodes(workspace: Path) -> tuple[list[str], list[str]]:
    """(faults, warnings) of the nodes of the running Ray, each naming its node; in little more than a minute."""
    token = secrets.token_hex(8)
    folder = workspace / f".probe-{token}"
    try:
        folder.mkdir()
        (folder / OURS).write_text(token, encoding="utf-8")
    except OSError as error:
        return [f"workspace={workspace} cannot be written: {error.strerror}; give another"], []
    try:
        answers, faults = _ask(folder, token)
        warnings: list[str] = []
        until = time.monotonic() + CACHE_SECONDS
        for node, (name, said) in answers.items():
            arrived = said.sees and said.trouble is None and _wait_for(folder / node, token, until)
            faults += faults_of(name, workspace, said, arrived)
            warnings += differences_of(name, said.versions, versions())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return faults, warnings


def _ask(folder: Path, token: str) -> tuple[dict[str, tuple[str, Answer]], list[str]]:
    """By id of the node: its name and answer; and what is wrong with those that have none."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(answer)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    asked = {}
    for node in nodes:
        if node["Alive"]:
            id, name = node["NodeID"], f"node {node['NodeName']} ({node['NodeManagerHostname']})"
            there = NodeAffinitySchedulingStrategy(id, soft=False)
            asked[id] = name, task.options(name=f"check {name}", scheduling_strategy=there).remote(folder, id, token)
    answers: dict[str, tuple[str, Answer]] = {}
    faults: list[str] = []
    until = time.monotonic() + ANSWER_SECONDS
    for id, (name, reference) in asked.items():
        try:
            answers[id] = name, ray.get(reference, timeout=max(0.0, until - time.monotonic()))
        except GetTimeoutError:
            faults.append(f"{name} did not answer within {ANSWER_SECONDS:g} s: mend it, or take it out (`ray stop`)")
        except Exception as error:
            lines = str(getattr(error, "cause", None) or error).strip().splitlines()
            faults.append(f"{name} cannot run a stage: {lines[-1] if lines else type(error).__name__}")
    return answers, faults


def answer(folder: Path, node: str, token: str) -> Answer:
    """On the node: read the file written elsewhere, write one."""
    sees, trouble = _wait_for(folder / OURS, token, time.monotonic() + CACHE_SECONDS), None
    if sees:
        try:
            (folder / node).write_text(token, encoding="utf-8")
        except OSError as error:
            trouble = f"{error.strerror}, as user {os.getuid()}"
    return Answer(sees, trouble, versions(), code())


def faults_of(name: str, workspace: Path, said: Answer, arrived: bool) -> list[str]:
    """What makes a node unfit; `arrived`: whether the file that it wrote is there."""
    faults = []
    mend = "mount the same folder at the same path on every node, or give another workspace=PATH"
    if not said.sees:
        faults.append(f"{name} does not see workspace={workspace}: {mend}")
    elif said.trouble is not None:
        faults.append(f"{name} cannot write into workspace={workspace}: {said.trouble}; let that user write there")
    elif not arrived:
        faults.append(f"what {name} writes into workspace={workspace} does not arrive here: {mend}")
    if said.code[1] != code()[1]:
        faults.append(f"{name} runs another state of this code, in {said.code[0]}: bring it up to date or take it away")
    if lacking := [package for package, version in said.versions.items() if version is None]:
        faults.append(f"{name} lacks {', '.join(lacking)}: install there what infra/constraints.txt lists")
    return faults


def differences_of(name: str, there: Mapping[str, str | None], here: Mapping[str, str | None]) -> list[str]:
    """Versions that differ between a node and this process; builds of one version (`+cu128`, `+cpu`) do not."""
    different = [
        f"{package} {version} (here {here[package]})"
        for package, version in there.items()
        if version is not None and version.partition("+")[0] != str(here[package]).partition("+")[0]
    ]
    return [f"{name} has {', '.join(different)}: results may depend on the node"] if different else []


def versions() -> dict[str, str | None]:
    """Of this process: Python and the packages that a stage may import."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def code() -> tuple[str, str]:
    """Of this process: where this package lies, and a digest of its source."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return str(package), digest.hexdigest()


def _wait_for(path: Path, token: str, until: float) -> bool:
    while True:
        try:
            if path.read_text(encoding="utf-8") == token:
                return True
        except OSError:
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
