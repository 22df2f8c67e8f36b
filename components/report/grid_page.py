"""The page of a grid: what n changes, with intervals over seeds, beside the paper; over training; every cell."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.report.grid import Grid, Trained, main_metric, more_is_better
from components.report.grid_figures import over_training, result
from components.report.grid_findings import findings, of_several_heads
from components.report.grid_words import named, shown
from components.report.markup import (
    NONE,
    Markup,
    duration,
    join,
    note,
    paragraph,
    percent,
    scaled,
    scientific,
    section,
    table,
    tag,
    times,
    whole,
)
from components.report.page import document
from components.report.provenance import facts_list

TITLES = {
    "text": "What do several heads do to text?",
    "induction": "Does a model learn to copy?",
    "polynomial": "Does a model learn arithmetic?",
    "path_star": "Does a model learn to look ahead?",
}
RENEW_SECONDS = 20
"""Of a page to which cells are still to come."""


@dataclass(frozen=True)
class Made:
    """How a page came about."""

    when: str
    machine: str
    versions: Mapping[str, str]
    commit: str | None
    seconds: float | None = None
    """From command to page; None where cells are missing."""
    ended: bool = False
    """Whether the run is over, though cells are missing."""
    example: str = ""
    """Examples of the task, as a person reads them."""


def grid_page(grid: Grid, made: Made) -> str:
    """The whole page, at any time of a run: cells that are not there yet are left out, and counted."""
    return document(
        title(grid),
        tag(
            "header",
            paragraph(f"Headstart, recipe {grid.config.recipe}, {made.when}", class_="kicker"),
            tag("h1", title(grid)),
            paragraph(join(_lead(grid, made), " "), class_="lead"),
            _tiles(grid, made),
        ),
        result(grid),
        over_training(grid),
        _summary(grid),
        _example(grid, made),
        _cells(grid),
        _again(grid, made),
        renew_seconds=RENEW_SECONDS if grid.missing and not made.ended else None,
    )


def title(grid: Grid) -> str:
    """The question, and what is compared."""
    ways = [named(way) for way in grid.ways if way == ("", 1) or way in of_several_heads(grid)]
    versus = "" if len(ways) < 2 else f" {', '.join(ways[:-1])} and {ways[-1]}"
    return f"{TITLES[grid.config.task]}{versus}"


def _lead(grid: Grid, made: Made) -> Iterator[str]:
    """The setting, how much of it is there, and what came out."""
    yield grid.config.setting
    if grid.missing:
        others = "the run ended without the others" if made.ended else "the others are to come"
        yield tag("b", f"{len(grid.trained)} of {len(grid.config.cells)} cells are there; {others}.")
    yield from findings(grid)


def _tiles(grid: Grid, made: Made) -> Markup:
    """The largest difference of each way, and what it took."""
    tiles = []
    metric = main_metric(grid)
    for way in of_several_heads(grid):
        rows = [row for size in grid.sizes if (row := grid.row(size, way, metric)) and row.difference]
        if rows:
            of = shown(metric)
            sign = 1 if more_is_better(metric) else -1
            best = max(rows, key=lambda row: sign * row.difference.mean if row.difference else 0)
            assert best.difference
            at = f" at {best.size}, the most," if len(grid.sizes) > 1 else ""
            where = f"{named(way)} over n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}1{at}, {of.words}"
            said = ": ".join(word for word in (of.range(best.difference), best.verdict) if word)
            tiles.append(_tile(of.change(best.difference.mean), where, said))
    seeds = len({t.label.seed for t in grid.trained})
    tiles.append(_tile(str(len(grid.trained)), f"trainings, {seeds} seed{'s' * (seeds > 1)}", ""))
    if made.seconds is not None:
        total = sum(t.cell.seconds for t in grid.trained)
        tiles.append(_tile(duration(made.seconds), "from the last command to this page", f"{duration(total)} in steps"))
    return tag("div", *tiles, class_="tiles")


def _tile(number: str, what: str, beside: str) -> Markup:
    return tag("div", tag("b", number), tag("span", what), note(beside) if beside else None, class_="tile")


def _summary(grid: Grid) -> Markup:
    """A row for each size, way and metric."""
    matched = any(row.against_another for row in grid.rows)
    published = any(row.paper is not None for row in grid.rows)
    several = len(grid.metrics) > 1
    head = ["", *(["Metric"] if several else []), "Mean", "90 % interval", "Over n = 1", "90 % interval", "Verdict"]
    head += ["At equal FLOPs", "90 % interval"] if matched else []
    head += ["FLOPs", "Time", "Of", *(["Paper"] if published else [])]
    rows = []
    for row in grid.rows:
        made, of = row.difference, shown(row.metric)
        at_equal = row.at_equal_flops[1] if row.at_equal_flops else None
        at_equal_flops = [of.change(at_equal.mean, unit=False), of.range(at_equal)] if at_equal else [NONE, NONE]
        of_paper = NONE if row.paper is None else percent(row.paper, 0)
        rows.append(
            [
                f"{row.size} {named((row.schedule, row.n))}",
                *([of.words] if several else []),
                of.value(row.mean.mean),
                of.interval(row.mean),
                of.change(made.mean, unit=False) if made else NONE,
                of.range(made) if made else NONE,
                row.verdict or NONE,
                *(at_equal_flops if matched else []),
                times(row.flops),
                times(row.time),
                whole(row.items),
                *([of_paper] if published else []),
            ]
        )
    words = (
        f"Over {_seeds(grid)}. FLOPs, and the median time in steps, of training over those of n = 1; cells run side "
        "by side, so that times are of a machine that is shared. Of: examples, or single tokens, that each seed's "
        f"figure is of. {_compared(grid)}{_unequal(grid)}"
    )
    title = "Every figure" if several else f"Every figure: {', '.join(shown(name).words for name in grid.metrics)}"
    return section("summary", title, table(head, rows), paragraph(words.strip(), class_="caption"))


def _seeds(grid: Grid) -> str:
    """How many there are of what is in the table."""
    counts = {row.mean.seeds for row in grid.rows}
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low} to {high} seeds" if low < high else f"{high} seed{'s' * (high != 1)}"


def _compared(grid: Grid) -> str:
    """How many verdicts are called, and what chance does to so many; empty where there is none."""
    to_n1 = [row.difference for row in grid.rows]
    at_equal_flops = [row.against_another[1] for row in grid.rows if row.against_another]
    compared = sum(made is not None and made.interval is not None for made in (*to_n1, *at_equal_flops))
    if not compared:
        return ""
    return (
        f"{compared} comparisons are made: of so many that find nothing, a tenth would be called better or worse by "
        "chance. "
    )


def _unequal(grid: Grid) -> str:
    """What cells of a size, or the tests of the sizes, do not share, though they are compared."""
    said = [
        f"{shown(metric).words} of {whole(min(items))} to {whole(max(items))} items"
        for metric in grid.metrics
        if len(items := {t.cell.items[metric] for t in grid.trained if metric in t.cell.items}) > 1
    ]
    for size in grid.sizes:
        cells = [t.cell for t in grid.trained if t.label.size == size]
        for name in ("parameters", "tokens"):
            values = [getattr(cell, name) for cell in cells]
            if min(values) < max(values):
                said.append(f"{name} at {size} from {scaled(min(values))} to {scaled(max(values))}")
    return f"Not equal: {', '.join(said)}." if said else "Parameters and tokens are equal within a size."


def _example(grid: Grid, made: Made) -> Markup | None:
    if not made.example:
        return None
    return section("example", "What it looks like", tag("pre", made.example))


def _cells(grid: Grid) -> Markup:
    metrics = grid.metrics[:6]
    head = ["Cell", "Parameters", "Tokens", "FLOPs", "Training", "Besides", *(shown(name).words for name in metrics)]

    def row(of: Trained) -> list[str]:
        cell = of.cell
        return [
            f"{of.label.size} {named(of.way)}, seed {of.label.seed}",
            whole(cell.parameters),
            scaled(cell.tokens),
            scientific(cell.flops),
            duration(cell.seconds),
            duration(cell.overhead_seconds),
            *(shown(name).value(cell.metrics.get(name)) for name in metrics),
        ]

    return section(
        "cells",
        "Every cell",
        table(head, [row(of) for of in grid.trained]),
        paragraph(
            "Training is time in steps, compiling them included; besides is all else but the test: imports where the "
            "process is new, checkpoints, the model on disk. Tokens are positions, what fills a row behind its last "
            "example included. Cells run side by side, so that times are of a machine that is shared.",
            class_="caption",
        ),
    )


def _again(grid: Grid, made: Made) -> Markup:
    listed: dict[str, Any] = {
        "Machine": made.machine,
        "Code": made.commit,
        "Versions": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
        "Numbers": "results.json beside this page, in full precision",
    }
    command = shlex.join(["python", "pipelines/synthetic.py", *grid.config.overrides])
    return section(
        "again",
        "Make it again",
        tag("pre", command, class_="command"),
        facts_list({name: value for name, value in listed.items() if value}),
    )
