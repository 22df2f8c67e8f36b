"""The parts of the page on training: comparison table, loss curves, scores by head."""

import math
from collections.abc import Callable, Sequence

from components.artifacts import CompletionScore
from components.report.charts import Axes, Series, line_chart
from components.report.facts import Facts, Model, arrangement_words, known
from components.report.intervals import half_width_over_windows
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


def colour(index: int) -> str:
    """The colour of the index-th model, the same in every figure."""
    return f"var(--s{index % 6})"


def comparison(facts: Facts) -> Markup:
    """All pretrained models side by side, with their cost; of a scaling study a table for each size."""
    scored = next((m.evaluation for m in facts.pretrained if m.evaluation), None)
    items = next((e.line_completion for m in facts.pretrained if (e := m.evaluation) and e.line_completion), None)
    words = [f"Small figures: against {_base(facts.by_size[0]).heads}."]
    if scored:
        words.append(f"Scored on {whole(scored.tokens)} tokens of the test split, which no training or tuning read.")
    if items:
        share = (items.exact_match * items.items + 2) / (items.items + 4)  # Agresti-Coull: no false 0 at the ends
        error = math.sqrt(share * (1 - share) / (items.items + 4))
        words.append(
            f"Lines: {items.items} code lines cut after their beginning, completed greedily; the standard error of an "
            f"exact-match share is about {decimal(100 * error, 1)} points."
        )
    windows = max((len(model.windows) for model in facts.pretrained), default=0)
    if any(half_width_over_windows(m.windows, _base(models).windows) for models in facts.by_size for m in models):
        words.append(
            f"±: the 95 % interval over {windows} windows of test text, the same for every n: what other text would "
            "change, and not what another seed would."
        )
    words.append("Times are of trainings that ran side by side where the machine had room: FLOPs compare better.")
    words.append(seeds(facts))
    return section(
        "comparison",
        "Side by side" if facts.config.arrangements else f"{_versus(facts.by_size[0])}, side by side",
        *(part for models in facts.by_size for part in (of_size(models), _comparison(models))),
        paragraph(" ".join(words), class_="caption"),
    )


def of_size(models: Sequence[Model]) -> Markup | None:
    """A heading over what is said of the models of one size in a scaling study."""
    return tag("h3", models[0].size) if models[0].size else None


def _base(models: Sequence[Model]) -> Model:
    """The model that the others of its size are set against."""
    return next((model for model in models if model.n == 1), models[0])


def _comparison(models: Sequence[Model]) -> Markup:
    base = _base(models)

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
            beside = None if model is base else difference(mine, theirs, digits, share)
            return join((show(mine, digits), beside), " ")

        return cell

    def bits(model: Model) -> str:
        mine, theirs = (known(m.evaluation.bits_per_byte) if m.evaluation else None for m in (model, base))
        half_width = half_width_over_windows(model.windows, base.windows)
        beside = None if model is base else difference(mine, theirs, 4, half_width=half_width)
        return join((decimal(mine, 4), beside), " ")

    def line(model: Model) -> CompletionScore | None:
        return model.evaluation.line_completion if model.evaluation else None

    rows = [
        row("Parameters", lambda m: join((whole(m.checkpoint.parameters), more_parameters(m, base)), " ")),
        row("Layers", _layers),
        row("Training tokens", lambda m: whole(m.checkpoint.tokens)),
        row("Steps", lambda m: whole(m.checkpoint.steps)),
        row("Training FLOPs", relative(lambda m: m.checkpoint.training_flops, scientific)),
        row("Training time", relative(lambda m: m.checkpoint.training_seconds, duration)),
        row("Threads", lambda m: whole(m.checkpoint.training_threads)),
        row("Bits per byte", bits),
        row("Next-token loss", quality(lambda m: m.evaluation.heads[0].loss if m.evaluation else None, 4)),
        row("Next-token top-1", quality(lambda m: m.evaluation.heads[0].top1 if m.evaluation else None, 2, True)),
    ]
    if any(line(model) for model in models):
        rows += [
            row("Lines completed exactly", quality(lambda m: s.exact_match if (s := line(m)) else None, 1, True)),
            row("Edit similarity of lines", quality(lambda m: s.edit_similarity if (s := line(m)) else None, 3)),
        ]
    return table(["", *(m.heads for m in models)], rows, "wide")


