"""Grids of small trainings where the answer is known: `python pipelines/synthetic.py conf=NAME [key=value …]`.

Of every size, number of heads and seed one training with its test, side by side as far as the cores go round, and a
page with intervals over seeds. A cell that is there is reused: one more seed costs its cells.
"""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from components.artifacts import Cell
from components.corpus.stage import collect
from components.flow.node import Graph, Node, Resources, several
from components.flow.run import SoFar
from components.flow.store import Manifest, Store
from components.report.config import CellLabel, GridConfig
from components.report.grid_files import write_grid
from components.report.stage import write_grid_report
from components.shards.stage import tokenize
from components.synthetic.config import (
    CellConfig,
    InductionConfig,
    PathStarConfig,
    PolynomialConfig,
    StoriesConfig,
    TaskConfig,
    TextCellConfig,
    TextConfig,
)
from components.synthetic.stage import make_stories, train_cell, train_text_cell
from components.tokenizer.stage import train_tokenizer
from components.training.config import TrainingExecution
from pipelines.experiment import CellPlan, Experiment
from pipelines.jobs import Way, command_line, run
from pipelines.launch import Job, launch, refuse
from pipelines.programs import SYNTHETIC

REPORT = "report"
SO_FAR = "so-far"
"""Folder, beside the stages' results, of the page while cells are to come."""


class Named(TypedDict):
    """How a cell's node is bound."""

    name: str
    title: str
    group: str
    resources: Resources
    execution: TrainingExecution


def grid(experiment: Experiment, overrides: tuple[str, ...] = ()) -> Graph:
    """The graph of an experiment. Pure, and nothing runs yet. `overrides` are what the page prints to reproduce it."""
    asked = experiment.cluster.training
    resources = Resources(asked.cpus_per_worker or 1, gpus=asked.gpus_per_worker, drives_ray=asked.gpus_per_worker > 0)
    planned = list(experiment.cells())
    task, data = experiment.definition, experiment.cluster.data
    cells: list[Node[Cell]] = []
    if isinstance(task, TextConfig):
        corpus = collect.bind(experiment.corpus, name="corpus", execution=data)
        tokenizer = train_tokenizer.bind(experiment.tokenizer, corpus, name="tokenizer")
        shards = tokenize.bind(experiment.shards, corpus, tokenizer, name="shards", execution=data)
        wanted = [StoriesConfig(task.stories, task.stories_of)] if task.stories else []
        stories = several([make_stories.bind(of, corpus, tokenizer, name="stories") for of in wanted])
    for cell in planned:
        look_every = -(-cell.training.steps // experiment.looks)
        named = Named(
            name=cell.name,
            title=f"{cell.group} seed {cell.seed}",
            group=cell.group,
            resources=resources,
            execution=asked,
        )
        if isinstance(task, TextConfig):
            of_text = TextCellConfig(task, cell.model, cell.training, look_every)
            cells.append(train_text_cell.bind(of_text, shards, stories, **named))
        else:
            config = CellConfig(task, cell.model, cell.training, look_every, experiment.test_items)
            cells.append(train_cell.bind(config, **named))
    report = write_grid_report.bind(_report_config(experiment, overrides, planned), several(cells), name=REPORT)
    return Graph.of(report)


def _report_config(experiment: Experiment, overrides: tuple[str, ...], planned: Sequence[CellPlan]) -> GridConfig:
    task = experiment.definition
    return GridConfig(
        experiment.name,
        overrides,
        experiment.task,
        task.setting,
        tuple(
            CellLabel(
                cell.size,
                cell.schedule,
                cell.n_future_tokens,
                cell.seed,
                cell.model.matrix_parameters(),
                cell.model.arrangement,
            )
            for cell in planned
        ),
        trained_to=task.operations if isinstance(task, PolynomialConfig) else None,
        guessing=1 / task.arms if isinstance(task, PathStarConfig) else None,
        paper=_paper_of(task),
    )


def _paper_of(task: TaskConfig | TextConfig) -> str:
    """The figure of the paper that a grid stands beside, where it has one."""
    if isinstance(task, PolynomialConfig):
        return "Figure 8" if (task.p, task.d, task.operations, task.pauses) == (7, 5, 5, 0) else ""
    if isinstance(task, TextConfig):
        return "" if not task.stories else "Figure S14" if task.stories_of else "Figure 7"
    return "Figure 7" if isinstance(task, InductionConfig) else ""


def so_far(graph: Graph, store: Store) -> SoFar:
    """Writes the page of the cells that are there, and takes it away once the whole one is."""
    report: Node[Any] | None = next((node for node in graph.nodes if node.name == REPORT), None)

    def write(directory: Path, manifests: Mapping[str, Manifest], ended: bool) -> None:
        folder = directory / SO_FAR
        if report is None or REPORT in manifests:
            shutil.rmtree(folder, ignore_errors=True)
            return
        cells = {
            place: store.load(manifests[node.name], node.stage.artifact_type)
            for place, node in enumerate(report.flat_inputs())
            if node.name in manifests
        }
        if cells:
            folder.mkdir(exist_ok=True)
            write_grid(folder, report.config, cells, time.time(), "", ended=ended)

    return write


def words(experiment: Experiment) -> str:
    """What is compared."""
    sizes = [name for name in experiment.sizes if name not in experiment.leave_out]
    ways = ", ".join(name or f"n = {way.n_future_tokens}" for name, way in experiment.ways())
    return f"{ways} at {', '.join(sizes)}, seeds {', '.join(map(str, experiment.seeds))}"


WAY = Way(grid, words, so_far, f"{SO_FAR}/index.html")


def no_sweep(jobs: Sequence[Job[Experiment]]) -> int:
    """A grid is one run."""
    return refuse([f"-m asks for a sweep of {len(jobs)} jobs; a grid is one run: seeds=[1,2,3] future_tokens=[1,2]"])


def main() -> Any:
    """The command line; returns the exit code."""
    return command_line(lambda: launch(SYNTHETIC, partial(run, WAY), no_sweep))


if __name__ == "__main__":
    sys.exit(main())
