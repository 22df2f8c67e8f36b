"""A grid of small trainings: estimates over seeds of everything that was measured, and differences to n = 1.

Reads files, writes none.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.artifacts import Cell
from components.report import paper
from components.report.config import CellLabel, GridConfig
from components.report.intervals import Estimate, estimate, paired_difference

CONFIDENCE = 0.9
"""Of the intervals over seeds."""
SCORE = "score/"
"""What the test's metrics begin with in metrics.jsonl."""


def more_is_better(metric: str) -> bool:
    """Whether a metric is a share of what is right; else it is a cost."""
    return metric != "bits_per_byte"


@dataclass(frozen=True)
class Trained:
    """A cell with its name and its history."""

    label: CellLabel
    cell: Cell
    history: tuple[Mapping[str, float], ...]
    """Its metrics.jsonl."""

    @property
    def way(self) -> tuple[str, int]:
        """The schedule's name, empty for a plain one, and n."""
        return self.label.schedule, self.label.n_future_tokens


@dataclass(frozen=True)
class Row:
    """A metric of a size and a way to train, over seeds."""

    size: str
    schedule: str
    n: int
    metric: str
    mean: Estimate
    difference: Estimate | None
    """To plain n = 1 of the size, seed by seed; None without it, and for itself."""
    paper: float | None
    """What the paper's figure has for it."""
    items: int
    """What each value is a share of."""
    flops: float
    """Of training, over those of plain n = 1 of the size; NaN without it."""

    @property
    def verdict(self) -> str:
        """Whether it differs from n = 1, as far as the seeds tell."""
        made = self.difference
        if made is None or made.interval is None:
            return ""
        if made.zero_inside:
            return "not told apart"
        return "better" if (made.mean > 0) == more_is_better(self.metric) else "worse"


@dataclass(frozen=True)
class Grid:
    """All there is to tell of a grid."""

    config: GridConfig
    trained: tuple[Trained, ...]
    """Those that there are, in the order of the config."""
    rows: tuple[Row, ...]

    @property
    def sizes(self) -> list[str]:
        return list(dict.fromkeys(t.label.size for t in self.trained))

    @property
    def ways(self) -> list[tuple[str, int]]:
        return list(dict.fromkeys(t.way for t in self.trained))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for t in self.trained for name in t.cell.metrics))

    @property
    def missing(self) -> int:
        """Cells that there are none of yet."""
        return len(self.config.cells) - len(self.trained)

    def row(self, size: str, way: tuple[str, int], metric: str) -> Row | None:
        """The row of this name."""
        return next((r for r in self.rows if (r.size, (r.schedule, r.n), r.metric) == (size, way, metric)), None)

    def of(self, size: str, way: tuple[str, int]) -> list[Trained]:
        """Its cells, by seed."""
        return [t for t in self.trained if t.label.size == size and t.way == way]


def gather(config: GridConfig, cells: Mapping[int, Cell]) -> Grid:
    """`cells` by their place in the config's list; those that are not there yet are left out."""
    trained = tuple(
        Trained(label, cells[place], tuple(_history(cells[place])))
        for place, label in enumerate(config.cells)
        if place in cells
    )
    grid = Grid(config, trained, ())
    return Grid(config, trained, tuple(_rows(grid)))


def _rows(grid: Grid) -> Iterator[Row]:
    for size in grid.sizes:
        for metric in grid.metrics:
            base = _by_seed(grid.of(size, ("", 1)), metric)
            for way in grid.ways:
                values = _by_seed(grid.of(size, way), metric)
                if not values:
                    continue
                difference = None
                if way != ("", 1):
                    difference = paired_difference(values, base, CONFIDENCE)
                found = paper.synthetic(grid.config.paper, size, way[1], metric) if not way[0] else None
                made = estimate(list(values.values()), CONFIDENCE)
                cell, one = grid.of(size, way)[0].cell, grid.of(size, ("", 1))
                flops = cell.flops / one[0].cell.flops if one else math.nan
                items = cell.items.get(metric, 0)
                yield Row(size, *way, metric, made, difference, found, items, flops)


def _by_seed(trained: Sequence[Trained], metric: str) -> dict[int, float]:
    return {t.label.seed: t.cell.metrics[metric] for t in trained if metric in t.cell.metrics}


def _history(cell: Cell) -> Iterator[Mapping[str, float]]:
    path = cell.path / "metrics.jsonl"
    if path.is_file():
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def results(grid: Grid) -> dict[str, Any]:
    """`results.json`: every cell, and the summary over seeds; metrics are shares from 0 to 1."""
    return {
        "recipe": grid.config.recipe,
        "overrides": list(grid.config.overrides),
        "setting": grid.config.setting,
        "confidence": CONFIDENCE,
        "paper_figure": grid.config.paper or None,
        "cells": [_cell(grid.config.task, t) for t in grid.trained],
        "summary": [_summary(grid.config.task, row) for row in grid.rows],
    }


def _cell(task: str, of: Trained) -> dict[str, Any]:
    cell = of.cell
    return {
        "task": task,
        "size": of.label.size,
        "schedule": of.label.schedule or None,
        "n_future_tokens": cell.n_future_tokens,
        "seed": cell.seed,
        "parameters": cell.parameters,
        "tokens": cell.tokens,
        "flops": cell.flops,
        "seconds": cell.seconds,
        "overhead_seconds": cell.overhead_seconds,
        "metrics": dict(cell.metrics),
        "items": dict(cell.items),
        "over_steps": [
            {"step": line["step"], **{k.removeprefix(SCORE): v for k, v in line.items() if k.startswith(SCORE)}}
            for line in of.history
            if any(name.startswith(SCORE) for name in line)
        ],
    }


def _summary(task: str, row: Row) -> dict[str, Any]:
    low, high = row.mean.interval or (None, None)
    made = row.difference
    difference = None
    if made:
        edges = made.interval or (None, None)
        difference = {"mean": made.mean, "low": edges[0], "high": edges[1], "seeds": made.seeds}
    return {
        "task": task,
        "size": row.size,
        "schedule": row.schedule or None,
        "n_future_tokens": row.n,
        "metric": row.metric,
        "mean": row.mean.mean,
        "low": low,
        "high": high,
        "seeds": row.mean.seeds,
        "items": row.items,
        "flops_over_n1": row.flops if math.isfinite(row.flops) else None,
        "difference_to_n1": difference,
        "verdict": row.verdict or None,
        "paper": row.paper,
    }


def headline(grid: Grid) -> dict[str, float]:
    """The few numbers worth a line in the terminal: the main metric of every size and way to train."""
    metric = main_metric(grid)
    return {
        f"{row.size}/{row.schedule or f'n{row.n}'}/{row.metric}": row.mean.mean
        for row in grid.rows
        if row.metric == metric or row.metric.startswith("accuracy/")
    }


def main_metric(grid: Grid) -> str:
    """What is compared first: of polynomials the hardest number of operations in training."""
    if grid.config.task == "polynomial":
        return f"accuracy/m{grid.config.trained_to}"
    return "accuracy" if "accuracy" in grid.metrics else "bits_per_byte"
