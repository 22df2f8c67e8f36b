"""Running a plan: which nodes are ready and fit, each as a Ray task, every result committed before the next begins.

A stage that drives Ray Data or Ray Train holds no CPU itself; what its workers need is counted here, so that
admission and Ray cannot wait for each other. A failure stops only what depends on it. Running again goes on.
"""

import contextlib
import dataclasses
import fcntl
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from components.flow import cluster as ray_cluster
from components.flow.address import reach
from components.flow.admission import admissible, cpus_of, shortages
from components.flow.cluster import Cluster, ClusterConfig
from components.flow.cost import Capacity
from components.flow.disk import full_disk, no_place
from components.flow.execute import execute
from components.flow.fit import blockers, disk_shortage, found, misfits
from components.flow.folder import RUN_FILE, link, log_to, run_directory
from components.flow.identity import arranged
from components.flow.node import Graph, Node, Several
from components.flow.plan import NodePlan, Plan
from components.flow.shared_folder import check_nodes
from components.flow.source import changed_files
from components.flow.stage_run import StageRecord, StageRun, write_json
from components.flow.store import Manifest, Store, provenance
from components.flow.table import Row, RunTable
from components.flow.tracking import Tracker, default_uri

SoFar = Callable[[Path, Mapping[str, Manifest], bool], None]
"""What is done with a run's folder and the results that there are, by node, while others are to come; the last is
whether the run ended without them."""
POLL_SECONDS = 0.5
FORWARD_SECONDS = 5.0


class Refused(Exception):
    """The run cannot start as asked; the message says what to change."""


class Ended(Exception):
    """The run could not go on; the message says why. The same command goes on from there."""


