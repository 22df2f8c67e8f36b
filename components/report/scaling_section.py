"""The parts of the page that only a scaling study has: what n changes as models grow (paper Figure 3)."""

from collections.abc import Iterator, Sequence

from components.report import paper
from components.report.charts import Axes, Series, line_chart
from components.report.facts import Facts, Model, known
from components.report.markup import (
    Markup,
    decimal,
    join,
    paragraph,
    percent,
    scaled,
    section,
    table,
    tag,
    times,
    whole,
)
from components.report.training_sections import colour, difference, seeds


def scaling(facts: Facts) -> Markup | None:
    """The difference to n = 1 by size, here and in the paper. None where there are no two sizes to compare."""
    lines = {n: list(_saved(facts, n)) for n in _numbers_of_heads(facts)}
    if max((len(points) for points in lines.values()), default=0) < 2:
        return None
    ours = [
        Series(f"n = {n}", [(p, saved) for p, _, saved in points], colour(_place(facts, n)), dots=True)
        for n, points in lines.items()
    ]
    ticks = {float(p): name for points in lines.values() for p, name, _ in points}
    figures = [_figure("Here: bits per byte fewer than n = 1", "scaling-here", ours, ticks, "bits per byte", 4)]
    on_text = (facts.tokenizer or {}).get("kind") != "bytes"
    published = [n for n in lines if n in paper.PASS_AT_1["13B"]] if on_text else []
    if published:
        at = {float(name.removesuffix("B")) * 1e9: name for name in paper.PASS_AT_1}
        theirs = [
            Series(
                f"n = {n}",
                [(x, paper.PASS_AT_1[name][n][0] - paper.PASS_AT_1[name][1][0]) for x, name in at.items()],
                colour(_place(facts, n)),
                dots=True,
            )
            for n in published
        ]
        title = "The paper: points of pass@1 on MBPP more than n = 1"
        figures.append(_figure(title, "scaling-paper", theirs, at, "points", 1))
    words = (
        "Above the dashed line more heads are better than one. The two measures and sizes differ: only the shape "
        "compares. In the paper's Figure 3 the gain grows with size and turns positive at about 1.3B parameters."
        if published
        else "Above the dashed line more heads are better than one."
    )
    return section(
        "scaling",
        "What more heads change as models grow",
        tag("div", *figures, class_="figures"),
        _table(facts),
        paragraph(f"Bits per byte of the test split; small figures: against n = 1. {seeds(facts)}", class_="caption"),
        *_published(published),
        paragraph(words, class_="caption"),
    )


def title(facts: Facts) -> str:
    """The models against each other, without naming each."""
    heads = list(dict.fromkeys(m.heads for m in facts.pretrained))
    versus = heads[0] if len(heads) == 1 else f"{', '.join(heads[:-1])} against {heads[-1]}"
    smallest, largest = facts.pretrained[0].size, facts.pretrained[-1].size
    return f"{versus}, {f'at {smallest}' if smallest == largest else f'from {smallest} to {largest}'}"


def findings(facts: Facts, of_text: str) -> Iterator[str]:
    """The findings as sentences, each from its numbers."""
    models = facts.pretrained
    parameters = [m.checkpoint.parameters for m in models]
    tokens = sorted({m.checkpoint.tokens for m in models})
    trained = scaled(tokens[0]) if len(tokens) == 1 else f"{scaled(tokens[0])} to {scaled(tokens[-1])}"
    yield (
        f"{len(models)} models of {len(facts.by_size)} sizes, from {scaled(min(parameters))} to "
        f"{scaled(max(parameters))} parameters, trained on {trained} tokens{of_text}."
    )
    for n in _numbers_of_heads(facts):
        shares = [
            (model.size, f"{percent(abs(mine / theirs - 1))} {'more' if mine > theirs else 'fewer'}")
            for model, mine, theirs in _against_one(facts, n)
        ]
        if shares:
            said = [f"{more} bits per byte of unseen text than {_of(1)} at {size}" for size, more in shares[:1]]
            said += [f"{more} at {size}" for size, more in shares[1:][-1:]]
            yield f"{_of(n)} needs {', and '.join(said)}."
    rows = [(m, row) for m in models if (row := facts.best_row(m))]
    if rows:
        model, best = max(rows, key=lambda item: item[1].speedup)
        same = "with the same output, token for token" if best.lossless else "but NOT with the same output"
        speed = tag("b", f"{times(best.speedup)} the speed")
        yield join((f"With its extra heads {model.name} decodes at", speed, f"of next-token decoding, {same}."), " ")


