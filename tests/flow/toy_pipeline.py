"""A pipeline of plain numbers; test_run.py runs it in a process of its own: toy_pipeline.py WORKSPACE JSON."""

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from components.flow.cluster import ClusterConfig
from components.flow.cost import Cost
from components.flow.node import Graph, Node, Resources, several, stage
from components.flow.plan import Plan, make_plan
from components.flow.run import Outcome, RunSettings, run_plan
from components.flow.stage_run import StageRun
from components.flow.store import Manifest, Store


@dataclass(frozen=True)
class Number:
    path: Path
    digest: str
    value: int


@dataclass(frozen=True)
class Source:
    value: int = 3
    modulus: int = 10


@dataclass(frozen=True)
class Scale:
    factor: int = 2
    fail: bool = False


@dataclass(frozen=True)
class Count:
    steps: int = 5
    seconds_per_step: float = 0.0


def number(value: int, run: StageRun) -> Number:
    (run.directory / "value.json").write_text(json.dumps(value))
    return Number(run.directory, hashlib.sha256(str(value).encode()).hexdigest(), value)


@stage(version=1, resources=Resources(cpus=1))
def source(config: Source, run: StageRun) -> Number:
    return number(config.value % config.modulus, run)


@stage(version=1, resources=Resources(cpus=1))
def scale(config: Scale, x: Number, run: StageRun) -> Number:
    if config.fail:
        raise ValueError(f"factor {config.factor} is out of luck")
    run.metrics(1, {"loss": 0.5})
    return number(config.factor * x.value, run)


@stage(
    version=1, resources=Resources(cpus=1), resumable=True, cost=lambda at: Cost(core_seconds=float(at.config.steps))
)
def count(config: Count, x: Number, run: StageRun) -> Number:
    """Counts up from x, one committed step at a time."""
    state = run.work / "state.json"
    done, value = json.loads(state.read_text()) if state.exists() else (0, x.value)
    run.rewind_metrics(done)
    while done < config.steps:
        time.sleep(config.seconds_per_step)
        done, value = done + 1, value + 1
        run.metrics(done, {"value": value})
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps([done, value]))
        partial.replace(state)
        run.committed(done, config.steps)
        run.progress(done, config.steps)
    return number(value, run)


@stage(version=1, resources=Resources(cpus=1))
def total(config: None, xs: tuple[Number, ...], run: StageRun) -> Number:
    return number(sum(x.value for x in xs), run)


def graph(value: int = 3, factor: int = 2, fail: bool = False, steps: int = 5, seconds_per_step: float = 0.0) -> Graph:
    start: Node[Number] = source.bind(Source(value))
    doubled = scale.bind(Scale(factor, fail), start)
    counted = count.bind(Count(steps, seconds_per_step), start)
    return Graph.of(total.bind(None, several([doubled, counted])))


def plan(workspace: Path, **parameters: object) -> Plan:
    return make_plan(graph(**parameters), Store(workspace))  # type: ignore[arg-type]


def write_so_far(directory: Path, manifests: Mapping[str, Manifest], ended: bool) -> None:
    """A line each time, of the nodes there are and whether that is all there will be."""
    with (directory / "so-far.txt").open("a") as file:
        file.write(f"{' '.join(sorted(manifests))}{' ended' * ended}\n")


def run(workspace: Path, **parameters: object) -> Outcome:
    settings = RunSettings(workspace, "toy", ClusterConfig(), config=parameters, so_far=write_so_far)
    return run_plan(plan(workspace, **parameters), Store(workspace), settings, Console())


if __name__ == "__main__":
    # by its importable name, so that stage processes find the same functions
    from toy_pipeline import run as run_by_name

    outcome = run_by_name(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    print(json.dumps({"failed": dict(outcome.failed), "ray": "ray" in sys.modules}))
    sys.exit(1 if outcome.failed else 0)
