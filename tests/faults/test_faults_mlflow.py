"""The MLflow server is gone for a minute while models are trained."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from fault_runs import Driver, Pipeline, clear, free_port, no_process_of, same_results

pytestmark = [pytest.mark.ray, pytest.mark.faults]
Watch = Callable[[Driver], Driver]


def serve(folder: Path, port: int) -> Driver:
    """An MLflow server that answers."""
    output = folder / f"server-{time.monotonic_ns()}.txt"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with output.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    server = Driver(process, output)

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    server.wait_until(answers, 120)
    return server


def test_the_server_is_gone_for_a_minute(
    undisturbed: Pipeline, pipeline: Pipeline, tmp_path: Path, watch: Watch
) -> None:
    """Long enough for stages to end and begin meanwhile."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = watch(serve(tmp_path, port))
    pipeline = replace(pipeline, overrides=(f"tracking_uri={uri}",))
    driver = watch(pipeline.start())
    driver.wait_until(lambda: pipeline.has_stepped("pretrain", 20))
    clear(server)
    gone = time.monotonic()
    time.sleep(60)
    words = driver.text
    watch(serve(tmp_path, port))
    print(f"gone for {time.monotonic() - gone:.0f} s, in which it said:")
    print(words[words.index("corpus: running") :])
    assert words.count("pretrain: done") == 2, "stages stood still while the server was gone"
    assert driver.wait() == 0, driver.text
    no_process_of(driver)
    print(driver.text[driver.text.index("Report") :])
    same_results(pipeline, undisturbed)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("headstart").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = {run.data.tags["mlflow.runName"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    manifests = pipeline.manifests()
    assert len(runs) == 1 + len(manifests)
    for manifest in manifests.values():
        run = children[manifest["title"]]
        lines = pipeline.workspace / "latest" / manifest["name"] / "metrics.jsonl"
        wanted = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        names = {name for line in wanted for name in line} - {"step"}
        assert names <= {*run.data.metrics}
        for name in names:
            points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            assert points == [(line["step"], line[name]) for line in wanted if name in line], (manifest["name"], name)
    assert "index.html" in {Path(file.path).name for file in client.list_artifacts(parent.info.run_id, "report")}
    assert "n2/bits_per_byte" in parent.data.metrics
