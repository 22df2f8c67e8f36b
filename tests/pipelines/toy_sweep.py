"""A sweep over a pipeline of two quick stages, in a process of its own: toy_sweep.py WORKSPACE SEED[,SEED…].

Seed 2 fails. Every other seed's report says bits per byte of 2 + seed / 10 for n = 1 and a fixed 0.5 more for n = 4.
"""

import dataclasses
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from components.artifacts import Report
from components.flow.cluster import ClusterConfig
from components.flow.cost import Capacity
from components.flow.node import Graph, Resources, stage
from components.flow.plan import Plan, make_plan
from components.flow.run import Outcome, RunSettings, run_plan
from components.flow.stage_run import StageRun
from components.flow.store import Store
from pipelines.launch import Job
from pipelines.recipe import CPU, H100, Options, Recipe
from pipelines.sweep import run_sweep


@dataclass(frozen=True)
class Data:
    path: Path
    digest: str


@dataclass(frozen=True)
class Seed:
    seed: int


@stage(version=1, resources=Resources(cpus=1))
def gather(config: None, run: StageRun) -> Data:
    return Data(run.directory, "always the same")


@stage(version=1, resources=Resources(cpus=1))
def measure(config: Seed, data: Data, run: StageRun) -> Report:
    if config.seed == 2:
        raise ValueError("two is out of luck")
    bits = 2 + config.seed / 10
    models = [{"n_future_tokens": n, "parameters": 100 * n, "tokens": 9} for n in (1, 4)]
    (run.directory / "results.json").write_text(json.dumps({"models": models, "corpus": {"digest": data.digest}}))
    (run.directory / "index.html").write_text("a report")
    return Report(run.directory, str(config.seed), {"n1/bits_per_byte": bits, "n4/bits_per_byte": bits + 0.5})


def jobs(workspace: Path, seeds: Collection[int], **options: object) -> list[Job]:
    chosen = dataclasses.replace(Options(workspace=str(workspace)), **options)  # type: ignore[arg-type]
    return [Job(Recipe(name="toy", seed=seed), chosen, (f"seed={seed}", "training.steps=9")) for seed in seeds]


CAPACITY = Capacity(1, 2, 0, None, H100, CPU, here=True)


def plan_job(job: Job, made: Collection[str]) -> tuple[Plan, Capacity]:
    data = gather.bind(None, name="data")
    graph = Graph.of(measure.bind(Seed(job.recipe.seed), data, name="report"))
    return make_plan(graph, Store(job.workspace), job.options.reuse, made=made), CAPACITY


def run_job(job: Job, plan: Plan, capacity: Capacity, console: Console, tags: Mapping[str, str]) -> Outcome:
    settings = RunSettings(job.workspace, job.recipe.name, ClusterConfig(), tags=tags)
    return run_plan(plan, Store(job.workspace), settings, console)


if __name__ == "__main__":
    # by their importable names, so that stage processes find the same functions
    import toy_sweep

    wanted = [int(seed) for seed in sys.argv[2].split(",")]
    sys.exit(run_sweep(toy_sweep.jobs(Path(sys.argv[1]), wanted), toy_sweep.plan_job, toy_sweep.run_job))
