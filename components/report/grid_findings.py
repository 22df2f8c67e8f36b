"""What a grid comes to, as sentences, each from its numbers."""

from collections.abc import Iterator, Sequence

from components.report.grid import CONFIDENCE, Grid, Row, beyond_guessing, main_metric, verdict
from components.report.grid_words import Way, named, shown
from components.report.markup import percent

VERDICTS = {"better": "better than", "worse": "worse than", "not told apart": "not told apart from"}
FEW = 3
"""Ways to train that get a sentence each."""


def findings(grid: Grid) -> Iterator[str]:
    """Of the main metric: every way to train against n = 1, and how sure that is."""
    metric = main_metric(grid)
    if grid.config.task == "path_star":
        yield from _looks_ahead(grid)
    compared = [
        rows
        for way in of_several_heads(grid)
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


def of_several_heads(grid: Grid) -> list[Way]:
    """What is compared with n = 1; another n = 1 only where there is nothing else."""
    return [way for way in grid.ways if way[1] > 1] or grid.ways


def _in_groups(rows: Sequence[Row], sizes: bool) -> Iterator[str]:
    """The same for many ways to train: those of one verdict together."""
    of = shown(rows[0].metric)
    names = [named((row.schedule, row.n)) + f" at {row.size}" * sizes for row in rows]
    to_n1 = [(name, "", row.difference) for name, row in zip(names, rows, strict=True) if row.difference]
    at_equal_flops = [
        (name, f"{named((row.against_another[0], 1))}: ", row.against_another[1])
        for name, row in zip(names, rows, strict=True)
        if row.against_another
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
        if row.against_another and row.against_another[1].interval:
            schedule, made = row.against_another
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
