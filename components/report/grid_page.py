"""The page of a grid: what n changes, with intervals over seeds, beside the paper; over training; every cell."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.report import paper
from components.report.charts import Axes, Estimated, Series, estimates_chart, line_chart
from components.report.grid import CONFIDENCE, SCORE, Grid, Row, Trained, main_metric, more_is_better
from components.report.intervals import Estimate, estimate
from components.report.markup import (
    NONE,
    Markup,
    decimal,
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
RENEW_SECONDS = 20
"""Of a page to which cells are still to come."""
Way = tuple[str, int]


@dataclass(frozen=True)
class Shown:
    """How a metric is written."""

    words: str
    scale: float = 100.0
    digits: int = 1
    unit: str = " %"
    difference_unit: str = " points"

    @property
    def axis(self) -> str:
        """What an axis is labelled with."""
        return "% right" if self.unit == " %" else self.words

    def value(self, value: float | None) -> str:
        return NONE if value is None else f"{decimal(self.scale * value, self.digits)}{self.unit}"

    def change(self, difference: float, unit: bool = True) -> str:
        sign = "+" if difference >= 0 else ""
        return f"{sign}{decimal(self.scale * difference, self.digits)}{self.difference_unit if unit else ''}"

    def range(self, made: Estimate) -> str:
        """An interval of differences."""
        if made.interval is None:
            return "one seed"
        low, high = (decimal(self.scale * edge, self.digits) for edge in made.interval)
        return f"{low} to {high}"

    def interval(self, made: Estimate) -> str:
        """An interval of values; of shares no more than can be."""
        low, high = edges(made, self)
        return "one seed" if made.interval is None else f"{decimal(low, self.digits)} to {decimal(high, self.digits)}"


def edges(made: Estimate, shown: "Shown") -> tuple[float, float]:
    """Lowest and highest mean, as shown."""
    low, high = made.interval or (made.mean, made.mean)
    if shown.unit == " %":
        low, high = max(low, 0.0), min(high, 1.0)
    return shown.scale * low, shown.scale * high


METRICS = {
    "accuracy": Shown("right"),
    "accuracy_known": Shown("right, of names that training knows"),
    "first_node": Shown("right first nodes"),
    "later_nodes": Shown("right later nodes"),
    "bits_per_byte": Shown("bits per byte", 1.0, 4, "", ""),
}


def shown(metric: str) -> Shown:
    """How a metric is written."""
    if metric.startswith("accuracy/m"):
        return Shown(f"right at m = {metric.removeprefix('accuracy/m')}")
    return METRICS[metric]


@dataclass(frozen=True)
class Made:
    """How a page came about."""

    when: str
    machine: str
    versions: Mapping[str, str]
    commit: str | None
    seconds: float | None = None
    """From command to page; None while the run goes on."""
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
            paragraph(join(_lead(grid), " "), class_="lead"),
            _tiles(grid, made),
        ),
        _main(grid),
        _over_training(grid),
        _summary(grid),
        _example(grid, made),
        _cells(grid),
        _again(grid, made),
        renew_seconds=RENEW_SECONDS if grid.missing else None,
    )


def title(grid: Grid) -> str:
    """The question, and what is compared."""
    ways = [_named(way) for way in grid.ways]
    versus = "" if len(ways) < 2 else f" {', '.join(ways[:-1])} and {ways[-1]}"
    return f"{TITLES[grid.config.task]}{versus}"


def _named(way: Way) -> str:
    return way[0].replace("_", " ") or f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{way[1]}"


def _lead(grid: Grid) -> Iterator[str]:
    """The setting, and the findings as sentences, each from its numbers."""
    yield grid.config.setting
    if grid.missing:
        yield tag("b", f"{len(grid.trained)} of {len(grid.config.cells)} cells are there; the others are to come.")
    metric = main_metric(grid)
    if grid.config.task == "path_star":
        yield from _looks_ahead(grid)
    for way in grid.ways:
        rows = [row for size in grid.sizes if (row := grid.row(size, way, metric)) and row.verdict]
        if rows:
            yield f"{_named(way)} is {_verdicts(rows)}."
    yield f"Intervals are {CONFIDENCE:.0%} over seeds, differences are taken seed by seed."


def _verdicts(rows: Sequence[Row]) -> str:
    """What the sizes of one way to train come to, those of one verdict together."""
    said = []
    of = shown(rows[0].metric)
    for verdict, words in VERDICTS.items():
        alike = [row for row in rows if row.verdict == verdict]
        each = [
            f"at {row.size} ({of.change(row.difference.mean)}, {of.range(row.difference)})"
            for row in alike
            if row.difference
        ]
        if each:
            said.append(f"{words} n = 1 {' and '.join(each)}")
    return "; ".join(said) + (f" by {of.words}" if of.words != "right" else "")


def _looks_ahead(grid: Grid) -> Iterator[str]:
    """Whose first nodes are more often right than by guessing."""
    guess = grid.config.guessing or 0.0
    for size in grid.sizes:
        can: list[str] = []
        cannot: list[str] = []
        for way in grid.ways:
            row = grid.row(size, way, "first_node")
            if row and row.mean.interval:
                reached = f"{_named(way)} ({percent(row.mean.mean)}, {shown('first_node').interval(row.mean)})"
                (can if row.mean.interval[0] > guess else cannot).append(reached)
        at = f"At {size} the" if len(grid.sizes) > 1 else "The"
        if can:
            yield f"{at} first node is told better than by guessing ({percent(guess, 0)}) with {', '.join(can)}."
        if cannot:
            yield f"{at} first node is not told better than by guessing with {', '.join(cannot)}."


def _tiles(grid: Grid, made: Made) -> Markup:
    """The largest difference of each way, and what it took."""
    tiles = []
    metric = main_metric(grid)
    for way in grid.ways:
        rows = [row for size in grid.sizes if (row := grid.row(size, way, metric)) and row.difference]
        if rows:
            of = shown(metric)
            sign = 1 if more_is_better(metric) else -1
            best = max(rows, key=lambda row: sign * row.difference.mean if row.difference else 0)
            assert best.difference
            at = f", {best.size}" if len(grid.sizes) > 1 else ""
            where = f"{_named(way)} over n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}1{at}, {of.words}"
            said = ": ".join(word for word in (of.range(best.difference), best.verdict) if word)
            tiles.append(_tile(of.change(best.difference.mean), where, said))
    seeds = len({t.label.seed for t in grid.trained})
    tiles.append(_tile(str(len(grid.trained)), f"trainings, {seeds} seed{'s' * (seeds > 1)}", ""))
    if made.seconds is not None:
        total = sum(t.cell.seconds for t in grid.trained)
        tiles.append(_tile(duration(made.seconds), "from command to this page", f"{duration(total)} of training"))
    return tag("div", *tiles, class_="tiles")


def _tile(number: str, what: str, beside: str) -> Markup:
    return tag("div", tag("b", number), tag("span", what), note(beside) if beside else None, class_="tile")


def _colour(grid: Grid, way: Way) -> str:
    return f"var(--s{grid.ways.index(way) % 8})"


def _main(grid: Grid) -> Markup | None:
    if not grid.trained:
        return None
    of_task = {"induction": _induction, "polynomial": _polynomials, "path_star": _path_star, "text": _text}
    figures, words = of_task[grid.config.task](grid)
    return section(
        "result",
        "What more heads change",
        tag("div", *figures, class_="figures"),
        paragraph(words, class_="caption"),
    )


def _line(grid: Grid, way: Way, rows: Sequence[tuple[float, Row]]) -> Series:
    """Means with their intervals."""
    points = [(x, shown(row.metric).scale * row.mean.mean) for x, row in rows]
    spread = [edges(row.mean, shown(row.metric)) for _, row in rows]
    return Series(_named(way), points, _colour(grid, way), dots=True, spread=spread)


def _figure(name: str, words: str, lines: Sequence[Series], axes: Axes, width: float = 74) -> Markup:
    return tag("figure", tag("figcaption", words), line_chart(name, lines, axes, width))


def _by_size(grid: Grid, metric: str, name: str, title: str) -> Markup:
    """A metric over the sizes."""
    at = {t.label.size: float(t.label.parameters_in_layers) for t in grid.trained}
    if len({*at.values()}) < len(at):  # sizes that differ in something else
        at = {size: float(place) for place, size in enumerate(at, start=1)}
    names = {x: size for size, x in at.items()}
    ticks = sorted(names)
    lines = [
        _line(grid, way, [(at[size], row) for size in grid.sizes if (row := grid.row(size, way, metric))])
        for way in grid.ways
    ]
    of, called = shown(metric), [names[x] for x in ticks]
    axes = Axes("parameters without embeddings", of.axis, ticks, None, of.digits, True, called)
    return _figure(name, title, lines, axes)


def _induction(grid: Grid) -> tuple[list[Markup], str]:
    figures = [_by_size(grid, "accuracy", "induction-here", "Here: second tokens of fresh names, %")]
    published = paper.BY_SIZE.get(grid.config.paper)
    if published:
        sizes = paper.SYNTHETIC_SIZES
        theirs = [
            _published(grid, n, [(sizes[name], 100 * by_n[n]) for name, by_n in published.items()]) for n in (1, 2)
        ]
        axes = Axes("parameters without embeddings", "% right", list(sizes.values()), None, 0, True, list(sizes))
        figures.append(_figure("induction-paper", f"The paper, {grid.config.paper}, as read off it, %", theirs, axes))
    words = (
        "Share of second tokens of names told right, from the second time on that a name occurs in a story, by the "
        "first choice of the next-token head. Names of the test are fresh pairs of tokens. Bars: 90 % intervals over "
        "seeds. The paper trained on 26 billion tokens of real text; only the shape compares."
    )
    return figures, words


def _published(
    grid: Grid, n: int, points: Sequence[tuple[float, float]], spread: Sequence[tuple[float, float]] = ()
) -> Series:
    """A line of the paper's, in the colour of ours with as many heads."""
    colour = _colour(grid, ("", n)) if ("", n) in grid.ways else "var(--s7)"
    return Series(f"n = {n}", points, colour, dots=True, spread=spread)