def _of(n: int) -> str:
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}"


def _numbers_of_heads(facts: Facts) -> list[int]:
    """Every n above 1, the fewest first."""
    return sorted({m.n for m in facts.pretrained} - {1})


def _place(facts: Facts, n: int) -> int:
    return next(facts.place(m) for m in facts.pretrained if m.n == n)


def _against_one(facts: Facts, n: int) -> Iterator[tuple[Model, float, float]]:
    """Models with n heads, with their bits per byte and those of the next-token model of their size."""
    for model in facts.pretrained:
        base = facts.baseline(model.size)
        if model.n == n and model.evaluation and base and base.evaluation:
            mine, theirs = known(model.evaluation.bits_per_byte), known(base.evaluation.bits_per_byte)
            if mine is not None and theirs is not None:
                yield model, mine, theirs


def _saved(facts: Facts, n: int) -> Iterator[tuple[int, str, float]]:
    """(parameters of the next-token model, size, bits per byte fewer than it needs) of the models with n heads."""
    for model, mine, theirs in _against_one(facts, n):
        base = facts.baseline(model.size)
        assert base is not None
        yield base.checkpoint.parameters, model.size, theirs - mine


def _figure(title: str, name: str, lines: Sequence[Series], ticks: dict[float, str], unit: str, digits: int) -> Markup:
    """Lines over parameters on a logarithmic scale, with a dashed one at zero for n = 1."""
    at = sorted(ticks)
    zero = Series("n = 1", [(at[0], 0.0), (at[-1], 0.0)], colour(0), dashed=True)
    axes = Axes("parameters", unit, at, None, digits, True, [ticks[x] for x in at])
    return tag("figure", tag("figcaption", title), line_chart(name, [zero, *lines], axes, 62))


def _table(facts: Facts) -> Markup:
    """Bits per byte, a row for each size."""
    numbers = sorted({m.n for m in facts.pretrained})
    rows = []
    for models in facts.by_size:
        base = facts.baseline(models[0].size)
        theirs = base.evaluation.bits_per_byte if base and base.evaluation else None
        by_n = {m.n: m for m in models}
        cells = []
        for n in numbers:
            model = by_n.get(n)
            mine = model.evaluation.bits_per_byte if model and model.evaluation else None
            cells.append(join((decimal(mine, 4), None if n == 1 else difference(known(mine), known(theirs), 4)), " "))
        first = (base or models[0]).checkpoint
        rows.append([models[0].size, whole(first.parameters), scaled(first.tokens), *cells])
    return table(["Size", "Parameters", "Training tokens", *(f"n = {n}" for n in numbers)], rows)


def _published(numbers: Sequence[int]) -> Iterator[Markup]:
    """The paper's Table S7, where some of its n are ours."""
    if not numbers:
        return
    yield tag("h4", "Beside the paper's Table S7: pass@1, code models")
    rows = []
    for name, by_n in paper.PASS_AT_1.items():
        cells = []
        for task in (0, 1):
            cells.append(f"{decimal(by_n[1][task], 1)} %")
            cells += [
                join((f"{decimal(by_n[n][task], 1)} %", difference(by_n[n][task], by_n[1][task], 1)), " ")
                for n in numbers
            ]
        rows.append([name, *cells])
    head = [f"{task} n = {n}" for task in ("MBPP", "HumanEval") for n in (1, *numbers)]
    yield table(["Size", *head], rows)
