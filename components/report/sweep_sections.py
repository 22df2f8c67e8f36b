"""The parts of a sweep's page that compare: headline figures over what was swept, and over the seeds."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from components.report.charts import Axes, Series, line_chart
from components.report.intervals import Estimate, student_t
from components.report.markup import (
    NONE,
    Markup,
    decimal,
    join,
    note,
    paragraph,
    percent,
    scaled,
    section,
    table,
    tag,
    times,
)
from components.report.sweep import Comparison, Group, Sweep, number
from components.report.training_sections import colour

LABELLED_SEEDS = 8
"""With more seeds than this the lines of a chart have no labels."""


@dataclass(frozen=True)
class Figure:
    """How a headline figure is written."""

    title: str
    short: str
    """Its title where there is little room."""
    digits: int
    share: bool = False
    factor: bool = False

    def show(self, value: float) -> str:
        """With its unit."""
        if self.share:
            return percent(value, self.digits)
        return times(value, self.digits) if self.factor else decimal(value, self.digits)

    def bare(self, value: float) -> str:
        """Without its unit."""
        return decimal(100 * value if self.share else value, self.digits)

    def change(self, value: float) -> str:
        """A difference, signed."""
        text = self.bare(value)
        return ("" if text.startswith("−") else "+") + text + " points" * self.share


FIGURES = {
    "bits_per_byte": Figure("Bits per byte", "bits/byte", 4),
    "line_exact_match": Figure("Lines completed exactly", "lines", 1, share=True),
    "speedup": Figure("Decoding speed-up", "speed-up", 3, factor=True),
    "tokens_per_forward": Figure("Tokens per forward", "tokens/forward", 3),
}


def figure_of(name: str) -> Figure:
    """How to write a headline figure, also one that has no words of its own."""
    of, _, plain = name.replace("_", " ").rpartition("/")
    figure = FIGURES.get(name.rpartition("/")[2], Figure(plain.capitalize(), plain, 4))
    return replace(figure, title=f"{of} {figure.title.lower()}", short=f"{of} {figure.short}") if of else figure


def in_order(keys: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """(figure, n) once each: the figures as they first come, the least n first."""
    every = list(dict.fromkeys(keys))
    names = list(dict.fromkeys(name for name, _ in every))
    return sorted(every, key=lambda key: (names.index(key[0]), key[1]))


def named(n: int) -> str:
    """`n = 4`; its spaces do not break."""
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}"


def range_words(figure: Figure, made: Estimate) -> str:
    """`0.20 to 0.26`, in one piece; a dash without an interval."""
    return (
        "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}".join(figure.bare(end) for end in made.interval)
        if made.interval
        else NONE
    )


def interval_words(figure: Figure, made: Estimate) -> str:
    """The interval with the number of seeds that it stands on."""
    if made.interval is None:
        return "1 seed, no interval"
    if made.half_width == 0:
        return f"the same for all {made.seeds} seeds"
    return f"{range_words(figure, made)}, {made.seeds}\N{NO-BREAK SPACE}seeds"


def over_the_field(sweep: Sweep, found: Sequence[Group]) -> Markup | None:
    """Every figure over the one numeric field that was swept, else a row per combination."""
    found = [group for group in found if group.comparisons]
    if len(found) < 2:
        return None
    field = sweep.numeric_field
    if field is None:
        if _most_seeds(found) < 2:
            return None  # a row per job says it
        content = _combinations(found, lambda row: row.mean, False)
        caption = ""
    else:
        content = tag("div", *_trends(field, found), class_="figures")
        caption = "Bars: the 95 % interval over seeds, where there are several. "
    corpora = {job.corpus for group in found for job in group.jobs if job.corpus}
    warning = "These jobs did NOT all read the same text: their bits per byte do not compare. " * (len(corpora) > 1)
    return section(
        "field",
        f"Over {field}" if field else "Every combination",
        content,
        paragraph(f"{warning}{caption}Means over the seeds of each combination.", class_="caption"),
    )


def _trends(field: str, found: Sequence[Group]) -> Iterator[Markup]:
    """A chart per figure and per difference, a line per n."""
    placed = sorted(((number(group.values[field]) or 0.0, group) for group in found), key=lambda pair: pair[0])
    xs = [x for x, _ in placed]
    log = xs[0] > 0 and xs[-1] / xs[0] >= 10
    rows = [(x, row) for x, group in placed for row in group.comparisons]
    ns = sorted({row.n for _, row in rows})
    for name in dict.fromkeys(row.figure for _, row in rows):
        figure = figure_of(name)
        unit = ", %" if figure.share else ", ×" if figure.factor else ""
        measured_ns = {row.n for _, row in rows if row.figure == name}
        charts: list[tuple[str, str, Callable[[Comparison], Estimate | None]]] = [
            ("", f"{figure.title.lower()}{unit}", lambda row: row.mean)
        ]
        if len(measured_ns) > 1:
            charts.append((", minus the baseline's", "difference" + ", points" * figure.share, lambda r: r.difference))
        for after, label, pick in charts:
            lines = []
            for index, n in enumerate(ns):
                made = [(x, e) for x, r in rows if (r.figure, r.n) == (name, n) if (e := pick(r)) is not None]
                factor = 100 if figure.share else 1
                points = [(x, factor * e.mean) for x, e in made]
                ends = [e.interval or (e.mean, e.mean) for _, e in made]
                spread = [(factor * low, factor * high) for low, high in ends]
                lines.append(Series(named(n), points, colour(index), dots=True, spread=spread))
            if any(line.points for line in lines):
                axes = Axes(field, label, _ticks(xs, log), None, figure.digits, log)
                chart = line_chart(f"{re.sub('[/_]', '-', name)}{'-difference' if after else ''}", lines, axes, 62)
                yield tag("figure", tag("figcaption", figure.title + after), chart)


def _ticks(xs: Sequence[float], log: bool) -> list[float]:
    """The values swept, without those too near to the one before to be read."""
    kept: list[float] = []
    for x in xs:
        near = kept and (x / kept[-1] < (xs[-1] / xs[0]) ** 0.12 if log else x - kept[-1] < 0.12 * (xs[-1] - xs[0]))
        if not near:
            kept.append(x)
    return kept


def _combinations(found: Sequence[Group], pick: Callable[[Comparison], Estimate | None], signed: bool) -> Markup:
    """What `pick` takes of every figure, a row per combination."""
    columns = in_order((row.figure, row.n) for group in found for row in group.comparisons if pick(row))
    body = []
    for group in found:
        picked = {(row.figure, row.n): pick(row) for row in group.comparisons}
        cells = []
        for key in columns:
            figure, made = figure_of(key[0]), picked.get(key)
            shown = NONE if made is None else figure.change(made.mean) if signed else figure.show(made.mean)
            cells.append(join((shown, note(interval_words(figure, made)) if made and made.interval else None), " "))
        body.append([group.name, *cells])
    return table(["", *(f"{figure_of(name).title}, {named(n)}" for name, n in columns)], body, "wide")


def over_the_seeds(found: Sequence[Group]) -> Markup | None:
    """For every group of jobs that differ in the seed alone: means, differences from the baseline, intervals."""
    if not any(group.comparisons for group in found):
        return None
    if len(found) > 1 and _most_seeds(found) < 2:
        blocks = [_combinations(found, lambda row: row.difference, True)]
    else:
        blocks = [block for group in found for block in _group(group, len(found) > 1)]
    return section("differences", "What n changes", *blocks, *_unequal(found), *_explain(found))


def _most_seeds(found: Sequence[Group]) -> int:
    return max((row.mean.seeds for group in found for row in group.comparisons), default=0)


def _group(group: Group, headed: bool) -> Iterator[Markup]:
    rows = group.comparisons
    if not rows:
        if headed:
            yield tag("h3", group.name)
            yield paragraph("No report.", class_="caption")
        return
    if headed:
        yield tag("h3", group.name)
    baseline = named(group.baseline)
    body = []
    for row in rows:
        figure = figure_of(row.figure)
        mean = join((figure.show(row.mean.mean), note(interval_words(figure, row.mean))), " ")
        made = row.difference
        change = NONE
        if made is not None:
            words = interval_words(figure, made)
            if made.zero_inside is not None:
                words += f"; zero\N{NO-BREAK SPACE}{'inside' if made.zero_inside else 'outside'}"
            value = figure.change(made.mean)
            change = join((value if made.zero_inside is not False else tag("b", value), note(words)), " ")
        body.append([f"{figure.title}, {named(row.n)}", mean, change])
    yield table(["", "Mean, 95 % interval", f"Minus {baseline}, 95 % interval"], body, "wide")
    if not headed:
        yield from _pairs(rows)


def _pairs(rows: Sequence[Comparison]) -> Iterator[Markup]:
    """Figures that several n have, a line per seed: whether all seeds go the same way."""
    charts = []
    for name in dict.fromkeys(row.figure for row in rows):
        mine = [row for row in rows if row.figure == name]
        seeds = sorted({seed for row in mine for seed in row.by_seed})
        if len(mine) < 2 or len(seeds) < 2:
            continue
        figure = figure_of(name)
        factor = 100 if figure.share else 1
        lines = [
            Series(
                f"seed {seed}" if len(seeds) <= LABELLED_SEEDS else "",
                [(row.n, factor * row.by_seed[seed]) for row in mine if seed in row.by_seed],
                "var(--s1)",
                dots=True,
            )
            for seed in seeds
        ]
        axes = Axes("n", figure.title.lower() + ", %" * figure.share, [row.n for row in mine], None, figure.digits)
        chart = line_chart(f"{re.sub('[/_]', '-', name)}-by-seed", lines, axes, 62)
        charts.append(tag("figure", tag("figcaption", f"{figure.title}, a line per seed"), chart))
    if charts:
        yield tag("div", *charts, class_="figures")


def _unequal(found: Sequence[Group]) -> Iterator[Markup]:
    """Where models differ from the baseline in parameters or tokens, once where it is the same for all groups."""
    groups_of: dict[str, list[str]] = {}
    for group in found:
        models, baseline = group.models, named(group.baseline)
        base = models.get(f"n{group.baseline}")
        words = []
        for key, model in sorted(models.items(), key=lambda item: item[1]["n_future_tokens"]):
            if base is None or model is base:
                continue
            arrangement = key.rpartition("/")[0].replace("_", " ")
            name = f"{arrangement} {named(model['n_future_tokens'])}".lstrip()
            if more := model["parameters"] - base["parameters"]:
                share = f"{percent(abs(more) / base['parameters'])} {'more' if more > 0 else 'fewer'}"
                words.append(f"{name} has {share} parameters than {baseline}.")
            if model["tokens"] != base["tokens"]:
                tokens = f"{scaled(model['tokens'])} training tokens, {baseline} {scaled(base['tokens'])}"
                words.append(f"{name} saw {tokens}.")
        if models:
            groups_of.setdefault(" ".join(words), []).append(group.name)
    for text, names in groups_of.items():
        if text:
            where = f" ({'; '.join(names)})" if len(groups_of) > 1 else ""
            yield paragraph(f"Not equal{where}: {text}", class_="caption")


def _explain(found: Sequence[Group]) -> Iterator[Markup]:
    """How to read the intervals, with what holds for the numbers of seeds at hand."""
    if _most_seeds(found) < 2:
        yield paragraph(
            "One seed each: another seed moves these numbers too, by an amount not measured here. Sweep the seed, "
            "-m seed=1,2,3, for an interval.",
            class_="caption",
        )
        return
    words = (
        "Differences are paired: each seed's n minus the same seed's baseline, so that what a seed does to both drops "
        "out. Intervals are Student's t over seeds, each by itself: of twenty, one is expected to miss. A seed is the "
        "initial weights and the order of the data; corpus, held-out text and prompts are the same for all, so that "
        "the intervals say nothing of other text. Next-token decoding is 1 by definition in speed-up and tokens per "
        "forward; both are those of the fastest arm of each seed, chosen after measuring."
    )
    if any(row.mean.seeds == 2 for group in found for row in group.comparisons):
        words += (
            f" Two seeds leave one degree of freedom: the interval is {student_t(1):.1f} standard errors to each side, "
            f"very wide. A third seed makes that {student_t(2):.1f}."
        )
    yield paragraph(words, class_="caption")