def _text(grid: Grid) -> tuple[list[Markup], str]:
    figures = []
    words = "Bars: 90 % intervals over seeds."
    if "accuracy" in grid.metrics:
        of_names, words = _induction(grid)
        figures += of_names
    if "bits_per_byte" in grid.metrics:
        if len(grid.sizes) > 1:
            figures.append(_by_size(grid, "bits_per_byte", "bits-here", "Bits per byte of unseen text"))
        else:
            figures.append(_differences(grid, grid.sizes[0], "bits_per_byte"))
    return figures, words


def _differences(grid: Grid, size: str, metric: str) -> Markup:
    """Every way's difference to n = 1 with its interval, a row each."""
    of, rows = shown(metric), []
    for way in grid.ways:
        row = grid.row(size, way, metric)
        if row and row.difference:
            mean = row.difference.mean
            low, high = row.difference.interval or (mean, mean)
            value, least, most = (of.scale * edge for edge in (mean, low, high))
            rows.append(Estimated(_named(way), value, least, most, _colour(grid, way)))
    if not rows:
        return paragraph("There is no n = 1 to compare with, or nothing beside it.")
    chart = estimates_chart(f"differences-{size}", rows, f"{of.words} more than n = 1", of.digits)
    return tag("figure", tag("figcaption", f"{size}: {of.words}, difference to n = 1"), chart)


