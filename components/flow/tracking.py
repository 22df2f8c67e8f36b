"""What goes to MLflow, from the driver alone: one run per invocation, one nested run per stage that ran.

Metrics come from the file a stage appends to, in batches; what could not be sent stays in the file and is sent
later, so an outage of the server loses nothing and doubles nothing. The one file that imports MLflow.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 1000
EXPERIMENT = "headstart"
WORKSPACE_TAG = "headstart.workspace"

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

log = logging.getLogger(__name__)


def flatten(value: Any, where: str = "") -> dict[str, Any]:
    """Nested JSON values as one level of dotted names; lists of plain values stay whole."""
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= flatten(item, f"{where}.{key}" if where else str(key))
        return flat
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        flat = {}
        for i, item in enumerate(value):
            flat |= flatten(item, f"{where}.{i}")
        return flat
    return {where: value}


@dataclass
class _Tail:
    """A metrics file being forwarded."""

    path: Path
    run: str
    inode: int = 0
    sent_bytes: int = 0
    sent_step: int = -1
    """Steps up to this one are sent: a file that was rewound repeats none of them."""


class Tracker:
    """The MLflow runs of one invocation."""

    def __init__(self, workspace: Path, uri: str | None, recipe: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        for name in ("mlflow", "alembic"):  # after the import, which sets them up
            logging.getLogger(name).setLevel(logging.ERROR)
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self.workspace = str(workspace.absolute())
        self.uri = uri or default_uri(workspace)
        self.client = MlflowClient(tracking_uri=self.uri)
        self.recipe = recipe
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            artifacts = None if uri else (workspace.absolute() / "mlartifacts").as_uri()
            self.experiment = self.client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        else:
            self.experiment = found.experiment_id
        self._close_dead_runs()
        self.parent = ""
        self._tails: dict[str, _Tail] = {}
        self._open: dict[str, str] = {}

    def _close_dead_runs(self) -> None:
        """Runs of a driver that died keep their clock running: close them. (Only one driver holds the workspace.)"""
        from mlflow.entities import ViewType

        query = f"attributes.status = 'RUNNING' and tags.`{WORKSPACE_TAG}` = '{self.workspace}'"
        for run in self.client.search_runs([self.experiment], query, ViewType.ACTIVE_ONLY):
            self.client.set_terminated(run.info.run_id, "KILLED")

    def start(self, name: str, tags: Mapping[str, str], params: Any, description: str) -> None:
        """Open the run of this invocation."""
        self.parent = self._create(name, {**tags, "mlflow.note.content": description}, params)

    def start_stage(self, node: str, title: str, tags: Mapping[str, str], config: Any, metrics: Path) -> str:
        """Open a nested run; metrics appended to the file `metrics` are forwarded from its beginning."""
        run = self._create(title, {**tags, "mlflow.parentRunId": self.parent}, config)
        self._open[node] = run
        self._tails[node] = _Tail(metrics, run)
        return run

    def _create(self, name: str, tags: Mapping[str, str], params: Any) -> str:
        own = {"mlflow.runName": name, WORKSPACE_TAG: self.workspace, "recipe": self.recipe}
        run = self.client.create_run(self.experiment, tags={**own, **tags}).info.run_id
        flat = flatten(params) if params is not None else {}
        entries = [self._param(key, str(value)[:6000]) for key, value in flat.items()]
        for i in range(0, len(entries), 100):
            self.client.log_batch(run, params=entries[i : i + 100])
        return str(run)

    def forward(self) -> None:
        """Send what stages appended since the last call. Failures are logged and tried again at the next call."""
        for tail in self._tails.values():
            try:
                while self._forward_some(tail):
                    pass
            except Exception as error:
                log.warning("MLflow at %s did not take metrics: %s", self.uri, error)

    def _forward_some(self, tail: _Tail) -> bool:
        if not tail.path.exists():
            return False
        if (inode := tail.path.stat().st_ino) != tail.inode:  # another file: rewound to a checkpoint, or kept elsewhere
            tail.inode, tail.sent_bytes = inode, 0
        with tail.path.open("rb") as file:
            file.seek(tail.sent_bytes)
            chunk = file.read(1 << 16)
        chunk = chunk[: chunk.rfind(b"\n") + 1]
        if not chunk:
            return False
        at = int(time.time() * 1000)
        metrics, step = [], tail.sent_step
        for line in chunk.splitlines():
            try:
                record = json.loads(line)
                step = int(record.pop("step"))
            except (ValueError, KeyError):  # torn by a kill
                continue
            if step > tail.sent_step:
                metrics += [self._metric(k, float(v), at, step) for k, v in record.items()]
        for i in range(0, len(metrics), BATCH):
            self.client.log_batch(tail.run, metrics=metrics[i : i + BATCH])
        tail.sent_bytes += len(chunk)
        tail.sent_step = max(step, tail.sent_step)
        return True

    def finish_stage(self, node: str, status: str, results: Any = None, kept: Path | None = None) -> None:
        """Close a nested run with the numbers of its artifact. `kept` is where its metrics file stays: what an
        outage held back is sent from there later."""
        if kept is not None and node in self._tails:
            self._tails[node].path = kept
        self.forward()
        run = self._open.pop(node, None)
        if run is None:
            return
        try:
            self.results(run, results, "result/")
            self.client.set_terminated(run, status)
        except Exception as error:
            log.warning("MLflow at %s did not take the end of %s: %s", self.uri, node, error)

    def results(self, run: str, results: Any, prefix: str = "") -> None:
        """Log the numbers in `results` (nested JSON values) as metrics named `<prefix><dotted path>`."""
        now = int(time.time() * 1000)
        flat = flatten(results) if results is not None else {}
        metrics = [
            self._metric(prefix + key, float(value), now, 0)
            for key, value in flat.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        for i in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[i : i + BATCH])

    def publish(self, directory: Path, name: str) -> None:
        """Log a directory's files as artifacts of the whole run."""
        self.client.log_artifacts(self.parent, str(directory), name)

    def finish(self, status: str) -> None:
        """Close everything that is open."""
        for node in list(self._open):
            self.finish_stage(node, status)
        if self.parent:
            self.client.set_terminated(self.parent, status)

    def page(self) -> str:
        """Where the runs page opens once `mlflow server` runs."""
        return f"/#/experiments/{self.experiment}/runs?workflowType=machine_learning"


def default_uri(workspace: Path) -> str:
    """SQLite in the workspace: no server needed."""
    return f"sqlite:///{workspace.absolute() / 'mlflow.db'}"
