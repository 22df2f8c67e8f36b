"""What the engine itself costs: planning and running many stages that do nothing."""

import hashlib
import tempfile
import time
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from components.flow.cluster import ClusterConfig
from components.flow.node import Graph, Node, Resources, several, stage
from components.flow.plan import make_plan
from components.flow.run import RunSettings, run_plan
from components.flow.stage_run import StageRun
from components.flow.store import Store

CHAIN = 10


@dataclass(frozen=True)
class Number:
    """A number in a directory."""

    path: Path
    digest: str
    value: int


@dataclass(frozen=True)
class Trivial:
    """The config of a trivial stage."""

    value: int = 1


def _number(value: int, run: StageRun) -> Number:
    (run.directory / "value").write_text(str(value), encoding="ascii")
    return Number(run.directory, hashlib.sha256(str(value).encode()).hexdigest(), value)


@stage(version=1, resources=Resources(cpus=1))
def begin(config: Trivial, run: StageRun) -> Number:
    """The first of a chain."""
    return _number(config.value, run)


@stage(version=1, resources=Resources(cpus=1))
def add(config: Trivial, x: Number, run: StageRun) -> Number:
    """One more."""
    return _number(x.value + config.value, run)


@stage(version=1, resources=Resources(cpus=1))
def join(config: Trivial, xs: tuple[Number, ...], run: StageRun) -> Number:
    """All chains together."""
    return _number(sum(x.value for x in xs), run)


def chains(stages: int) -> Graph:
    """Chains of ten stages, side by side, that end in one: `stages` in all, rounded up to whole chains."""
    ends: list[Node[Number]] = []
    for chain in range(-(-(stages - 1) // CHAIN)):
        node: Node[Number] = begin.bind(Trivial(chain), name=f"begin-{chain}")
        for link in range(1, CHAIN):
            node = add.bind(Trivial(link), node, name=f"add-{chain}-{link}")
        ends.append(node)
    return Graph.of(join.bind(Trivial(), several(ends)))


def time_stages(stages: int) -> dict[str, Any]:
    """Seconds to plan and to run, Ray's start and end apart from neither, and to plan again when all is there."""
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        started = time.perf_counter()
        plan = make_plan(chains(stages), Store(workspace))
        planned = time.perf_counter()
        outcome = run_plan(
            plan, Store(workspace), RunSettings(workspace, "trivial", ClusterConfig()), Console(file=StringIO())
        )
        ran = time.perf_counter()
        again = make_plan(chains(stages), Store(workspace))
        if outcome.failed or again.to_run():
            raise RuntimeError(f"trivial stages failed: {dict(outcome.failed)}")
        return {
            "stages": len(plan.nodes),
            "plan_seconds": planned - started,
            "run_seconds": ran - planned,
            "plan_again_seconds": time.perf_counter() - ran,
        }
