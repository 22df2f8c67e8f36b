"""`index.html`: one file, nothing from outside, the findings first and how they came about last."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from components.artifacts import Evaluation
from components.report import (
    arrangements_section,
    completion_sections,
    decoding_sections,
    paper,
    provenance,
    scaling_section,
    training_sections,
)
from components.report.facts import Facts, Model, known
from components.report.intervals import half_width_over_windows
from components.report.lineage import lineage
from components.report.markup import (
    Markup,
    decimal,
    duration,
    join,
    note,
    paragraph,
    percent,
    scaled,
    section,
    size,
    tag,
    times,
)


def page(facts: Facts) -> str:
    """The whole page. ValueError without a pretrained model: there is nothing to report on."""
    if not facts.pretrained:
        raise ValueError("a report needs at least one pretrained model")
    return document(
        title(facts),
        _header(facts),
        scaling_section.scaling(facts) if facts.config.sizes else None,
        arrangements_section.arrangements(facts) if facts.config.arrangements else None,
        training_sections.comparison(facts),
        decoding_sections.decoding(facts),
        decoding_sections.samples(facts),
        training_sections.loss_curves(facts),
        training_sections.heldout_curves(facts),
        training_sections.heads(facts),
        completion_sections.finetuning(facts, paper.SUMMARIZATION if facts.given_pairs else paper.FINETUNING),
        completion_sections.completions(facts),
        provenance.beside_the_paper(facts),
        provenance.data(facts),
        section("lineage", "How this page came about", lineage(facts.steps)) if facts.steps else None,
        provenance.warnings(facts),
        provenance.again(facts),
    )


def document(name: str, *content: str | None, renew_seconds: int | None = None) -> str:
    """A page as one file, its style within. `renew_seconds`: after which a browser loads it again."""
    style = Markup(Path(__file__).with_name("style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        None if renew_seconds is None else tag("meta", http_equiv="refresh", content=str(renew_seconds)),
        tag("title", name),
        tag("style", style),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *content)), lang='en')}\n"


def title(facts: Facts) -> str:
    """The title of the recipe, or the models' names against each other."""
    if facts.config.sizes:
        return f"Predicting several tokens at once: {scaling_section.title(facts)}"
    if facts.config.arrangements:
        return f"Predicting several tokens at once: {arrangements_section.title(facts)}"
    names = [model.name for model in facts.pretrained]
    versus = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} against {names[-1]}"
    return f"Predicting several tokens at once: {versus}"


def _header(facts: Facts) -> Markup:
    return tag(
        "header",
        paragraph(f"Headstart, recipe {facts.config.recipe}, {facts.when}", class_="kicker"),
        tag("h1", title(facts)),
        paragraph(join(_findings(facts), " "), class_="lead"),
        tag("div", *_tiles(facts), class_="tiles"),
    )


def _findings(facts: Facts) -> Iterator[str]:
    """The findings as sentences, each from its numbers."""
    first = facts.pretrained[0]
    data = facts.shards or facts.corpus
    of = f" from {size(sum(data['text_bytes'].values()))} of text" if data else ""
    if facts.config.sizes:
        yield from scaling_section.findings(facts, of)
        return
    if facts.config.arrangements:
        yield from arrangements_section.findings(facts, of)
        return
    count = len(facts.pretrained)
    models = ("One model", "Two models", "Three models")[count - 1] if count <= 3 else f"{count} models"
    yield (
        f"{models} of {scaled(first.checkpoint.parameters)} parameters, "
        f"trained on {scaled(first.checkpoint.tokens)} tokens{of}."
    )
    base = facts.baseline(first.size)
    for model in facts.pretrained:
        if base is not None and base.evaluation and model is not base and model.evaluation:
            flops = model.checkpoint.training_flops / base.checkpoint.training_flops
            yield f"{_bits_against(model, base)}, after {times(flops)} its training FLOPs{_unequal(model, base)}."
        best = facts.best_row(model)
        if best is not None:
            same = "with the same output, token for token" if best.lossless else "but NOT with the same output"
            speed = tag("b", f"{times(best.speedup)} the speed")
            yield join(
                (f"With its extra heads {model.name} decodes at", speed, f"of next-token decoding, {same}."), " "
            )


