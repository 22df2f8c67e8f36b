"""The parts of the page on quality: comparison table, loss curves, scores by head, fine-tuning, completions."""

import math
from collections.abc import Callable, Sequence

from components.artifacts import CompletionScore
from components.report.charts import Axes, Series, line_chart
from components.report.facts import Facts, Model, known
from components.report.markup import (
    NONE,
    Markup,
    decimal,
    duration,
    join,
    note,
    paragraph,
    percent,
    scientific,
    section,
    table,
    tag,
    times,
    whole,
)

SHOWN_COMPLETIONS = 4


def colour(index: int) -> str:
    """The colour of the index-th model, the same in every figure."""
    return f"var(--s{index % 5})"


def comparison(facts: Facts) -> Markup:
    """All pretrained models side by side, with their cost."""
    models = facts.pretrained
    base = facts.baseline or models[0]

    def row(name: str, cell: Callable[[Model], str]) -> list[str]:
        return [name, *(cell(model) for model in models)]

    def relative(value: Callable[[Model], float], show: Callable[[float], str]) -> Callable[[Model], str]:
        def cell(model: Model) -> str:
            beside = None if model is base else note(times(value(model) / value(base)) if value(base) else NONE)
            return join((show(value(model)), beside), " ")

        return cell

    def quality(value: Callable[[Model], float | None], digits: int, share: bool = False) -> Callable[[Model], str]:
        show = percent if share else decimal

        def cell(model: Model) -> str:
            mine, theirs = known(value(model)), known(value(base))
            beside = None
            if model is not base and mine is not None and theirs is not None:
                difference = (
                    f"{decimal(100 * (mine - theirs), digits)} points" if share else decimal(mine - theirs, digits)
                )
                beside = note(difference if difference.startswith("−") else f"+{difference}")
            return join((show(mine, digits), beside), " ")

        return cell

    def line(model: Model) -> CompletionScore | None:
        return model.evaluation.line_completion if model.evaluation else None

    rows = [
        row("Parameters", lambda m: join((whole(m.checkpoint.parameters), _difference(m, base)), " ")),
        row("Layers", _layers),
        row("Training tokens", lambda m: whole(m.checkpoint.tokens)),
        row("Steps", lambda m: whole(m.checkpoint.steps)),
        row("Training FLOPs", relative(lambda m: m.checkpoint.training_flops, scientific)),
        row("Training time", relative(lambda m: m.checkpoint.training_seconds, duration)),
        row("Threads", lambda m: whole(m.checkpoint.training_threads)),
        row("Bits per byte", quality(lambda m: m.evaluation.bits_per_byte if m.evaluation else None, 4)),
        row("Next-token loss", quality(lambda m: m.evaluation.heads[0].loss if m.evaluation else None, 4)),
        row("Next-token top-1", quality(lambda m: m.evaluation.heads[0].top1 if m.evaluation else None, 2, True)),
    ]
    if any(line(model) for model in models):
        rows += [
            row("Lines completed exactly", quality(lambda m: s.exact_match if (s := line(m)) else None, 1, True)),
            row("Edit similarity of lines", quality(lambda m: s.edit_similarity if (s := line(m)) else None, 3)),
        ]
    scored = next((m.evaluation for m in models if m.evaluation), None)
    items = next((s for m in models if (s := line(m))), None)
    words = [f"Small figures: against {base.name}."]
    if scored:
        words.append(f"Scored on {whole(scored.tokens)} tokens of the test split, which no training or tuning read.")
    if items:
        share = (items.exact_match * items.items + 2) / (items.items + 4)  # Agresti-Coull: no false 0 at the ends
        error = math.sqrt(share * (1 - share) / (items.items + 4))
        words.append(
            f"Lines: {items.items} code lines cut after their beginning, completed greedily; the standard error of an "
            f"exact-match share is about {decimal(100 * error, 1)} points."
        )
    words.append("Times are of trainings that ran side by side where the machine had room: FLOPs compare better.")
    words.append(seeds(facts))
    return section(
        "comparison",
        f"{_versus(models)}, side by side",
        table(["", *(m.name for m in models)], rows, "wide"),
        paragraph(" ".join(words), class_="caption"),
    )


