"""The parts of the page on decoding: speed-up, tokens per forward, acceptance, samples, and the paper's figures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from components.artifacts import DecodingRow
from components.report import paper
from components.report.charts import Axes, Series, line_chart
from components.report.facts import Decoded, Facts, known
from components.report.markup import (
    Markup,
    decimal,
    note,
    paragraph,
    percent,
    section,
    table,
    tag,
    times,
    whole,
)
from components.report.training_sections import colour

SHOWN_SAMPLES = 3
"""Over all models, but at least one of each."""


def decoding(facts: Facts) -> Markup | None:
    """What the extra heads buy when generating, a block per model."""
    blocks = [_block(facts, decoded) for decoded in facts.decoded if decoded.benchmark.rows]
    return section("decoding", "Decoding faster with the extra heads", *blocks) if blocks else None


def _block(facts: Facts, decoded: Decoded) -> Markup:
    n, rows = decoded.n, decoded.benchmark.rows
    index = facts.place(decoded)
    chart_of = "-".join(part for part in (decoded.size, decoded.arrangement, f"n{n}") if part)
    published = paper.decoding_for(n, (facts.tokenizer or {}).get("kind"))
    smallest = min(row.batch for row in rows)
    ks = sorted({row.k for row in rows} | {1})
    beside = [(k, pair) for k, pair in published.by_k.items() if k <= max(ks)]

    speed = [
        Series(f"batch {batch}", points, colour(index), 1 - 0.25 * i, dots=True, spread=spread)
        for i, batch in enumerate(sorted({row.batch for row in rows}))
        for points, spread in [_speedups([row for row in rows if row.batch == batch])]
    ]
    speed.append(Series("paper, 7B", [(k, pair[1]) for k, pair in beside], "var(--muted)", 0.8, True))
    first = [row for row in rows if row.batch == smallest]
    forward = [
        Series("generated", _with_one([(r.k, r.tokens_per_forward) for r in first]), colour(index), dots=True),
        Series(
            "held-out",
            _with_one(_known((r.k, r.tokens_per_forward_heldout) for r in first)),
            colour(index),
            0.55,
            dots=True,
        ),
        Series("paper, 7B", [(k, pair[0]) for k, pair in beside], "var(--muted)", 0.8, True),
    ]
    forward = [series for series in forward if len(series.points) > 1]
    widest = max((row for row in first if len(row.acceptance) > 1), key=lambda row: row.k, default=None)
    x_ticks = [k for k in ks if max(ks) <= 10 or k == 1 or k % 4 == 0]
    figures = [
        (
            "Speed-up by heads used",
            line_chart(f"speed-up-{chart_of}", speed, Axes("heads used, k", "× next-token decoding", x_ticks)),
        ),
        (
            "Tokens per forward",
            line_chart(f"tokens-per-forward-{chart_of}", forward, Axes("heads used, k", "tokens", x_ticks)),
        ),
    ]
    if widest is not None:
        points = [(j, 100 * share) for j, share in enumerate(widest.acceptance, 1)]
        series = [Series(f"k = {widest.k}", points, colour(index), dots=True)]
        axes = Axes("drafted tokens accepted, at least", "% of steps", [x for x, _ in points], (0, 100), 1)
        figures.append(("Acceptance by position", line_chart(f"acceptance-{chart_of}", series, axes, 62)))
    if len({row.batch for row in rows}) > 1:
        figures += _by_batch(chart_of, colour(index), [*rows, *decoded.benchmark.adaptive])
    return tag(
        "div",
        tag("h3", decoded.name),
        tag(
            "div",
            *(tag("figure", tag("figcaption", name), chart) for name, chart in figures),
            paragraph(_explain(rows, bool(decoded.benchmark.adaptive)), class_="caption"),
            class_="figures",
        ),
        _table(rows, decoded.benchmark.adaptive),
        _beside_the_paper(rows, published),
    )


def _by_batch(chart_of: str, line: str, rows: Sequence[DecodingRow]) -> list[tuple[str, Markup]]:
    """Throughput and latency by batch (the paper's Figure S10): next-token decoding, and the k that is fastest."""
    batches = sorted({row.batch for row in rows})

    def series(figure: Callable[[DecodingRow], float]) -> list[Series]:
        plain = [(row.batch, figure(row)) for row in rows if row.k == 1]
        fastest = [
            max((row for row in rows if row.batch == batch), key=lambda row: row.tokens_per_second) for batch in batches
        ]
        return [
            Series("fastest k", [(row.batch, figure(row)) for row in fastest], line, dots=True),
            Series("next token", sorted(plain), line, 0.55, dots=True),
        ]

    figures = [
        ("Throughput by batch", "tokens/s", 0, series(lambda row: row.tokens_per_second)),
        ("Latency by batch", "s from reading a prompt to its last token", 2, series(lambda row: row.row_seconds)),
    ]
    return [
        (name, line_chart(f"{name.split()[0].lower()}-{chart_of}", lines, Axes("batch", unit, batches, digits=digits)))
        for name, unit, digits, lines in figures
        if all(known(y) is not None for line in lines for _, y in line.points)
    ]


def _speedups(rows: Sequence[DecodingRow]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Points by k and their spread; next-token decoding is 1 by definition."""
    drafting = sorted((row for row in rows if row.k > 1), key=lambda row: row.k)
    points = [(1.0, 1.0), *((float(row.k), row.speedup) for row in drafting)]
    return points, [(1.0, 1.0), *((row.speedup_low, row.speedup_high) for row in drafting)]


def _with_one(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(1.0, 1.0), *sorted(point for point in points if point[0] > 1)]


def _known(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if known(y) is not None]


def _table(rows: Sequence[DecodingRow], adaptive: Sequence[DecodingRow]) -> Markup:
    dtypes = {row.dtype for row in rows}
    head = [
        "k",
        "Batch",
        "Tokens per forward",
        "… held-out",
        "Step cost r",
        "Speed-up",
        "Tokens/s",
        "Repeated 4-grams",
        "Same output",
    ]
    body = []
    entries = [*((False, row) for row in rows), *((True, row) for row in adaptive)]
    for chosen, row in sorted(entries, key=lambda entry: (entry[1].dtype, entry[1].batch, entry[0], entry[1].k)):
        speed = (
            "1 (baseline)"
            if row.k == 1
            else tag(
                "span",
                tag("b", times(row.speedup)),
                " ",
                note(f"{decimal(row.speedup_low, 2)} to {decimal(row.speedup_high, 2)}"),
            )
        )
        body.append(
            [
                (f"chosen, up to {row.k}" if chosen else f"{row.k}") + (f", {row.dtype}" if len(dtypes) > 1 else ""),
                str(row.batch),
                decimal(row.tokens_per_forward, 2),
                decimal(row.tokens_per_forward_heldout, 2),
                decimal(row.r, 2),
                speed,
                whole(row.tokens_per_second),
                percent(row.repeated_4grams),
                tag("span", "yes", class_="yes") if row.lossless else tag("span", "NO", class_="no"),
            ]
        )
    return table(head, body)


def _explain(rows: Sequence[DecodingRow], chosen: bool) -> str:
    dtypes = " and ".join(sorted({row.dtype for row in rows}))
    repeats = max(row.repeated_4grams for row in rows)
    too = " and of a cache-free full forward" if dtypes == "float32" else ""
    same = (
        f"Every arm gave, token for token, the output of next-token decoding{too}."
        if all(row.lossless for row in rows)
        else "NOT every arm gave the output of next-token decoding: do not use the speed of those that did not."
    )
    return (
        f"{same} Arithmetic: {dtypes}. Speed-up is measured tokens per second over next-token decoding by the same "
        f"engine, median and range over repeats; r is the time of a step over that of a next-token step. Up to "
        f"{percent(repeats)} of the generated 4-grams repeat an earlier one of the same text: loops are easy to draft "
        f"and flatter the tokens per forward. The held-out column has none: it asks what the same heads would have had "
        f"accepted on real text."
        + (" Rows with a chosen k take before every step the number of heads that has paid so far." if chosen else "")
    )


def _beside_the_paper(rows: Sequence[DecodingRow], published: paper.Decoding) -> Markup | None:
    smallest = min(row.batch for row in rows)
    mine: Mapping[int, DecodingRow] = {row.k: row for row in rows if row.batch == smallest and row.k > 1}
    shared = [k for k in sorted(mine) if k in published.by_k]
    if not shared:
        return None
    body = [
        [
            f"k = {k}",
            decimal(published.by_k[k][0], 2),
            decimal(mine[k].tokens_per_forward, 2),
            times(published.by_k[k][1]),
            times(mine[k].speedup),
            decimal(published.by_k[k][0] / published.by_k[k][1], 2),
            decimal(mine[k].r, 2),
        ]
        for k in shared
    ]
    return tag(
        "div",
        tag("h4", f"Beside the paper's {published.table}"),
        table(
            ["", "Tokens per forward, paper", "here", "Speed-up, paper", "here", "Step cost, paper", "here"],
            body,
        ),
        paragraph(
            f"Paper: {published.model}, {published.setting}, on GPUs; its step cost is tokens per forward over "
            f"speed-up. Here: batch {smallest}. Comparable: what is counted, and that the output stays the same. Not "
            f"comparable: a 7B model's drafts are accepted more often than a small one's, and there each extra head "
            f"is a small part of the step while here it is a large one.",
            class_="caption",
        ),
    )


def samples(facts: Facts) -> Markup | None:
    """Generated text, what one forward emitted in one colour."""
    figures = []
    for decoded in facts.decoded:
        for item in decoded.samples[: max(1, SHOWN_SAMPLES // len(facts.decoded))]:
            caption = _caption(decoded.name, item)
            figures.append(tag("figure", tag("figcaption", caption), tag("pre", *_runs(item)), class_="sample"))
    if not figures:
        return None
    return section(
        "samples",
        "What one forward emits",
        paragraph(
            "Grey: the prompt. Each coloured stretch came out of a single forward pass: the drafted tokens that were "
            "accepted, and one more. Where nothing was accepted the one token stands plain."
        ),
        *figures,
    )


def _caption(name: str, item: Mapping[str, Any]) -> str:
    runs = [_run(run) for run in item["runs"]]
    counts = [count for _, count in runs if count is not None]
    if not counts:
        return f"{name}: {len(runs)} forwards"
    return f"{name}: {sum(counts)} tokens in {len(counts)} forwards"


def _runs(item: Mapping[str, Any]) -> Iterable[Markup]:
    yield tag("span", item["prompt"], class_="prompt")
    coloured = 0
    for text, count in map(_run, item["runs"]):
        if count == 1:
            yield tag("span", text)
            continue
        coloured += 1
        title = f"{count} tokens in one forward" if count else None
        yield tag("span", text, class_=f"run r{coloured % 3}", title=title)


def _run(run: Any) -> tuple[str, int | None]:
    """(text, tokens) of a run; tokens is None where only the text was kept."""
    if isinstance(run, str):
        return run, None
    return str(run["text"]), int(run["tokens"])
