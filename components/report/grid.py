"""A grid of small trainings: estimates over seeds of everything that was measured, and differences to n = 1, at equal
tokens and, where there is an n = 1 that takes as many FLOPs, at these.

Reads files, writes none.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from components.artifacts import Cell
from components.report import paper
from components.report.config import CellLabel, GridConfig
from components.report.intervals import Estimate, binomial_tail, estimate, paired_difference

CONFIDENCE = 0.9
"""Of the intervals over seeds."""
SCORE = "score/"
"""What the test's metrics begin with in metrics.jsonl."""
EQUAL_FLOPS = 0.01
"""Two trainings whose FLOPs differ by less, relatively, count as equal in them."""
ROUNDING = 1e-9
"""What differences that are equal may differ by in floating point."""
BY_CHANCE = 0.001
"""How seldom guessing gets as much right as a seed of which it is said that it does not guess."""


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
    at_equal_flops: tuple[str, Estimate] | None
    """Of several heads, the schedule of one head that takes as many FLOPs (empty: plain n = 1), and the difference to
    it; None where there is none."""
    paper: float | None
    """What the paper's figure has for it."""
    items: int
    """What each value is a share of."""
    flops: float
    """Of training, over those of plain n = 1 of the size; NaN without it."""
    seconds: float
    """In training steps, the mean over seeds; beside whatever ran at the time."""
    time: float
    """The median over seeds, as the first cells of a run compile, over that of plain n = 1 of the size; NaN without."""

    @property
    def verdict(self) -> str:
        """Whether it differs from n = 1, as far as the seeds tell."""
        return verdict(self.difference, self.metric)

    @property
    def against_another(self) -> tuple[str, Estimate] | None:
        """`at_equal_flops`, unless that is plain n = 1, the difference to which there is anyhow."""
        return self.at_equal_flops if self.at_equal_flops and self.at_equal_flops[0] else None


def verdict(difference: Estimate | None, metric: str) -> str:
    """What a difference comes to; empty without an interval. Seeds that differ by exactly as much tell nothing of how
    others would."""
    if difference is None or difference.interval is None:
        return ""
    if difference.zero_inside or (difference.half_width or 0.0) <= ROUNDING:
        return "not told apart"
    return "better" if (difference.mean > 0) == more_is_better(metric) else "worse"


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
                matched = _at_equal_flops(grid, size, way, metric)
                seconds = fmean(t.cell.seconds for t in grid.of(size, way))
                time = _median_seconds(grid.of(size, way)) / _median_seconds(one) if one else math.nan
                yield Row(size, *way, metric, made, difference, matched, found, items, flops, seconds, time)


def _median_seconds(trained: Sequence[Trained]) -> float:
    """Over seeds, in training steps."""
    return median(t.cell.seconds for t in trained)


def _at_equal_flops(grid: Grid, size: str, way: tuple[str, int], metric: str) -> tuple[str, Estimate] | None:
    """The n = 1 that is nearest in FLOPs, if that is near enough, and the difference to it."""
    own = grid.of(size, way)[0].cell.flops
    others = {other: grid.of(size, other) for other in grid.ways if other[1] == 1 < way[1]}
    apart = {other: abs(cells[0].cell.flops / own - 1) for other, cells in others.items() if cells}
    nearest = min(apart, key=apart.__getitem__, default=None)
    if nearest is None or apart[nearest] > EQUAL_FLOPS:
        return None
    values, base = _by_seed(grid.of(size, way), metric), _by_seed(others[nearest], metric)
    difference = paired_difference(values, base, CONFIDENCE)
    return (nearest[0], difference) if difference else None


def beyond_guessing(values: Sequence[float], items: int, chance: float) -> int:
    """How many of these shares of `items` guessing does not explain, which gets there less than once in a thousand."""
    return sum(binomial_tail(round(value * items), items, chance) < BY_CHANCE for value in values)


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
    matched = None
    if row.at_equal_flops:
        schedule, difference = row.at_equal_flops
        matched = {"schedule": schedule or None} | _difference(difference, row.metric)
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
        "difference_to_n1": _difference(row.difference, row.metric) if row.difference else None,
        "verdict": row.verdict or None,
        "at_equal_flops": matched,
        "seconds": row.seconds,
        "seconds_over_n1": row.time if math.isfinite(row.time) else None,
        "paper": row.paper,
    }


def _difference(of: Estimate, metric: str) -> dict[str, Any]:
    low, high = of.interval or (None, None)
    return {"mean": of.mean, "low": low, "high": high, "seeds": of.seeds, "verdict": verdict(of, metric) or None}


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