@dataclass(frozen=True)
class RunSettings:
    """How and where an invocation runs; no part of any identity."""

    workspace: Path
    recipe: str
    cluster: ClusterConfig
    tracking_uri: str | None = None
    config: Any = None
    """The whole recipe as JSON values, for the record."""
    whole: bool = True
    """Whether the plan has every node of the recipe."""
    capacity: Capacity | None = None
    """What the plan was reckoned on; None: what is short shows when it runs."""
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Tags of its MLflow run, such as the sweep that it belongs to."""
    so_far: SoFar | None = None
    """Told of the results at the beginning, and whenever one is added."""


@dataclass(frozen=True)
class Outcome:
    """What an invocation came to."""

    directory: Path
    """`runs/<recipe>-<time>/`."""
    manifests: Mapping[str, Manifest]
    failed: Mapping[str, str]
    """Node name to one line on the cause."""
    tracking_uri: str
    tracking_page: str | None
    seconds: float


def run_plan(plan: Plan, store: Store, settings: RunSettings, console: Console) -> Outcome:
    """Run what must run. Refused names every problem first, Ended what broke the run off; KeyboardInterrupt leaves
    nothing running."""
    if fault := no_place(settings.workspace):
        raise Refused(fault)
    problems = disk_shortage(plan, settings.workspace)
    if settings.capacity:
        problems += blockers(plan, settings.capacity)
    if problems:
        raise Refused("\n".join(problems))
    try:
        settings.workspace.mkdir(parents=True, exist_ok=True)
        (settings.workspace / "driver.lock").touch()
    except OSError as error:
        raise Refused(f"workspace={settings.workspace} cannot be written: {error.strerror}; give another") from None
    if plan.to_run() and settings.cluster.address:
        reach(settings.cluster.address)  # before anything of this run is written down
    with workspace_lock(settings.workspace):
        try:
            return _Invocation(plan, store, settings, console).run()
        except OSError as error:
            if words := full_disk(error, settings.workspace):
                raise Ended(words) from error
            raise


@contextlib.contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """One driver a workspace: the lock falls with the process, however it ends."""
    with (workspace / "driver.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Refused(
                f"another driver works in {workspace} ({file.read().strip() or 'unnamed'}): wait for it, "
                "or give this run another workspace=PATH"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}: {' '.join(sys.argv)[:200]}")
        file.flush()
        yield


@dataclass
class _Running:
    plan: NodePlan
    key: str
    attempt: Path
    started: float


class _Invocation:
    """One `python pipelines/….py`, from the first ready node to the last link."""

    def __init__(self, plan: Plan, store: Store, settings: RunSettings, console: Console) -> None:
        self.plan, self.store, self.settings, self.console = plan, store, settings, console
        self.started = time.time()
        self.directory = run_directory(settings.workspace, settings.recipe)
        self.log = log_to(self.directory / "log.txt")
        self.manifests = {p.node.name: p.manifest for p in plan.nodes if p.manifest is not None}
        self.failed: dict[str, str] = {}
        self.waiting = {p.node.name: p for p in plan.to_run()}
        self.running: dict[Any, _Running] = {}
        self.begun: dict[str, Any] = {}
        self.provenance = provenance()
        self.tasks: dict[bool, Any] = {}
        """The Ray task that runs a stage, by whether it needs a process of its own."""
        self.tracker: Tracker | None = None
        self.cluster: Cluster | None = None
        states = {"reused": "reused", "not needed": "not needed"}
        self.table = RunTable(
            console, {p.node.name: Row(p.node.title, states.get(p.status, "waiting")) for p in plan.nodes}
        )

    def run(self) -> Outcome:
        for planned in self.plan.nodes:
            if planned.manifest is not None:
                self.store.settle(planned.recipe_key, planned.manifest)
                self._link(planned.node.name)
        self._record("RUNNING")
        self._say_so_far()
        status = "FAILED"
        try:
            if self.waiting:
                self._start()
                with self.table:
                    self._loop()
            status = "FAILED" if self.failed else "FINISHED"
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
            self.log.error("ended by %s", type(error).__name__)
            raise
        finally:
            ray_cluster.stop()
            ray_cluster.sweep_leftovers(self.settings.workspace)
            if status != "FINISHED":
                self._say_so_far(ended=True)
            self._finish(status)
        page = self.tracker.page() if self.tracker else None
        uri = self.settings.tracking_uri or default_uri(self.settings.workspace)
        return Outcome(self.directory, self.manifests, self.failed, uri, page, time.time() - self.started)

    def _start(self) -> None:
        self.cluster = ray_cluster.start(self.settings.cluster, self.settings.workspace, self.settings.recipe)
        faults = shortages(self.waiting.values(), self.cluster)
        if not self.cluster.local:
            unfit, differences = check_nodes(self.settings.workspace)
            faults += unfit
            if self.settings.capacity:
                there, words = found(self.settings.capacity, self.cluster)
                faults += misfits(self.plan, there)
                differences += words
            for line in differences:
                self.console.print(line, highlight=False, markup=False)
        if faults:
            raise Refused("\n".join(faults))
        if self.cluster.dashboard:
            self.console.print(
                f"Ray dashboard  {self.cluster.dashboard}   (token: `ray get-auth-token`)", highlight=False
            )
        try:
            self.tracker = Tracker(self.settings.workspace, self.settings.tracking_uri, self.settings.recipe)
        except Exception as error:
            raise Refused(f"no MLflow answers at tracking_uri={self.settings.tracking_uri}: {error}") from None
        commit = self.provenance["git_commit"] or "unknown commit"
        reused = "".join(
            f"\n- {m.title}: [run](#/experiments/{self.tracker.experiment}/runs/{m.tracking_run})"
            for m in self.manifests.values()
            if m.tracking_run
        )
        self.tracker.start(
            f"{self.settings.recipe} · {self.directory.name.rsplit('-', 1)[-1]}",
            {
                "git_commit": commit,
                "mlflow.source.type": "LOCAL",
                "mlflow.source.name": Path(self.provenance["command"][0]).name,
                "mlflow.source.git.commit": commit,
                **self.settings.tags,
            },
            self.settings.config,
            f"`{' '.join(self.provenance['command'])}`\n\nFiles: `{self.directory}`"
            + (f"\n\nReused:\n{reused}" if reused else ""),
        )

    def _loop(self) -> None:
        import ray

        forwarded = 0.0
        while self.waiting or self.running:
            self._drop_hopeless()
            assert self.cluster is not None
            active = [r.plan for r in self.running.values()]
            for plan in admissible(list(self.waiting.values()), active, self.manifests, self.cluster):
                self._submit(plan)
            if not self.running:
                continue
            done, _ = ray.wait(list(self.running), num_returns=1, timeout=POLL_SECONDS)
            if lost := ray_cluster.ended():
                raise Ended(f"{lost}. The same command goes on from here")
            for running in self.running.values():
                self.table.progress(running.plan.node.name, running.attempt / "progress.json")
            for reference in done:
                self._collect(reference, self.running.pop(reference))
            if self.tracker and time.time() - forwarded > FORWARD_SECONDS:
                self.tracker.forward()
                forwarded = time.time()

    def _drop_hopeless(self) -> None:
        """What waits for something that failed will never be ready."""
        for name, plan in list(self.waiting.items()):
            broken = [i.name for i in plan.node.flat_inputs() if i.name in self.failed]
            if broken:
                del self.waiting[name]
                self.failed[name] = f"needs {broken[0]}"
                self.table.set(name, "stopped", f"needs {broken[0]}")

    def _submit(self, plan: NodePlan) -> None:
        import ray

        node = plan.node
        del self.waiting[node.name]
        digests = {i.name: str(self.manifests[i.name].artifact["digest"]) for i in node.flat_inputs()}
        key = plan.identity.key(arranged(node, digests))
        committed = self.store.find(node.stage.name, key)
        current = self.plan.reuse != "source" or (committed and not changed_files(committed.source, plan.source))
        if committed is not None and current and not plan.anew:
            # an input ran again and came out the same: the wave of reruns ends here
            self.store.point(plan.recipe_key, committed)
            self.manifests[node.name] = committed
            self._link(node.name)
            self.table.set(node.name, "reused", "its inputs came out the same")
            return
        assert self.cluster is not None
        if not self.tasks:
            shared = ray.remote(max_retries=0)(execute)
            self.tasks = {False: shared, True: ray.remote(max_calls=1, max_retries=0)(execute)}
        cpus = cpus_of(node, self.cluster)
        keep_work = node.stage.resumable and not plan.anew
        attempt = self.store.new_attempt(node.stage.name, key, keep_work)
        if node.stage.resumable:
            self.store.begin(node.stage.name, key, plan.source, self.provenance["git_commit"])
        stage_run = StageRun(
            node.name,
            attempt,
            self.store.place(node.stage.name, key) / "work",
            node.execution,
            max(1, int(cpus)),
            0 if node.resources.drives_ray else node.resources.gpus,
            self.started,
            self._lineage(node),
        )
        if self.tracker:
            tags = {"stage": node.stage.name, "key": key, "recipe_key": plan.recipe_key}
            self.tracker.start_stage(node.name, node.title, tags, plan.identity.config, stage_run.metrics_path)
        held = node.resources
        task = self.tasks[node.stage.own_process].options(
            name=node.name,
            num_cpus=0 if held.drives_ray else cpus,
            num_gpus=0 if held.drives_ray else held.gpus,
        )
        inputs = [
            tuple(self._load(n) for n in item.nodes) if isinstance(item, Several) else self._load(item)
            for item in node.inputs
        ]
        function = node.stage.function
        reference = task.remote(function.__module__, function.__name__, node.config, inputs, stage_run)
        self.running[reference] = _Running(plan, key, attempt, time.time())
        self.begun[node.name] = {"key": key, "stage": node.stage.name, "made": False}
        self._record("RUNNING")
        self.table.set(node.name, "running")
        self.log.info("%s runs in %s", node.name, attempt)

    def _load(self, node: Node[Any]) -> Any:
        return self.store.load(self.manifests[node.name], node.stage.artifact_type)

    def _lineage(self, node: Node[Any]) -> tuple[StageRecord, ...]:
        """Records of all ancestors, inputs first."""
        records = []
        for ancestor in Graph.of(*node.flat_inputs()).nodes:
            manifest = self.manifests.get(ancestor.name)
            if manifest is None:  # not needed, as what it fed was found
                continue
            records.append(
                StageRecord(
                    ancestor.name,
                    ancestor.title,
                    manifest.stage,
                    manifest.key,
                    tuple(i.name for i in ancestor.flat_inputs()),
                    manifest.started < self.started,
                    manifest.started,
                    manifest.seconds,
                    manifest.identity["config"],
                    manifest.artifact,
                    f"{manifest.machine['processor']}, {manifest.machine['cores']} cores",
                    tuple(manifest.warnings),
                )
            )
        return tuple(records)

    def _collect(self, reference: Any, running: _Running) -> None:
        import ray

        node = running.plan.node
        try:
            artifact, warnings, machine = ray.get(reference)
        except Exception as error:
            self._failed(running, error)
            return
        inputs = [
            {"name": i.name, "stage": i.stage.name, "key": m.key, "digest": m.artifact["digest"]}
            for i in node.flat_inputs()
            for m in [self.manifests[i.name]]
        ]
        manifest = Manifest(
            stage=node.stage.name,
            name=node.name,
            title=node.title,
            key=running.key,
            recipe_key=running.plan.recipe_key,
            attempt=running.attempt.name,
            identity=dataclasses.asdict(running.plan.identity),
            inputs=inputs,
            artifact=artifact,
            started=running.started,
            seconds=time.time() - running.started,
            machine=machine,
            versions=self.provenance["versions"],
            git_commit=self.provenance["git_commit"],
            command=self.provenance["command"],
            warnings=warnings,
            tracking_run=self.tracker.run_of(node.name) if self.tracker else None,
            source=running.plan.source,
            history=self.store.history(node.stage.name, running.key) or None,
        )
        if self.tracker:  # before the commit, which clears the metrics file away
            publish = running.attempt if node.stage.publish else None
            self.tracker.finish_stage(node.name, "FINISHED", artifact, running.attempt / "metrics.jsonl", publish)
        self.store.commit(manifest)
        self.manifests[node.name] = manifest
        self._link(node.name)
        self.table.set(node.name, "done")
        for message in warnings:
            self.table.say(f"{node.title}: {message}")
        meant = running.plan.identity.machine
        if meant and "processor" in meant and meant != machine:
            self.table.say(f"{node.title}: measured on {_facts(machine)}, and not on {_facts(meant)} as planned")
        self.log.info("%s committed as %s after %.1f s", node.name, running.key, manifest.seconds)
        self._say_so_far()

    def _failed(self, running: _Running, error: Exception) -> None:
        from ray.exceptions import WorkerCrashedError

        node = running.plan.node
        cause = getattr(error, "cause", None) or error
        line = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
        reported = running.attempt / "error.txt"
        if reported.exists():
            line = reported.read_text(encoding="utf-8").strip()
        elif isinstance(error, WorkerCrashedError):
            line = "its process ended at once: killed, perhaps for want of memory, or crashed"
        self.failed[node.name] = line
        self.table.set(node.name, "failed", line.splitlines()[0][:120])
        self.table.say(f"\n{node.title} failed: {line}\n  log: {running.attempt / 'log.txt'}\n")
        self.log.error("%s failed: %s", node.name, "".join(traceback.format_exception(error)))
        if self.tracker:
            self.tracker.finish_stage(node.name, "FAILED")

    def _say_so_far(self, ended: bool = False) -> None:
        """What is shown of a run in between must not end it."""
        if self.settings.so_far:
            try:
                self.settings.so_far(self.directory, self.manifests, ended)
            except Exception:
                self.log.exception("what there is so far cannot be shown")

    def _link(self, name: str) -> None:
        link(self.directory, name, self.store.directory(self.manifests[name]))

    def _record(self, status: str) -> None:
        """Write down what the run is and which stages it used or began, so that a kill loses no trace of them."""
        stages = {n: {"key": m.key, "stage": m.stage, "made": True} for n, m in self.manifests.items()}
        record = {
            "name": self.settings.recipe,
            "recipe": self.settings.config,
            "status": status,
            "whole": self.settings.whole,
            "reuse": self.plan.reuse,
            "stages": self.begun | stages,
            **self.provenance,
        }
        write_json(self.directory / RUN_FILE, record)

    def _finish(self, status: str) -> None:
        with contextlib.suppress(OSError):  # a full disk, which the run ended for
            self._record(status)
        if not self.tracker:
            return
        headline: dict[str, Any] = {}
        for plan in self.plan.nodes:
            manifest = self.manifests.get(plan.node.name)
            headline |= (manifest.artifact.get("headline") if manifest else None) or {}
        self.tracker.finish(status, headline, self.table.say)


def _facts(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())
