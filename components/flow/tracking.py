"""What goes to MLflow, from the driver alone: one run per invocation, one nested run per stage that ran.

Metrics come from the file a stage appends to, in batches. What could not be sent is kept and sent later, so an outage
of the server loses nothing and doubles nothing: a point that is sent again has its first time, by which the server
knows it. The one file that imports MLflow.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 1000
EXPERIMENT = "headstart"
DATABASE = "mlflow.db"
WORKSPACE_TAG = "headstart.workspace"
OUTAGE_SECONDS = 60.0
"""How long a run that is done waits for a server to come back and take the rest."""
RETRY_SECONDS = 10.0
"""Between two tries while a server does not answer: each may take as long as the time-outs below."""

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# by MLflow's own a server that is gone would keep the driver from its stages for minutes at every call
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a stage between ours

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
class _Nested:
    """The run of a stage: what MLflow is to know of it, and how much of that it has taken."""

    node: str
    title: str
    tags: Mapping[str, str]
    config: Any
    metrics: Path
    """The file that the stage appends to."""
    started: int
    """Times here are in milliseconds since 1970, as MLflow has them."""
    run: str | None = None
    inode: int = 0
    sent_bytes: int = 0
    sent_step: int = -1
    """Steps up to this one are sent: a file that was rewound repeats none of them."""
    trying_since: int | None = None
    """When what follows `sent_bytes` was first tried: the time of its points, however often they are sent."""
    described: bool = False
    """Whether its config is sent."""
    ended: int | None = None
    status: str = ""
    results: Any = None
    files: Path | None = None
    """To be logged as artifacts of the whole run."""


class Tracker:
    """The MLflow runs of one invocation."""

    def __init__(self, workspace: Path, uri: str | None, recipe: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        for name in ("mlflow", "alembic", "urllib3"):  # after the import, which sets them up
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong comes as an exception
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self.workspace = str(workspace.absolute())
        if uri is None:
            _make_database(workspace.absolute())
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
        self._open: dict[str, _Nested] = {}
        """By node, what MLflow does not have whole."""
        self._silent_until = 0.0

    def _close_dead_runs(self) -> None:
        """Runs of a driver that died keep their clock running: close them. (Only one driver holds the workspace.)"""
        from mlflow.entities import ViewType

        query = f"attributes.status = 'RUNNING' and tags.`{WORKSPACE_TAG}` = '{self.workspace}'"
        for run in self.client.search_runs([self.experiment], query, ViewType.ACTIVE_ONLY):
            self.client.set_terminated(run.info.run_id, "KILLED")

    def start(self, name: str, tags: Mapping[str, str], params: Any, description: str) -> None:
        """Open the run of this invocation."""
        self.parent = self._create(name, {**tags, "mlflow.note.content": description}, _now())
        self._describe(self.parent, params)

    def start_stage(self, node: str, title: str, tags: Mapping[str, str], config: Any, metrics: Path) -> None:
        """Open a nested run; metrics appended to the file `metrics` are forwarded from its beginning."""
        self._open[node] = _Nested(node, title, {**tags, "mlflow.parentRunId": self.parent}, config, metrics, _now())
        self.forward()

    def run_of(self, node: str) -> str | None:
        """MLflow's name for the run of a stage that is not closed; None while MLflow has not heard of it."""
        return self._open[node].run if node in self._open else None

    def _create(self, name: str, tags: Mapping[str, str], started: int) -> str:
        own = {"mlflow.runName": name, WORKSPACE_TAG: self.workspace, "recipe": self.recipe}
        return str(self.client.create_run(self.experiment, started, tags={**own, **tags}).info.run_id)

    def _describe(self, run: str, params: Any) -> None:
        flat = flatten(params) if params is not None else {}
        entries = [self._param(key, str(value)[:6000]) for key, value in flat.items()]
        for i in range(0, len(entries), 100):
            self.client.log_batch(run, params=entries[i : i + 100])

    def forward(self) -> None:
        """Send what stages have to say since the last call. What fails is logged and tried again at a later call."""
        if time.monotonic() >= self._silent_until:
            self._send_all()

    def _send_all(self) -> bool:
        """Send all there is; False, at the first failure, when MLflow did not take it."""
        try:
            for node, nested in list(self._open.items()):
                self._send(nested)
                if nested.ended is not None:
                    del self._open[node]
        except Exception as error:
            log.warning("MLflow at %s did not answer: %s", self.uri, error)
            self._silent_until = time.monotonic() + RETRY_SECONDS
            return False
        return True

    def _send(self, nested: _Nested) -> None:
        """Every part of it is remembered as sent, or may be sent twice without harm."""
        if nested.run is None:
            nested.run = self._create(nested.title, nested.tags, nested.started)
        if not nested.described:
            self._describe(nested.run, nested.config)
            nested.described = True
        while self._forward_some(nested, nested.run):
            pass
        if nested.ended is not None:
            self.results(nested.run, nested.results, "result/", nested.ended)
            if nested.files is not None:
                self.client.log_artifacts(self.parent, str(nested.files), nested.node)
            self.client.set_terminated(nested.run, nested.status, nested.ended)

    def _forward_some(self, nested: _Nested, run: str) -> bool:
        if not nested.metrics.exists():
            return False
        if (inode := nested.metrics.stat().st_ino) != nested.inode:  # rewound to a checkpoint, or kept elsewhere
            nested.inode, nested.sent_bytes = inode, 0
        with nested.metrics.open("rb") as file:
            file.seek(nested.sent_bytes)
            chunk = file.read(1 << 16)
        chunk = chunk[: chunk.rfind(b"\n") + 1]
        if not chunk:
            return False
        nested.trying_since = at = nested.trying_since or _now()
        metrics, step = [], nested.sent_step
        for line in chunk.splitlines():
            try:
                record = json.loads(line)
                step = int(record.pop("step"))
            except (ValueError, KeyError):  # torn by a kill
                continue
            if step > nested.sent_step:
                metrics += [self._metric(k, float(v), at, step) for k, v in record.items()]
        for i in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[i : i + BATCH])
        nested.sent_bytes += len(chunk)
        nested.sent_step = max(step, nested.sent_step)
        nested.trying_since = None
        return True

    def finish_stage(
        self, node: str, status: str, results: Any = None, kept: Path | None = None, publish: Path | None = None
    ) -> None:
        """Close a nested run with the numbers of its artifact. `kept` is where its metrics file stays, which an
        outage may hold back; `publish` a directory to log as artifacts of the whole run."""
        nested = self._open.get(node)
        if nested is None or nested.ended is not None:
            return
        nested.metrics = kept or nested.metrics
        nested.status, nested.results, nested.files, nested.ended = status, results, publish, _now()
        self.forward()

    def results(self, run: str, results: Any, prefix: str = "", at: int | None = None) -> None:
        """Log the numbers in `results` (nested JSON values) as metrics named `<prefix><dotted path>`."""
        at = at or _now()
        flat = flatten(results) if results is not None else {}
        metrics = [
            self._metric(prefix + key, float(value), at, 0)
            for key, value in flat.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        for i in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[i : i + BATCH])

    def finish(self, status: str, headline: Any, say: Callable[[str], None]) -> None:
        """Close everything that is open, with the headline figures on the whole run. A server that does not answer
        is given OUTAGE_SECONDS to come back, unless the run was KILLED."""
        if not self.parent:
            return
        for node in list(self._open):
            self.finish_stage(node, status)
        ended = _now()
        until = time.monotonic() + (OUTAGE_SECONDS if status != "KILLED" and self.uri.startswith("http") else 0)
        waiting = False
        while not self._close(status, headline, ended):
            if time.monotonic() > until:
                say(f"MLflow at {self.uri} took only a part of this run; the store has it whole")
                return
            if not waiting:
                say(f"MLflow at {self.uri} does not answer: waiting up to {OUTAGE_SECONDS:.0f} s to send it the rest")
            waiting = True
            time.sleep(2)

    def _close(self, status: str, headline: Any, ended: int) -> bool:
        if not self._send_all():
            return False
        try:
            self.results(self.parent, headline, at=ended)
            self.client.set_terminated(self.parent, status, ended)
        except Exception as error:
            log.warning("MLflow at %s did not answer: %s", self.uri, error)
            return False
        return True

    def page(self) -> str:
        """Where the runs page opens once `mlflow server` runs."""
        return f"/#/experiments/{self.experiment}/runs?workflowType=machine_learning"


def _now() -> int:
    return int(time.time() * 1000)


def default_uri(workspace: Path) -> str:
    """SQLite in the workspace: no server needed."""
    return f"sqlite:///{workspace.absolute() / DATABASE}"


def _make_database(workspace: Path) -> None:
    """Make it whole or not at all: its tables come of many migrations, and a database that a kill left between two of
    them cannot be opened again."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for torn in workspace.glob(f".{DATABASE}.*"):
        torn.unlink()
    if not (workspace / DATABASE).exists():
        partial = workspace / f".{DATABASE}.{os.getpid()}"
        made = SqlAlchemyStore(f"sqlite:///{partial}", (workspace / "mlartifacts").as_uri())  # type: ignore[no-untyped-call]
        made.engine.dispose()
        partial.rename(workspace / DATABASE)
