"""The DAG as it ran, a row per stage: rails on the left say what each was made from, words on the right what it was."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.report.facts import Step
from components.report.markup import Markup, duration, scaled, size, tag, whole

ROW = 56
"""Height of a row, as in style.css."""
LANE = 15
BEND = 8


def lanes(steps: Sequence[Step]) -> list[int]:
    """A lane for every step's rail, such that no two rails share a lane on any row."""
    row = {step.name: i for i, step in enumerate(steps)}
    last = list(range(len(steps)))
    for i, step in enumerate(steps):
        for name in step.inputs:
            if name in row:
                last[row[name]] = i
    free_from: list[int] = []
    chosen = []
    for i in range(len(steps)):
        lane = next((lane for lane, row_free in enumerate(free_from) if row_free <= i), len(free_from))
        free_from[lane : lane + 1] = [last[i] + 1]
        chosen.append(lane)
    return chosen


def lineage(steps: Sequence[Step]) -> Markup:
    """Rails and rows. Hovering a rail names both of its ends."""
    row = {step.name: i for i, step in enumerate(steps)}
    lane = lanes(steps)
    width = LANE * (max(lane, default=0) + 1) + 6

    def place(i: int) -> tuple[int, int]:
        return LANE * lane[i] + 9, ROW * i + 19

    rails, dots = [], []
    for i, step in enumerate(steps):
        x, y = place(i)
        for name in step.inputs:
            if name not in row:
                continue
            from_x, from_y = place(row[name])
            turn = BEND if x > from_x else -BEND
            d = f"M{from_x},{from_y}V{y - BEND}Q{from_x},{y} {from_x + turn},{y}H{x}"
            if x == from_x:
                d = f"M{from_x},{from_y}V{y}"
            label = tag("title", f"{steps[row[name]].title} → {step.title}")
            rails.append(tag("path", label, d=d, class_="rail"))
        state = "dot reused" if step.reused else "dot"
        dots.append(tag("circle", tag("title", step.title), cx=x, cy=y, r=5, class_=state))
    height = ROW * len(steps)
    drawing = tag(
        "svg",
        *rails,
        *dots,
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label="which stage was made from which",
    )
    rows = (
        tag(
            "li",
            tag(
                "div",
                tag("b", step.title),
                tag("span", duration(step.seconds), class_="time"),
                tag("span", "reused" if step.reused else "ran", class_="state reused" if step.reused else "state"),
            ),
            tag("div", about(step.artifact), class_="about", title=about(step.artifact)),
        )
        for step in steps
    )
    return tag("div", drawing, tag("ol", *rows), class_="lineage")


def about(artifact: Mapping[str, Any]) -> str:
    """A line on an artifact, told by the fields it has."""
    fields = set(artifact)
    if {"dropped", "text_bytes"} <= fields:
        documents, text = sum(artifact["documents"].values()), sum(artifact["text_bytes"].values())
        return f"{whole(documents)} documents, {size(text)}; {whole(sum(artifact['dropped'].values()))} left out"
    if "bytes_per_token" in fields:
        symbols = f"{artifact['kind']}, {whole(artifact['vocabulary_size'])} symbols"
        return f"{symbols}, {artifact['bytes_per_token']:.2f} bytes a token"
    if {"tokens", "vocabulary_size"} <= fields:
        tokens = artifact["tokens"]
        return f"{scaled(sum(tokens.values()))} tokens, {scaled(tokens.get('train', 0))} to train on"
    if "pairs" in fields:
        return f"{whole(sum(artifact['pairs'].values()))} pairs, {whole(artifact['pairs'].get('train', 0))} to train on"
    if "training_flops" in fields:
        tokens = scaled(artifact["tokens"])
        return f"{scaled(artifact['parameters'])} parameters, {whole(artifact['steps'])} steps, {tokens} tokens"
    if "heads" in fields:
        return f"loss {artifact['heads'][0]['loss']:.3f} on {whole(artifact['tokens'])} tokens"
    if "rows" in fields:
        return f"{len(artifact['rows'])} arms" + (
            ", all lossless" if all(row["lossless"] for row in artifact["rows"]) else ", NOT all lossless"
        )
    return ""
