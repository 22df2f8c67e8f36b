"""Processes of Ray are killed: a stage's, a training worker's, Ray's own; and a driver on a Ray that outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fault_runs import TWO_WORKERS, Driver, Pipeline, free_port, no_process_of, same_results

from components.flow.cluster import environment

pytestmark = [pytest.mark.ray, pytest.mark.faults]
Watch = Callable[[Driver], Driver]


def kill_process(driver: Driver, name: str) -> None:
    number = driver.process_called(name)
    assert number is not None, driver.processes()
    os.kill(number, signal.SIGKILL)


def test_the_process_of_a_stage_is_killed_mid_step(undisturbed: Pipeline, pipeline: Pipeline, watch: Watch) -> None:
    """What does not depend on it goes on; the same command goes on with it."""
    driver = watch(pipeline.start())
    driver.wait_until(lambda: pipeline.has_stepped("pretrain", 20))
    kill_process(driver, "ray::pretrain-n2")
    assert driver.wait() == 1
    no_process_of(driver)
    assert "n=2 pretrain failed: its process ended at once: killed, " in driver.text
    assert "n=1 evaluate: done" in driver.text
    assert {*pipeline.weights()} == {"pretrain-n1"}
    pipeline.finish(driver)
    same_results(pipeline, undisturbed)


def test_one_of_two_workers_is_killed_mid_step(undisturbed_pair: Pipeline, pipeline: Pipeline, watch: Watch) -> None:
    """Ray Train starts both anew, which go on from the checkpoint: the run ends well by itself."""
    pipeline = replace(pipeline, overrides=TWO_WORKERS)
    driver = watch(pipeline.start())
    driver.wait_until(lambda: pipeline.has_stepped("pretrain", 20))
    kill_process(driver, "ray::RayTrainWorker")
    assert driver.wait() == 0, driver.text
    no_process_of(driver)
    same_results(pipeline, undisturbed_pair)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_process_of_ray_itself_is_killed(undisturbed: Pipeline, pipeline: Pipeline, watch: Watch, name: str) -> None:
    driver = watch(pipeline.start())
    driver.wait_until(lambda: pipeline.has_stepped("pretrain", 20))
    kill_process(driver, f"/{name} --")
    killed = time.monotonic()
    assert driver.wait(60) == 1
    print(f"ended after {time.monotonic() - killed:.1f} s")
    assert f"Ended: Ray's {name} on this machine has ended (killed" in driver.text
    no_process_of(driver)
    pipeline.finish(driver)
    same_results(pipeline, undisturbed)


ASK = """
import json, os, sys
from components.flow.cluster import environment
os.environ.update(environment(True))
import ray
from ray.util.state import list_actors
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
groups = [group["state"] for group in ray.util.placement_group_table().values()]
print(json.dumps([groups.count("CREATED") + groups.count("PENDING"), ray.available_resources().get("CPU", 0)]))
"""


def ask(head: str) -> tuple[int, float]:
    """Placement groups that hold or want something, and free cores."""
    said = subprocess.run([sys.executable, "-c", ASK, head], capture_output=True, text=True, check=True, timeout=120)
    groups, cores = json.loads(said.stdout.splitlines()[-1])
    return groups, cores


def test_a_killed_driver_leaves_nothing_on_a_ray_that_outlives_it(
    undisturbed_pair: Pipeline, pipeline: Pipeline, watch: Watch, tmp_path: Path
) -> None:
    address, output = f"127.0.0.1:{free_port()}", tmp_path / "head.txt"
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={address.partition(':')[2]}", f"--ray-client-server-port={free_port()}"]
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, "--node-ip-address=127.0.0.1", f"--dashboard-port={free_port()}"],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment(True)},
        )
    head = watch(Driver(process, output))
    head.wait_until(lambda: "runtime started" in head.text, 120)
    pipeline = replace(pipeline, overrides=(*TWO_WORKERS, f"cluster.address={address}"))
    driver = watch(pipeline.start())
    driver.wait_until(lambda: pipeline.has_stepped("pretrain", 20))
    assert ask(address)[0] > 0
    driver.kill()
    killed = time.monotonic()
    while (found := ask(address)) != (0, 2.0):
        assert time.monotonic() - killed < 120, found
    print(f"no placement group and both cores free {time.monotonic() - killed:.1f} s after the kill")
    assert not [command for command in head.processes().values() if "RayTrainWorker" in command]
    pipeline.finish(driver)
    assert ask(address) == (0, 2.0)
    same_results(pipeline, undisturbed_pair)
