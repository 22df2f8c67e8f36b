"""Nodes on one machine, as `ray start` makes them: the code goes along, and one that sees no workspace is named."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import components
from components.flow.cluster import LEFTOVERS, environment, sweep_leftovers
from components.flow.shared_folder import Answer, code, differences_of, faults_of, versions

PROGRAM = Path(__file__).parent / "toy_join.py"
GOOD = Answer(True, None, versions(), code())


@dataclass(frozen=True)
class Head:
    """A cluster on this machine with one node of one core."""

    address: str
    environment: dict[str, str]

    def ray_start(self, *options: str, before: tuple[str, ...] = ()) -> None:
        ray = Path(sys.executable).with_name("ray")
        command = [*before, ray, "start", "--num-cpus=1", "--object-store-memory=100000000", *options]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with socket.socket() as gcs, socket.socket() as client:
        for probe in (gcs, client):
            probe.bind(("127.0.0.1", 0))
        port, client_port = gcs.getsockname()[1], client.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets lie in it: pytest's own folders are too long for them
    own = {k: v for k, v in os.environ.items() if k not in {*environment(True), "PYTHONPATH"}}
    own |= environment(loopback=False) | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = Head(f"127.0.0.1:{port}", own)
    try:
        ports = f"--port={port}", f"--ray-client-server-port={client_port}"
        head.ray_start("--head", *ports, "--include-dashboard=false", f"--temp-dir={folder}")
        yield head
    finally:
        (folder / LEFTOVERS).write_text(json.dumps({"session": str((folder / "session_latest").resolve())}))
        assert sweep_leftovers(folder) > 0
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state of the code that no node can have from anywhere else, with results beside it."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(Path(components.__file__).parent, root / "components", ignore=shutil.ignore_patterns("__pycache__"))
    probe = root / "components" / "flow" / "shared_folder.py"
    probe.write_text(probe.read_text().replace("CACHE_SECONDS = 10.0", "CACHE_SECONDS = 1.0"))
    (root / "runs").mkdir()
    with (root / "runs" / "big").open("wb") as file:
        file.truncate(2 << 30)  # Ray refuses a package of more than 512 MiB
    return root


def run(head: Head, checkout: Path, workspace: Path, **variables: str) -> tuple[int, dict[str, object]]:
    environment = head.environment | {"PYTHONPATH": str(checkout)} | variables
    command = [sys.executable, str(PROGRAM), head.address, str(workspace)]
    done = subprocess.run(
        command, env=environment, cwd=workspace, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.ray
def test_a_pipeline_over_two_nodes_runs_the_code_of_the_driver(head: Head, checkout: Path, tmp_path: Path) -> None:
    head.ray_start(f"--address={head.address}", "--node-name=second")
    status, said = run(head, checkout, tmp_path)
    assert (status, said["failed"]) == (0, {})
    assert json.loads((tmp_path / "latest" / "total" / "value.json").read_text()) == 2 * 3 + (3 + 5)
    assert not list(tmp_path.glob(".probe-*"))
    (place,) = said["places"]
    assert "_ray_pkg_" in place  # of the two nodes' installed package and the driver's, the driver's
    assert 0.2e6 < sum(f.stat().st_size for f in Path(place).rglob("*")) < 2e6


@pytest.mark.ray
def test_another_token_is_refused(head: Head, checkout: Path, tmp_path: Path) -> None:
    status, said = run(head, checkout, tmp_path, RAY_AUTH_TOKEN="wrong")
    assert status == 2
    assert "does not let this run in: Unauthenticated" in str(said["refused"])
    assert "same token" in str(said["refused"])


@pytest.mark.ray
def test_a_node_that_does_not_see_the_workspace_is_refused_by_name(head: Head, checkout: Path, tmp_path: Path) -> None:
    alone = ("unshare", "--mount", "--")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    before = (*alone, "sh", "-c", f'mount -t tmpfs none {tmp_path} && exec "$@"', "sh")
    head.ray_start(f"--address={head.address}", "--node-name=blind", before=before)
    status, said = run(head, checkout, tmp_path)
    assert status == 2
    (fault,) = str(said["refused"]).splitlines()
    assert fault.startswith("node blind (")
    assert f"does not see workspace={tmp_path}" in fault
    assert not (tmp_path / "store").exists()


def test_faults_of_a_node_name_it_and_the_mend() -> None:
    def faults(said: Answer, arrived: bool = True) -> str:
        return "\n".join(faults_of("node n7", Path("/shared"), said, arrived))

    assert faults(GOOD) == ""
    assert "node n7 does not see workspace=/shared" in faults(replace(GOOD, sees=False), False)
    assert "node n7 cannot write into workspace=/shared: Permission" in faults(
        replace(GOOD, trouble="Permission denied, as user 1000"), False
    )
    assert "what node n7 writes into workspace=/shared does not arrive" in faults(GOOD, False)
    assert "node n7 lacks torch, ray" in faults(replace(GOOD, versions={"torch": None, "ray": None}))
    assert "another state of this code, in /opt/components" in faults(replace(GOOD, code=("/opt/components", "f00")))


def test_versions_that_differ_are_said() -> None:
    here = {"python": "3.11.7", "torch": "2.13.0+cpu", "ray": "2.60.0"}
    assert differences_of("n7", here | {"torch": "2.13.0+cu128"}, here) == []
    (line,) = differences_of("n7", here | {"torch": "2.12.1", "ray": None}, here)
    assert line.startswith("n7 has torch 2.12.1 (here 2.13.0+cpu): ")
