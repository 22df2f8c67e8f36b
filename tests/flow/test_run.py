"""A toy pipeline through a real Ray and a real MLflow, in processes of its own that can be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_pipeline import plan

pytestmark = pytest.mark.ray
PROGRAM = Path(__file__).parent / "toy_pipeline.py"
HELD_COMMIT = Path(__file__).parents[1] / "faults" / "held_commit.py"


def start(workspace: Path, before: tuple[object, ...] = (), **parameters: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, before), str(PROGRAM), str(workspace), json.dumps(parameters)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(workspace: Path, **parameters: object) -> tuple[int, str, dict[str, object]]:
    process = start(workspace, **parameters)
    text, _ = process.communicate(timeout=120)
    last = text.strip().splitlines()[-1]
    return process.returncode, text, json.loads(last) if last.startswith("{") else {}


def value(workspace: Path, node: str) -> int:
    return int(json.loads((workspace / "latest" / node / "value.json").read_text()))


def so_far(workspace: Path) -> list[str]:
    return (workspace / "latest" / "so-far.txt").read_text().splitlines()


def test_runs_reuses_and_stops_only_below_a_failure(tmp_path: Path) -> None:
    code, text, _ = run(tmp_path)
    assert code == 0, text
    assert value(tmp_path, "total") == 2 * 3 + (3 + 5)
    assert so_far(tmp_path)[::4] == ["", "count scale source total"]

    code, text, said = run(tmp_path)
    assert (code, said["ray"]) == (0, False), text

    # 13 is 3 modulo 10: the source runs again, comes out the same, and nothing else runs
    code, text, _ = run(tmp_path, value=13)
    assert code == 0, text
    assert text.count("its inputs came out the same") == 3

    code, text, said = run(tmp_path, factor=3, fail=True, steps=6)
    assert code == 1
    assert "failed" in said, text
    assert said["failed"] == {"scale": "ValueError: factor 3 is out of luck", "total": "needs scale"}
    assert value(tmp_path, "count") == 9
    assert so_far(tmp_path)[-1] == "count source ended"
    assert "log.txt" in text

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("headstart").experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert sorted(r.info.status for r in parents) == ["FAILED", "FINISHED", "FINISHED"]
    counted = next(r for r in runs if r.info.run_name == "count" and r.data.params["steps"] == "5")
    history = client.get_metric_history(counted.info.run_id, "value")
    assert [(m.step, m.value) for m in history] == [(i, 3.0 + i) for i in range(1, 6)]
    client._tracking_client.store.engine.dispose()


def steps_of(workspace: Path, node: str) -> list[int]:
    lines = (workspace / "latest" / node / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def wait_for_step(workspace: Path, step: int) -> None:
    for _ in range(600):
        for path in workspace.glob("store/count/*/work/committed.json"):
            if json.loads(path.read_text())["done"] >= step:
                return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was never committed")


def test_an_interrupted_driver_leaves_a_stage_that_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, steps=20, seconds_per_step=0.5)
    wait_for_step(tmp_path, 3)
    os.kill(process.pid, signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    count = next(p for p in plan(tmp_path, steps=20, seconds_per_step=0.5).nodes if p.node.name == "count")
    assert count.status == "continue", told

    code, text, _ = run(tmp_path, steps=20, seconds_per_step=0.5)
    assert code == 0, text
    assert value(tmp_path, "count") == 3 + 20
    assert steps_of(tmp_path, "count") == [*range(1, 21)]


def test_a_driver_killed_inside_a_commit_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The other windows of a commit, and the whole pipeline: tests/faults."""
    inside = tmp_path / "inside"
    process = start(tmp_path, before=(HELD_COMMIT, "half a manifest", "count", inside))
    while not inside.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (place,) = tmp_path.glob("store/count/*")
    assert [*place.glob(".manifest.json.*")]
    count = next(p for p in plan(tmp_path).nodes if p.node.name == "count")
    assert (count.status, count.reason) == ("continue", "from 5 of 5")

    code, text, _ = run(tmp_path)
    assert code == 0, text
    assert value(tmp_path, "total") == 2 * 3 + (3 + 5)
    assert steps_of(tmp_path, "count") == [*range(1, 6)]
    assert {path.name.split("-")[0] for path in place.iterdir()} == {"attempt", "manifest.json"}
