"""The parts of the page that only a study of arrangements has: how prediction heads hang together (Appendix B)."""

from collections.abc import Iterator

from components.report import paper
from components.report.facts import Facts, Model, known
from components.report.intervals import half_width_over_windows
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
    times,
    whole,
)
from components.report.training_sections import difference, label, more_parameters, seeds


def arrangements(facts: Facts) -> Markup:
    """A row per model, quality and decoding beside each other, and beside the paper's Table S4."""
    base = facts.baseline("")
    on_text = (facts.tokenizer or {}).get("kind") != "bytes"
    published = on_text and any(_in_paper(model) for model in facts.pretrained if model.arrangement)
    head = ["", "Parameters", "Bits per byte", "Speed-up", "Tokens per forward", "Tokens/s"]
    if published:
        head += ["Paper: MBPP", "HumanEval"]
    rows = [_row(facts, model, base) + (_paper(model) if published else []) for model in facts.pretrained]
    words = [
        "Decoding: the fastest arm of each model at the smallest batch, over next-token decoding of the same model. "
        "That leaves the layers of further heads out where heads are parallel or causal, and runs all layers "
        "elsewhere: the tokens per second compare.",
        "Where parameters differ from n = 1, the difference stands beside.",
    ]
    if published:
        words.append(f"The paper's columns: {paper.ARRANGEMENTS_OF}; they are no measure of bits per byte.")
    return section(
        "arrangements",
        "How the heads hang together",
        table(head, rows),
        paragraph(" ".join([*words, seeds(facts)]), class_="caption"),
    )


def title(facts: Facts) -> str:
    """The models against each other, without naming each."""
    several = [model for model in facts.pretrained if model.arrangement]
    plain = [model.heads for model in facts.pretrained if not model.arrangement]
    numbers = sorted({model.n for model in several})
    count = len({model.arrangement for model in several})
    of = f"{' and '.join(map(_of, numbers))} in {count} arrangement{'s' * (count > 1)}"
    return f"{', '.join(plain)} against {of}" if plain else of


def findings(facts: Facts, of_text: str) -> Iterator[str]:
    """The findings as sentences, each from its numbers, every arrangement in each."""
    models, base = facts.pretrained, facts.baseline("")
    counts = dict.fromkeys(scaled(count) for count in sorted(m.checkpoint.parameters for m in models))
    parameters = " to ".join([*counts][:: max(1, len(counts) - 1)])
    tokens = scaled(models[0].checkpoint.tokens)
    yield f"{len(models)} models of {parameters} parameters, trained on {tokens} tokens{of_text}."
    theirs = known(base.evaluation.bits_per_byte) if base and base.evaluation else None
    shares = [
        f"{label(model, models)} {percent(abs(mine / theirs - 1))} {'more' if mine > theirs else 'fewer'}"
        for model in models
        if theirs and model is not base and model.evaluation and (mine := known(model.evaluation.bits_per_byte))
    ]
    if shares:
        yield f"Bits per byte of unseen text, against {_of(1)}: {_listed(shares)}."
    rows = [(model, row) for model in models if (row := facts.best_row(model))]
    if rows:
        speeds = [f"{label(model, models)} {times(row.speedup)}" for model, row in rows]
        same = (
            "with the same output, token for token"
            if all(row.lossless for _, row in rows)
            else "but NOT with the same output"
        )
        yield f"Speed of decoding, over next-token decoding of the same model: {_listed(speeds)}, {same}."


def _row(facts: Facts, model: Model, base: Model | None) -> list[str]:
    beside = more_parameters(model, base) if base else None
    mine, theirs = (known(m.evaluation.bits_per_byte) if m and m.evaluation else None for m in (model, base))
    half_width = half_width_over_windows(model.windows, base.windows) if base else None
    change = None if model is base else difference(mine, theirs, 4, half_width=half_width)
    best = facts.best_row(model)
    decoding = [NONE] * 3
    if best:
        at = note(f"k = {best.k}" if best.lossless else f"k = {best.k}, NOT the same output")
        decoding = [
            join((times(best.speedup), at), " "),
            decimal(best.tokens_per_forward, 2),
            whole(best.tokens_per_second),
        ]
    return [
        label(model, facts.pretrained),
        join((whole(model.checkpoint.parameters), beside), " "),
        join((decimal(mine, 4), change), " "),
        *decoding,
    ]


def _in_paper(model: Model) -> bool:
    return model.n == (4 if model.arrangement else 1) and model.arrangement in paper.ARRANGEMENTS


def _paper(model: Model) -> list[str]:
    """Its pass@1 in the paper, with the difference to n = 1 there."""
    if not _in_paper(model):
        return [NONE, NONE]
    pairs = zip(paper.ARRANGEMENTS[model.arrangement], paper.ARRANGEMENTS[""], strict=True)
    return [
        join((f"{decimal(mine, 1)} %", difference(mine, one, 1) if model.arrangement else None), " ")
        for mine, one in pairs
    ]


def _of(n: int) -> str:
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1])] * (len(parts) > 1) + parts[-1:])