def difference(
    mine: float | None, theirs: float | None, digits: int, share: bool = False, half_width: float | None = None
) -> Markup | None:
    """How much more or less than the baseline's, with its sign and its interval if there is one; None where one of
    them was not measured."""
    if mine is None or theirs is None:
        return None
    text = f"{decimal(100 * (mine - theirs), digits)} points" if share else decimal(mine - theirs, digits)
    interval = "" if half_width is None else f" ± {decimal(half_width, digits)}"
    return note((text if text.startswith("−") else f"+{text}") + interval)


def seeds(facts: Facts) -> str:
    """How far the differences can be trusted."""
    if len(facts.seeds) > 1:
        return f"Seeds: {', '.join(map(str, facts.seeds))}."
    seed = f" ({facts.seeds[0]})" if facts.seeds else ""
    return f"One seed{seed} for each model: another seed moves these numbers too, by an amount not measured here."


def _versus(models: Sequence[Model]) -> str:
    names = [model.heads for model in models]
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def more_parameters(model: Model, base: Model) -> Markup | None:
    """Parameters more or fewer than the baseline has."""
    difference = model.checkpoint.parameters - base.checkpoint.parameters
    if not difference:
        return None
    share = percent(abs(difference) / base.checkpoint.parameters)
    return note(f"{'+' if difference > 0 else '−'}{whole(abs(difference))} ({share})")


def _layers(model: Model) -> str:
    layers, n = model.shape.get("layers"), model.n
    if layers is None:
        return NONE
    match model.shape.get("arrangement"):
        case "replicated":
            words = f"and {n} unembedding{'s' * (n > 1)}"
        case "linear":
            words = "" if n == 1 else "and a matrix" if n == 2 else f"and {n - 1} matrices"
        case kind:
            layers += n - 1 if model.shape.get("extra_layers") else 0
            words = f"{layers - n} trunk + {n} head{'s' * (n > 1)}"
            words += " in a chain" if kind in ("causal", "anticausal") and n > 1 else ""
    return join((str(layers), note(words) if words else None), " ")


def loss_curves(facts: Facts) -> Markup | None:
    """Training loss of every head, a chart per model on one scale."""
    figures = _head_curves(facts, "loss", "training-loss")
    if not figures:
        return None
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


def heldout_curves(facts: Facts) -> Markup | None:
    """What looks at held-out text while training found: loss of every head, a chart per model, and tokens per forward
    of all models in one (the paper's Figure S12)."""
    figures = _head_curves(facts, "heldout/loss", "held-out-loss-while-training")
    if not figures:
        return None
    several = [
        Series(f"{model.name}  {points[-1][1]:.2f}", points, colour(facts.place(model)), dots=True)
        for model in facts.pretrained
        if model.n > 1 and (points := _curve(model, "heldout/tokens_per_forward"))
    ]
    if several:
        chart = line_chart("tokens-per-forward-while-training", several, Axes("step", "tokens per forward"))
        figures.append(tag("figure", tag("figcaption", "Tokens per forward, all heads"), chart))
    return section(
        "held-out-while-training",
        "Held-out text while training",
        tag("div", *figures, class_="figures"),
        paragraph(
            "The same windows of the validation split each time. Tokens per forward: led along that text, what "
            "self-speculative decoding with all heads would accept, the token of head 1 counted in.",
            class_="caption",
        ),
    )


