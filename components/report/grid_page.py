"""The page of a grid: what n changes, with intervals over seeds, beside the paper; over training; every cell."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.report.grid import CONFIDENCE, Grid, Row, Trained, beyond_guessing, main_metric, more_is_better, verdict
from components.report.grid_figures import over_training, result
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
VERDICTS = {"better": "better than", "worse": "worse than", "not told apart": "not told apart from"}
FEW = 3
"""Ways to train that get a sentence each."""
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
    ways = [named(way) for way in grid.ways if way == ("", 1) or way in _of_several_heads(grid)]
    versus = "" if len(ways) < 2 else f" {', '.join(ways[:-1])} and {ways[-1]}"
    return f"{TITLES[grid.config.task]}{versus}"


def _lead(grid: Grid, made: Made) -> Iterator[str]:
    """The setting, and the findings as sentences, each from its numbers."""
    yield grid.config.setting
    if grid.missing:
        others = "the run ended without the others" if made.ended else "the others are to come"
        yield tag("b", f"{len(grid.trained)} of {len(grid.config.cells)} cells are there; {others}.")
    metric = main_metric(grid)
    if grid.config.task == "path_star":
        yield from _looks_ahead(grid)
    compared = [
        rows
        for way in _of_several_heads(grid)
        if (rows := [row for size in grid.sizes if (row := grid.row(size, way, metric)) and row.verdict])
    ]
    if len(compared) > FEW:
        yield from _in_groups([row for rows in compared for row in rows], len(grid.sizes) > 1)
    else:
        yield from (
            f"{named((rows[0].schedule, rows[0].n))} is {_verdicts(rows)}{_matched(rows)}." for rows in compared
        )
    if any(row.mean.interval for row in grid.rows):
        yield (
            f"Intervals are {CONFIDENCE:.0%} over seeds, differences are taken seed by seed; all seeds share a test, "
            "and another test would move them together."
        )
    elif grid.rows:
        yield "One seed tells nothing of others: there are no intervals."


def _of_several_heads(grid: Grid) -> list[tuple[str, int]]:
    """What is compared with n = 1; another n = 1 only where there is nothing else."""
    return [way for way in grid.ways if way[1] > 1] or grid.ways


def _in_groups(rows: Sequence[Row], sizes: bool) -> Iterator[str]:
    """The same for many ways to train: those of one verdict together."""
    of = shown(rows[0].metric)
    names = [named((row.schedule, row.n)) + f" at {row.size}" * sizes for row in rows]
    to_n1 = [(name, "", row.difference) for name, row in zip(names, rows, strict=True) if row.difference]
    at_equal_flops = [
        (name, f"{named((row.at_equal_flops[0], 1))}: ", row.at_equal_flops[1])
        for name, row in zip(names, rows, strict=True)
        if row.at_equal_flops and row.at_equal_flops[0]
    ]
    for words, made in (("Against n = 1", to_n1), ("Against an n = 1 that takes as many FLOPs", at_equal_flops)):
        said = []
        for found in VERDICTS:
            each = [
                f"{name} ({base}{of.change(gap.mean)}, {of.range(gap)})"
                for name, base, gap in made
                if verdict(gap, rows[0].metric) == found
            ]
            said += [f"{found}: {', '.join(each)}"] if each else []
        if said:
            yield f"{words}, by {of.words}, {'; '.join(said)}."


def _verdicts(rows: Sequence[Row]) -> str:
    """What the sizes of one way to train come to, those of one verdict together."""
    said = []
    of = shown(rows[0].metric)
    for found, words in VERDICTS.items():
        alike = [row for row in rows if row.verdict == found]
        each = [
            f"at {row.size} ({of.change(row.difference.mean)}, {of.range(row.difference)})"
            for row in alike
            if row.difference
        ]
        if each:
            said.append(f"{words} n = 1 {' and '.join(each)}")
    return "; ".join(said) + (f" by {of.words}" if of.words != "right" else "")


def _matched(rows: Sequence[Row]) -> str:
    """What is left of a difference against an n = 1 that takes as many FLOPs."""
    said = []
    for row in rows:
        if row.at_equal_flops and row.at_equal_flops[0] and row.at_equal_flops[1].interval:
            schedule, made = row.at_equal_flops
            of, found = shown(row.metric), VERDICTS[verdict(made, row.metric)]
            change = f"{of.change(made.mean)}, {of.range(made)}"
            said.append(f"at {row.size} {found} {named((schedule, 1))} ({change})")
    return f"; at equal FLOPs {' and '.join(said)}" if said else ""


def _looks_ahead(grid: Grid) -> Iterator[str]:
    """In how many seeds first nodes are more often right than guessing explains."""
    guess = grid.config.guessing
    assert guess is not None
    for size in grid.sizes:
        can: list[str] = []
        cannot: list[str] = []
        for way in grid.ways:
            row = grid.row(size, way, "first_node")
            if row is None:
                continue
            values = [t.cell.metrics["first_node"] for t in grid.of(size, way)]
            each = ", ".join(map(percent, values))
            if found := beyond_guessing(values, row.items, guess):
                can.append(f"{named(way)} in {found} of {len(values)} seeds ({each})")
            else:
                cannot.append(f"{named(way)} ({each})")
        at = f"At {size} the" if len(grid.sizes) > 1 else "The"
        if can:
            yield f"{at} first node is told more often than by guessing ({percent(guess, 0)}) with {', '.join(can)}."
        if cannot:
            yield f"{at} first node is told no more often than by guessing, in any seed, with {', '.join(cannot)}."


def _tiles(grid: Grid, made: Made) -> Markup:
    """The largest difference of each way, and what it took."""
    tiles = []
    metric = main_metric(grid)
    for way in _of_several_heads(grid):
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
    matched = any(row.at_equal_flops and row.at_equal_flops[0] for row in grid.rows)
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
    at_equal_flops = [row.at_equal_flops[1] for row in grid.rows if row.at_equal_flops and row.at_equal_flops[0]]
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