def _bits_against(model: Model, base: Model) -> str:
    """Whose model of the text is better, as far as the windows of text can tell."""
    assert model.evaluation
    assert base.evaluation
    mine, theirs = model.evaluation.bits_per_byte, base.evaluation.bits_per_byte
    half = half_width_over_windows(model.windows, base.windows)
    if half is not None and abs(mine - theirs) <= half:
        return (
            f"{model.name} needs as many bits per byte of unseen text as {base.name}, as far as "
            f"{len(model.windows)} windows of it can tell (to {percent(half / theirs)})"
        )
    word = "more" if mine > theirs else "fewer"
    doubt = "" if half is None else f" (± {decimal(100 * half / theirs, 1)})"
    share = percent(abs(mine / theirs - 1))
    return f"{model.name} needs {share}{doubt} {word} bits per byte of unseen text than {base.name}"


def _unequal(model: Model, base: Model) -> str:
    """What is not equal between the two, in words; empty when parameters and tokens are."""
    difference = model.checkpoint.parameters - base.checkpoint.parameters
    parts = []
    if difference:
        share = percent(abs(difference) / base.checkpoint.parameters)
        parts.append(f"{share} {'more' if difference > 0 else 'fewer'} parameters")
    if model.checkpoint.tokens != base.checkpoint.tokens:
        parts.append(f"{scaled(model.checkpoint.tokens)} tokens instead of {scaled(base.checkpoint.tokens)}")
    return f" and with {' and '.join(parts)}" if parts else ""


def _tiles(facts: Facts) -> Iterator[Markup]:
    rows = [(model, row) for model in facts.pretrained if (row := facts.best_row(model))]
    if rows:
        model, best = max(rows, key=lambda item: item[1].speedup)
        where = f"{model.name}, k = {best.k}, batch {best.batch}, {best.dtype}"
        spread = f"{decimal(best.speedup_low, 2)} to {decimal(best.speedup_high, 2)} over repeats"
        yield _tile(
            times(best.speedup),
            "decoding speed-up" + (", lossless" if best.lossless else ", NOT lossless"),
            f"{where}; {spread}",
        )
        heldout = known(best.tokens_per_forward_heldout)
        beside = f"; {decimal(heldout, 2)} on held-out text" if heldout else ""
        yield _tile(
            decimal(best.tokens_per_forward, 2),
            "tokens per forward",
            f"{percent(best.repeated_4grams)} of generated 4-grams repeat{beside}",
        )
    models = facts.by_size[-1]
    scored = [
        (training_sections.label(m, models) if m.arrangement else m.name, m.evaluation) for m in models if m.evaluation
    ]
    if scored:
        yield _tile(
            decimal(scored[0][1].bits_per_byte, 3),
            f"bits per byte, {scored[0][0]}",
            _others(scored[1:], lambda e: decimal(e.bits_per_byte, 3)),
        )
        lines = [(name, e) for name, e in scored if e.line_completion]
        if lines:
            yield _tile(_exact(lines[0][1]), f"lines completed exactly, {lines[0][0]}", _others(lines[1:], _exact))
    reused = sum(step.reused for step in facts.steps)
    beside = f"{reused} of {len(facts.steps)} stages reused" if reused else "everything ran"
    yield _tile(duration(facts.seconds), "from command to this page", beside if facts.steps else "")


def _others(scored: Sequence[tuple[str, Evaluation]], show: Callable[[Evaluation], str]) -> str:
    return ", ".join(f"{show(evaluation)} for {name}" for name, evaluation in scored)


def _tile(number: str, what: str, beside: str) -> Markup:
    return tag("div", tag("b", number), tag("span", what), note(beside) if beside else None, class_="tile")


def _exact(evaluation: Evaluation) -> str:
    return percent(evaluation.line_completion.exact_match if evaluation.line_completion else None)