def _head_curves(facts: Facts, measure: str, name: str) -> list[Markup]:
    """A measure of every head over training steps, a chart per model on one scale."""
    curves = {
        model.key: [_curve(model, f"{measure}/head_{i}") for i in range(1, model.n + 1)] for model in facts.pretrained
    }
    everything = [points for heads in curves.values() for points in heads if points]
    if not everything:
        return []
    low = min(y for points in everything for _, y in points)
    # The first twentieth of training falls from log V so steeply that it would flatten all the rest.
    high = max(points[len(points) // 20][1] for points in everything)
    y_range = (low - 0.04 * (high - low), high + 0.02 * (high - low)) if high > low else None
    figures = []
    for model in facts.pretrained:
        shown = [h for h in range(1, model.n + 1) if model.n <= 8 or h in (1, 2, 4, 8, 16, 32, model.n)]
        mine, index = curves[model.key], facts.place(model)
        series = [
            Series(f"head {h}  {mine[h - 1][-1][1]:.2f}", mine[h - 1], colour(index), _fading(h, model.n))
            for h in shown
            if mine[h - 1]
        ]
        base = facts.baseline(model.size)
        if base is not None and model is not base and (line := curves[base.key][0]):
            series.append(Series(f"{base.heads}  {line[-1][1]:.2f}", line, colour(0), dashed=True))
        if series:
            chart_name = f"{name}-{model.key.replace('/', '-')}"
            chart = line_chart(chart_name, series, Axes("step", "loss, nats per token", None, y_range, 3))
            figures.append(tag("figure", tag("figcaption", model.name), chart))
    return figures


def _curve(model: Model, key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in model.history if known(row.get(key)) is not None]


def _fading(head: int, n: int) -> float:
    """Further heads are paler."""
    return 1.0 - 0.62 * (head - 1) / max(1, n - 1)


def heads(facts: Facts) -> Markup | None:
    """Held-out loss and top-1 by head: two charts and a table, for each size."""
    blocks = [part for models in facts.by_size if (block := _heads(models)) for part in (of_size(models), *block)]
    if not blocks:
        return None
    return section(
        "heads",
        "How far ahead the heads see",
        *blocks,
        paragraph("Held-out text, every head on equally many targets.", class_="caption"),
    )


def _heads(models: Sequence[Model]) -> tuple[Markup | None, Markup] | None:
    scored = [(i, m, m.evaluation.heads) for i, m in enumerate(models) if m.evaluation]
    most = max((len(scores) for _, _, scores in scored), default=0)
    if not most:
        return None
    figures = []
    if most > 1:
        ticks = _head_ticks(most)
        after = f"-{models[0].size}" if models[0].size else ""
        room = 150 if any(m.arrangement for m in models) else 62
        for name, unit, factor, digits in (("loss", "loss, nats per token", 1, 3), ("top1", "top-1, %", 100, 1)):
            series = [
                Series(
                    label(m, models),
                    [(h, factor * getattr(s, name)) for h, s in enumerate(scores, 1)],
                    colour(i),
                    dots=True,
                )
                for i, m, scores in scored
            ]
            title = "Loss" if name == "loss" else "Top-1 accuracy"
            axes = Axes("tokens ahead", unit, ticks, None, digits)
            chart = line_chart(f"held-out-{name}-by-head{after}", series, axes, room)
            figures.append(tag("figure", tag("figcaption", title), chart))
    rows = []
    for h in range(most):
        cells = []
        for _, _, scores in scored:
            cells += [decimal(scores[h].loss, 4), percent(scores[h].top1)] if h < len(scores) else [NONE, NONE]
        rows.append([f"{h + 1} ahead", *cells])
    head = ["", *(f"{m.heads} {what}" for _, m, _ in scored for what in ("loss", "top-1"))]
    return tag("div", *figures, class_="figures") if figures else None, table(head, rows)


def label(model: Model, models: Sequence[Model]) -> str:
    """Its heads; in a study of arrangements of one n without that n, which all have."""
    alike = {m.n for m in models if m.arrangement} == {model.n}
    return arrangement_words(model.arrangement, model.n) if model.arrangement and alike else model.heads


def _head_ticks(most: int) -> list[float]:
    step = 1 if most <= 10 else 4
    return [h for h in range(1, most + 1) if h == 1 or h % step == 0]