def _polynomials(grid: Grid) -> tuple[list[Markup], str]:
    operations = sorted(int(name.removeprefix("accuracy/m")) for name in grid.metrics)
    figures = []
    for size in grid.sizes:
        lines = [
            _line(
                grid,
                way,
                [(float(m), row) for m in operations if (row := grid.row(size, way, f"accuracy/m{m}"))],
            )
            for way in grid.ways
        ]
        axes = Axes("operations m", "% right", list(map(float, operations)), None, 1)
        figures.append(_figure(f"polynomials-{size}", f"Here, {size}: answers right, %", lines, axes))
    if grid.config.paper:
        theirs = [
            _published(
                grid,
                n,
                [(float(m), 100 * sum(runs[n]) / len(runs[n])) for m, runs in paper.POLYNOMIALS.items()],
                [(100 * min(runs[n]), 100 * max(runs[n])) for runs in paper.POLYNOMIALS.values()],
            )
            for n in (1, 2, 4)
        ]
        axes = Axes("operations m", "% right", [float(m) for m in paper.POLYNOMIALS], None, 0)
        figures.append(_figure("polynomials-paper", "The paper, Figure 8, 100M models, two runs, %", theirs, axes))
    words = (
        "An answer is right if all its coefficients are, decoded greedily. Training has up to "
        f"{grid.config.trained_to} operations; more are beyond it. Bars: here 90 % intervals over seeds, in the paper "
        "its two runs. The paper's ring is F_7[X]/(X^5), trained with up to 5 operations on 26 billion tokens; only "
        "the shape compares."
    )
    return figures, words


