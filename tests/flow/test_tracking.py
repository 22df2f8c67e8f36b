"""What MLflow has after it did not answer for a while: everything, once."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.flow.tracking import Tracker, default_uri


class Outage(Exception):
    pass


class Unsteady:
    """A client of which calls fail: before the server heard of them, or after, when only the answer is lost."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.gone = False
        self.lose_answers: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.gone:
                raise Outage(name)
            answer = getattr(self.client, name)(*arguments, **named)
            if name in self.lose_answers:
                self.lose_answers.remove(name)
                raise Outage(name)
            return answer

        return call


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    monkeypatch.setattr("components.flow.tracking.RETRY_SECONDS", 0.0)
    tracker = Tracker(tmp_path, None, "toy")
    client = tracker.client
    tracker.client = Unsteady(client)  # type: ignore[assignment]
    tracker.start("toy", {}, {"a": 1}, "")
    yield tracker
    client._tracking_client.store.engine.dispose()


def append(path: Path, *steps: int) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in steps)


def assert_whole(tracker: Tracker, tmp_path: Path) -> None:
    """Both runs are there, closed, and every point once."""
    client = MlflowClient(tracking_uri=default_uri(tmp_path))
    runs = {run.data.tags["mlflow.runName"]: run for run in client.search_runs([tracker.experiment])}
    assert {name: run.info.status for name, run in runs.items()} == {"toy": "FINISHED", "n=2 train": "FINISHED"}
    stage = runs["n=2 train"]
    history = [(point.step, point.value) for point in client.get_metric_history(stage.info.run_id, "loss")]
    assert history == [(step, 1.0 / step) for step in range(1, 7)]
    assert stage.data.params == {"steps": "6"}
    assert stage.data.metrics["result/score"] == 0.5
    assert runs["toy"].data.metrics == {"speedup": 2.0}
    assert [file.path for file in client.list_artifacts(runs["toy"].info.run_id)] == ["train"]
    client._tracking_client.store.engine.dispose()


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifacts", "set_terminated", None])
def test_an_outage_loses_nothing_and_doubles_nothing(tracker: Tracker, tmp_path: Path, call: str | None) -> None:
    """From the start of a stage to its end, and a lost answer to each kind of call."""
    server: Any = tracker.client
    work, attempt = tmp_path / "metrics.jsonl", tmp_path / "attempt"
    attempt.mkdir()
    server.gone = call in (None, "create_run")
    tracker.start_stage("train", "n=2 train", {}, {"steps": 6}, work)
    assert (tracker.run_of("train") is None) == server.gone
    append(work, 1, 2)
    tracker.forward()
    server.gone = False
    if call in ("log_batch",):
        server.lose_answers.add(call)
    append(work, 3, 4)
    tracker.forward()
    append(work, 5)
    tracker.forward()
    server.gone = call is None
    append(work, 6)
    work.rename(attempt / "metrics.jsonl")
    if call in ("log_artifacts", "set_terminated"):
        server.lose_answers.add(call)
    tracker.finish_stage("train", "FINISHED", {"score": 0.5}, attempt / "metrics.jsonl", attempt)
    server.gone = False
    said: list[str] = []
    tracker.finish("FINISHED", {"speedup": 2.0}, said.append)
    assert said == []
    assert_whole(tracker, tmp_path)


KILLED_IN_THE_LAST_MIGRATION = """
import os, signal, sqlite3, sys
from pathlib import Path
from alembic import command
from components.flow.tracking import Tracker

def cut_off(config, revision):
    upgrade(config, "head-1")
    database = sqlite3.connect(*Path(sys.argv[1]).glob("*mlflow.db*"))
    before = database.execute("select version_num from alembic_version").fetchone()
    upgrade(config, revision)
    database.execute("update alembic_version set version_num = ?", before)
    database.commit()
    os.kill(os.getpid(), signal.SIGKILL)

upgrade, command.upgrade = command.upgrade, cut_off
Tracker(Path(sys.argv[1]), None, "toy")
"""


def test_a_kill_while_the_database_is_made_leaves_none(tmp_path: Path) -> None:
    """MLflow's migrations are no transactions: it opens no database that lacks the note of the last one."""
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_LAST_MIGRATION, tmp_path], check=False)
    assert killed.returncode == -9
    assert [*tmp_path.iterdir()]
    tracker = Tracker(tmp_path, None, "toy")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    tracker.client._tracking_client.store.engine.dispose()


def test_a_server_that_stays_away_is_named(tracker: Tracker, tmp_path: Path) -> None:
    server: Any = tracker.client
    tracker.start_stage("train", "n=2 train", {}, {}, tmp_path / "metrics.jsonl")
    server.gone = True
    said: list[str] = []
    tracker.finish("FAILED", {}, said.append)
    assert said == [f"MLflow at {tracker.uri} took only a part of this run; the store has it whole"]