def seeds(facts: Facts) -> str:
    """How far the differences can be trusted."""
    if len(facts.seeds) > 1:
        return f"Seeds: {', '.join(map(str, facts.seeds))}."
    seed = f" ({facts.seeds[0]})" if facts.seeds else ""
    return f"One seed{seed} for each model: another seed moves these numbers too, by an amount not measured here."


def _versus(models: Sequence[Model]) -> str:
    names = [model.name for model in models]
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def _difference(model: Model, base: Model) -> Markup | None:
    """Parameters more or fewer than the baseline has."""
    difference = model.checkpoint.parameters - base.checkpoint.parameters
    if not difference:
        return None
    share = percent(abs(difference) / base.checkpoint.parameters)
    return note(f"{'+' if difference > 0 else '−'}{whole(abs(difference))} ({share})")


def _layers(model: Model) -> str:
    layers = model.shape.get("layers")
    if layers is None:
        return NONE
    if model.replicated:
        return join((str(layers), note(f"and {model.n} unembedding{'s' * (model.n > 1)}")), " ")
    return join((str(layers), note(f"{layers - model.n} trunk + {model.n} head{'s' * (model.n > 1)}")), " ")


def loss_curves(facts: Facts) -> Markup | None:
    """Training loss of every head, a chart per model on one scale."""
    curves = {model.n: [_curve(model, i) for i in range(1, model.n + 1)] for model in facts.pretrained}
    everything = [points for heads in curves.values() for points in heads if points]
    if not everything:
        return None
    low = min(y for points in everything for _, y in points)
    # The first twentieth of training falls from log V so steeply that it would flatten all the rest.
    high = max(points[len(points) // 20][1] for points in everything)
    y_range = (low - 0.04 * (high - low), high + 0.02 * (high - low)) if high > low else None
    base = facts.baseline
    figures = []
    for index, model in enumerate(facts.pretrained):
        shown = [h for h in range(1, model.n + 1) if model.n <= 8 or h in (1, 2, 4, 8, 16, 32, model.n)]
        series = [
            Series(
                f"head {h}  {curves[model.n][h - 1][-1][1]:.2f}",
                curves[model.n][h - 1],
                colour(index),
                _fading(h, model.n),
            )
            for h in shown
            if curves[model.n][h - 1]
        ]
        if base is not None and model is not base and curves[1][0]:
            series.append(Series(f"{base.name}  {curves[1][0][-1][1]:.2f}", curves[1][0], colour(0), dashed=True))
        if series:
            chart = line_chart(
                f"training-loss-n{model.n}", series, Axes("step", "loss, nats per token", None, y_range, 3)
            )
            figures.append(tag("figure", tag("figcaption", model.name), chart))
    return section(
        "training",
        "Training loss of every head",
        tag("div", *figures, class_="figures"),
        paragraph(
            "Head i predicts the token i ahead; head 1 is the next-token head. Labels give the last logged value. "
            "The scale starts after the first twentieth of training.",
            class_="caption",
        ),
    )


def _curve(model: Model, head: int) -> list[tuple[float, float]]:
    key = f"loss/head_{head}"
    return [(row["step"], row[key]) for row in model.history if known(row.get(key)) is not None]


def _fading(head: int, n: int) -> float:
    """Further heads are paler."""
    return 1.0 - 0.62 * (head - 1) / max(1, n - 1)


def heads(facts: Facts) -> Markup | None:
    """Held-out loss and top-1 by head: two charts and a table."""
    scored = [(i, m, m.evaluation.heads) for i, m in enumerate(facts.pretrained) if m.evaluation]
    most = max((len(scores) for _, _, scores in scored), default=0)
    if not most:
        return None
    figures = []
    if most > 1:
        ticks = _head_ticks(most)
        for name, label, factor, digits in (("loss", "loss, nats per token", 1, 3), ("top1", "top-1, %", 100, 1)):
            series = [
                Series(m.name, [(h, factor * getattr(s, name)) for h, s in enumerate(scores, 1)], colour(i), dots=True)
                for i, m, scores in scored
            ]
            title = "Loss" if name == "loss" else "Top-1 accuracy"
            chart = line_chart(f"held-out-{name}-by-head", series, Axes("tokens ahead", label, ticks, None, digits), 62)
            figures.append(tag("figure", tag("figcaption", title), chart))
    rows = []
    for h in range(most):
        cells = []
        for _, _, scores in scored:
            cells += [decimal(scores[h].loss, 4), percent(scores[h].top1)] if h < len(scores) else [NONE, NONE]
        rows.append([f"{h + 1} ahead", *cells])
    head = ["", *(f"{m.name} {what}" for _, m, _ in scored for what in ("loss", "top-1"))]
    return section(
        "heads",
        "How far ahead the heads see",
        tag("div", *figures, class_="figures") if figures else None,
        table(head, rows),
        paragraph("Held-out text, every head on equally many targets.", class_="caption"),
    )


def _head_ticks(most: int) -> list[float]:
    step = 1 if most <= 10 else 4
    return [h for h in range(1, most + 1) if h == 1 or h % step == 0]


def finetuning(facts: Facts, words_of_the_paper: str) -> Markup | None:
    """Fine-tuned models against each other."""
    if not facts.finetuned:
        return None
    rows = []
    for model in facts.finetuned:
        evaluation, body = model.evaluation, model.evaluation.body_completion if model.evaluation else None
        rows.append(
            [
                model.name,
                decimal(evaluation.heads[0].loss if evaluation else None, 4),
                percent(evaluation.heads[0].top1 if evaluation else None),
                decimal(body.edit_similarity if body else None, 3),
                percent(body.exact_match if body else None),
                duration(model.checkpoint.training_seconds),
            ]
        )
    scored = next((m.evaluation for m in facts.finetuned if m.evaluation), None)
    body = scored.body_completion if scored else None
    size = f" Loss on {whole(scored.tokens)} body tokens" if scored else ""
    size += f", similarity over {body.items} generated bodies." if body else "." if size else ""
    return section(
        "finetuning",
        "Fine-tuned: from signature and docstring to the body",
        table(
            ["Heads: pretrained → fine-tuned", "Body loss", "Top-1", "Edit similarity", "Exact", "Training time"], rows
        ),
        paragraph(f"Test pairs only.{size}", class_="caption"),
        paragraph(words_of_the_paper, class_="caption"),
    )


def completions(facts: Facts) -> Markup | None:
    """What the models wrote for the same cut lines."""
    by_model = [(m, {item["id"]: item for item in m.completions}) for m in facts.pretrained]
    ids = [name for name in by_model[0][1] if all(name in items for _, items in by_model)] if by_model else []
    if not ids:
        return None
    figures = []
    for name in ids[:: max(1, len(ids) // SHOWN_COMPLETIONS)][:SHOWN_COMPLETIONS]:
        item = by_model[0][1][name]
        lines = [_written("true", item["truth"], None)]
        for model, items in by_model:
            made = items[name]["generated"]
            lines.append(_written(model.name, made, "same" if made == item["truth"] else None))
        before = "\n".join(item["prompt"].split("\n")[-3:])
        figures.append(tag("figure", tag("pre", before, tag("span", "▏", class_="cut")), *lines, class_="completion"))
    return section(
        "completions",
        "Lines they completed",
        *figures,
        paragraph(
            f"{len(figures)} of {len(ids)} lines, taken at equal distances in the list, not chosen.", class_="caption"
        ),
    )


def _written(who: str, text: str, class_: str | None) -> Markup:
    return tag("div", tag("span", who, class_="who"), tag("code", text or " ", class_=class_))
