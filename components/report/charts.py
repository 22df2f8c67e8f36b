"""Line charts as inline SVG: direct labels instead of legends, values on hover, colours from the page's style."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.report.markup import Markup, tag

WIDTH, HEIGHT = 460.0, 280.0
LEFT, TOP, BOTTOM = 44.0, 26.0, 42.0
LINE_GAP = 13.5
"""Least distance between two labels."""
NEAR_THE_END = 0.2
"""Lines that end in so much of the width, from the right, are labelled beside it, others where they end."""
Place = Callable[[float, float], tuple[float, float]]
"""From data to the drawing."""
HOVER_POINTS = 40
MOST_POINTS = 300


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    """A CSS colour, such as var(--s1)."""
    opacity: float = 1.0
    dashed: bool = False
    dots: bool = False
    spread: Sequence[tuple[float, float]] = ()
    """Lowest and highest y of every point."""


@dataclass(frozen=True)
class Axes:
    """How the plane is laid out."""

    x_label: str
    y_label: str
    x_ticks: Sequence[float] | None = None
    """None: round numbers."""
    y_range: tuple[float, float] | None = None
    """None: all points; lines are cut where they leave the range."""
    digits: int = 2
    """Decimals of values on hover."""
    log_x: bool = False
    """Whether equal factors of x are equally far apart; all x are above 0 then."""
    x_names: Sequence[str] = ()
    """What to write at the ticks instead of their numbers; every point must then stand at a tick."""


def line_chart(name: str, series: Sequence[Series], axes: Axes, label_width: float = 92) -> Markup:
    """A chart with the lines' labels at their right ends. `name` (unique in the page) is read out loud."""
    series = [line for line in series if line.points]
    right = WIDTH - label_width
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points] + [y for s in series for pair in s.spread for y in pair]
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    along: Callable[[float], float] = math.log10 if axes.log_x else float
    left, end = along(x_low), along(x_high)
    y_low, y_high = axes.y_range or _padded(min(ys), max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (along(x) - left) / (end - left) * (right - LEFT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    parts: list[Markup] = []
    for y in ticks(y_low, y_high):
        _, py = at(x_low, y)
        parts.append(tag("line", x1=LEFT, x2=right, y1=py, y2=py, class_="grid"))
        parts.append(tag("text", f"{y:g}", x=LEFT - 7, y=py + 4, text_anchor="end"))
    for x in axes.x_ticks if axes.x_ticks is not None else ticks(x_low, x_high, 4):
        px, _ = at(x, y_low)
        parts.append(tag("line", x1=px, x2=px, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4, class_="axis"))
        parts.append(tag("text", _x_text(x, axes), x=px, y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
    bottom = HEIGHT - BOTTOM
    parts.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(tag("text", axes.x_label, x=(LEFT + right) / 2, y=HEIGHT - 6, text_anchor="middle"))
    parts.append(tag("text", axes.y_label, x=0.0, y=12.0))

    frame = f"clip-{name}"
    clip = tag("rect", x=LEFT - 4, y=TOP - 4, width=right - LEFT + 8, height=bottom - TOP + 5)
    parts.append(tag("defs", tag("clipPath", clip, id=frame)))
    drawn = [_draw(line, at, axes) for line in series]
    parts.append(tag("g", *drawn, clip_path=f"url(#{frame})"))
    named = [line for line in series if line.label]
    near = right - NEAR_THE_END * (right - LEFT)
    ending_here = [line for line in named if at(*line.points[-1])[0] >= near and len(line.points) > 1]
    ends = [at(*line.points[-1]) for line in ending_here]
    for line, (px, wish), py in zip(ending_here, ends, spread_out([y for _, y in ends], TOP, bottom), strict=True):
        if abs(py - wish) > 2 or px < right:
            leader = f"M{px + 3:.1f},{wish:.1f}L{right + 8:.1f},{py:.1f}"
            parts.append(tag("path", d=leader, class_="leader", stroke=line.colour))
        parts.append(_label(line, right + 9, py + 4))
    for line in named:
        if line not in ending_here:  # labelled where it ends
            px, py = at(*line.points[-1])
            parts.append(_label(line, px + 8, py + (-6 if py < (TOP + bottom) / 2 else 15)))
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=name.replace("-", " "))


@dataclass(frozen=True)
class Estimated:
    """A row of a chart of estimates."""

    label: str
    value: float
    low: float
    high: float
    colour: str


def estimates_chart(name: str, rows: Sequence[Estimated], x_label: str, digits: int) -> Markup:
    """Estimates with their intervals, a row each, against a line at zero. `name` as in line_chart."""
    left, right, row_height = 130.0, WIDTH - 16, 26.0
    bottom = TOP + row_height * len(rows)
    low, high = _padded(min(0.0, *(row.low for row in rows)), max(0.0, *(row.high for row in rows)))

    def at(x: float) -> float:
        return left + (x - low) / (high - low) * (right - left)

    parts: list[Markup] = []
    for x in ticks(low, high, 4):
        parts.append(tag("line", x1=at(x), x2=at(x), y1=TOP, y2=bottom, class_="grid"))
        parts.append(tag("text", f"{x:g}", x=at(x), y=bottom + 17, text_anchor="middle"))
    parts.append(tag("line", x1=at(0.0), x2=at(0.0), y1=TOP, y2=bottom, class_="axis", stroke_dasharray="5 4"))
    parts.append(tag("text", x_label, x=(left + right) / 2, y=bottom + 36, text_anchor="middle"))
    for place, row in enumerate(rows):
        y = TOP + row_height * (place + 0.5)
        style = f"fill:{row.colour}"
        parts.append(tag("text", row.label, x=left - 10, y=y + 4, text_anchor="end", style=style, class_="label"))
        parts.append(tag("line", x1=at(row.low), x2=at(row.high), y1=y, y2=y, class_="spread", stroke=row.colour))
        title = tag("title", f"{row.label}: {row.value:.{digits}f} ({row.low:.{digits}f} to {row.high:.{digits}f})")
        parts.append(tag("circle", cx=at(row.value), cy=y, r=3.6, fill=row.colour))
        parts.append(tag("circle", title, cx=at(row.value), cy=y, r=9, class_="hover"))
    size = f"0 0 {WIDTH:g} {bottom + 44:g}"
    return tag("svg", *parts, viewBox=size, role="img", aria_label=name.replace("-", " "))


def _label(line: Series, x: float, y: float) -> Markup:
    return tag("text", line.label, x=x, y=y, style=f"fill:{line.colour}", class_="label")


def _draw(line: Series, at: Place, axes: Axes) -> Markup:
    points = _thinned(line.points)
    path = "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in (at(x, y) for x, y in points))
    dash = "5 4" if line.dashed else None
    parts = [tag("path", d=path, class_="line", stroke=line.colour, stroke_dasharray=dash, opacity=line.opacity)]
    for (x, _), (low, high) in zip(line.points, line.spread, strict=False):
        (px, p_low), (_, p_high) = at(x, low), at(x, high)
        parts.append(tag("line", x1=px, x2=px, y1=p_low, y2=p_high, class_="spread", stroke=line.colour))
    shown = points if line.dots else points[:: max(1, len(points) // HOVER_POINTS)]
    for x, y in shown:
        px, py = at(x, y)
        title = tag("title", f"{line.label}, {axes.x_label} {_x_text(x, axes)}: {y:.{axes.digits}f}")
        if line.dots:
            parts.append(tag("circle", cx=px, cy=py, r=3.2, fill=line.colour, opacity=line.opacity))
        parts.append(tag("circle", title, cx=px, cy=py, r=8, class_="hover"))
    return tag("g", *parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def spread_out(wanted: Sequence[float], low: float, high: float, gap: float = LINE_GAP) -> list[float]:
    """Places as near as can be to those wanted, in their order, `gap` apart, within [low, high] where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(1, len(order) - 1))
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.08 or 0.5
    return low - room, high + room


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most MOST_POINTS, means of neighbours; the last point stays."""
    group = -(-len(points) // MOST_POINTS)
    if group == 1:
        return points
    means = [points[i : i + group] for i in range(0, len(points), group)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in means]


def _x_text(x: float, axes: Axes) -> str:
    return axes.x_names[(axes.x_ticks or ()).index(x)] if axes.x_names else _round_number(x)


def _round_number(x: float) -> str:
    return f"{x:,.0f}" if x == int(x) else f"{x:g}"