def _path_star(grid: Grid) -> tuple[list[Markup], str]:
    """Right first nodes, and right later ones, over n, a line for each arrangement of the heads."""
    numbers = sorted({float(n) for _, n in grid.ways})
    figures = []
    for size in grid.sizes:
        for metric in ("first_node", "later_nodes"):
            lines = []
            for place, arrangement in enumerate(dict.fromkeys(t.label.arrangement for t in grid.trained)):
                ways = {  # of each n the first such: a plain one where there is one
                    t.label.n_future_tokens: t.way
                    for t in reversed(grid.trained)
                    if t.label.n_future_tokens == 1 or t.label.arrangement == arrangement
                }
                rows = [(float(n), row) for n, way in ways.items() if (row := grid.row(size, way, metric))]
                line = _line(grid, grid.ways[0], sorted(rows, key=lambda item: item[0]))
                lines.append(Series(arrangement, line.points, f"var(--s{place + 1})", dots=True, spread=line.spread))
            if metric == "first_node" and grid.config.guessing:
                guess = 100 * grid.config.guessing
                lines.append(Series("guessing", [(numbers[0], guess), (numbers[-1], guess)], "var(--s0)", dashed=True))
            axes = Axes("n", "% right", numbers, (0, 102), 1)
            words = f"{size}: {shown(metric).words}, %"
            figures.append(_figure(f"path-star-{metric.replace('_', '-')}-{size}", words, lines, axes, 96))
    words = (
        "The first node takes knowing the path to its end; each later one follows from the edge at the node before. "
        "Decoded greedily a whole path is right where both are. Bars: 90 % intervals over seeds. n = 1 is one model in "
        "every arrangement."
    )
    return figures, words


def _over_training(grid: Grid) -> Markup | None:
    """Means over seeds while training, and every seed faintly behind."""
    metric = main_metric(grid)
    figures = []
    for size in grid.sizes:
        lines = [line for way in grid.ways for line in _curves(grid, size, way, metric)]
        if lines:
            of = shown(metric)
            axes = Axes("steps", of.axis, None, None, of.digits)
            figures.append(_figure(f"training-{size}", f"{size}: {of.words}", lines, axes))
    if not figures:
        return None
    words = (
        "The test, taken at equal distances while training; the last point is the result. (The paper takes the best "
        "epoch by the test itself.) Thick: means over seeds; thin: every seed."
    )
    return section(
        "training", "Over training", tag("div", *figures, class_="figures"), paragraph(words, class_="caption")
    )


def _curves(grid: Grid, size: str, way: Way, metric: str) -> Iterator[Series]:
    by_step: dict[float, list[float]] = {}
    name, scale = SCORE + metric, shown(metric).scale
    for trained in grid.of(size, way):
        points = [(line["step"], scale * line[name]) for line in trained.history if name in line]
        for step, value in points:
            by_step.setdefault(step, []).append(value)
        yield Series("", points, _colour(grid, way), opacity=0.3)
    means = [(step, estimate(values).mean) for step, values in sorted(by_step.items())]
    yield Series(_named(way), means, _colour(grid, way), dots=True)


def _summary(grid: Grid) -> Markup:
    """A row for each size, way and metric."""
    head = ["", "Metric", "Mean", "90 % interval", "Over n = 1", "90 % interval", "Verdict", "FLOPs", "Of", "Paper"]
    rows = []
    for row in grid.rows:
        made, of = row.difference, shown(row.metric)
        rows.append(
            [
                f"{row.size} {_named((row.schedule, row.n))}",
                of.words,
                of.value(row.mean.mean),
                of.interval(row.mean),
                of.change(made.mean, unit=False) if made else NONE,
                of.range(made) if made else NONE,
                row.verdict or NONE,
                times(row.flops),
                whole(row.items),
                NONE if row.paper is None else percent(row.paper, 0),
            ]
        )
    compared = sum(row.difference is not None for row in grid.rows)
    seeds = sorted({row.mean.seeds for row in grid.rows})
    words = (
        f"Over {' to '.join(map(str, seeds))} seeds. FLOPs of training over those of n = 1. Of: examples, or single "
        f"tokens, that each seed's figure is of. {compared} comparisons are made: of so many that find nothing, a "
        f"tenth would be called better or worse by chance. {_unequal(grid)}"
    )
    return section("summary", "Every figure", table(head, rows), paragraph(words.strip(), class_="caption"))


def _unequal(grid: Grid) -> str:
    """What cells of a size do not share, though they are compared."""
    said = []
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
            f"{of.label.size} {_named(of.way)}, seed {of.label.seed}",
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
            "Training is time in steps; besides is all else but the test: start-up, checkpoints, the model on disk. "
            "Cells run side by side, so that times are of a machine that is shared.",
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
