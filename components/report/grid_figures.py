"""The figures of a grid: what n changes, beside the paper's, and the test over training."""

from collections.abc import Iterator, Sequence

from components.report import paper
from components.report.charts import Axes, Estimated, Series, estimates_chart, line_chart
from components.report.grid import SCORE, Grid, Row, main_metric
from components.report.grid_words import Way, colour, edges, named, shown
from components.report.intervals import estimate
from components.report.markup import Markup, paragraph, section, tag


def result(grid: Grid) -> Markup | None:
    """What came out, in figures; None while nothing is there."""
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
    return Series(named(way), points, colour(grid, way), dots=True, spread=spread)


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
        figures.append(_figure("induction-paper", f"The paper, {grid.config.paper}, roughly, %", theirs, axes))
    words = (
        "Share of second tokens of names told right, from the second time on that a name occurs in a story, by the "
        "first choice of the next-token head. Names of the test are fresh pairs of tokens. Bars: 90 % intervals over "
        "seeds. The paper trained on 26 billion tokens of real text; only the shape compares, and its points are taken "
        f"from descriptions of the figure. {paper.FROM_100M if grid.config.paper == 'Figure 7' else ''}"
    )
    return figures, words


def _published(
    grid: Grid, n: int, points: Sequence[tuple[float, float]], spread: Sequence[tuple[float, float]] = ()
) -> Series:
    """A line of the paper's, in the colour of ours with as many heads."""
    same = colour(grid, ("", n)) if ("", n) in grid.ways else "var(--s7)"
    return Series(f"n = {n}", points, same, dots=True, spread=spread)


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
            rows.append(Estimated(named(way), value, least, most, colour(grid, way)))
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
    drawn: set[Way] = set()
    for size in grid.sizes:
        for metric in ("first_node", "later_nodes"):
            lines = []
            for place, arrangement in enumerate(dict.fromkeys(t.label.arrangement for t in grid.trained)):
                ways = {  # of each n the first such: a plain one where there is one
                    t.label.n_future_tokens: t.way
                    for t in reversed(grid.trained)
                    if t.label.n_future_tokens == 1 or t.label.arrangement == arrangement
                }
                drawn.update(ways.values())
                rows = [(float(n), row) for n, way in ways.items() if (row := grid.row(size, way, metric))]
                line = _line(grid, grid.ways[0], sorted(rows, key=lambda item: item[0]))
                same = f"var(--s{place + 1})"
                lines.append(Series(arrangement, line.points, same, dots=True))
                for seed in sorted({t.label.seed for t in grid.trained}):
                    of_seed = [
                        (float(n), 100 * t.cell.metrics[metric])
                        for n, way in sorted(ways.items())
                        for t in grid.of(size, way)
                        if t.label.seed == seed
                    ]
                    lines.append(Series("", of_seed, same, opacity=0.3))
            if metric == "first_node" and grid.config.guessing:
                guess = 100 * grid.config.guessing
                lines.append(Series("guessing", [(numbers[0], guess), (numbers[-1], guess)], "var(--s0)", dashed=True))
            axes = Axes("n", "% right", numbers, (0, 102), 1)
            words = f"{size}: {shown(metric).words}, %"
            figures.append(_figure(f"path-star-{metric.replace('_', '-')}-{size}", words, lines, axes, 96))
    words = (
        "The first node takes knowing the path to its end; each later one follows from the edge at the node before. "
        "Decoded greedily a whole path is right where both are. Thick: means over seeds; thin: every seed, of which "
        "one looks ahead or does not. n = 1 is one model in every arrangement."
    )
    if left := [named(way) for way in grid.ways if way not in drawn]:
        words += f" Only in the table: {', '.join(left)}."
    return figures, words


def over_training(grid: Grid) -> Markup | None:
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
        yield Series("", points, colour(grid, way), opacity=0.3)
    means = [(step, estimate(values).mean) for step, values in sorted(by_step.items())]
    yield Series(named(way), means, colour(grid, way), dots=True)
