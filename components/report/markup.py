"""HTML as strings that escape themselves, and numbers as people read them."""

import html
import math
from collections.abc import Iterable, Sequence

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NONE = "–"
VOID = {"meta", "br", "hr", "line", "circle", "path", "rect", "polyline"}


class Markup(str):
    """HTML that may be put into a page as it stands. Plain strings are escaped where they are put in."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """An element. Attributes: None is left out, `class_` is class, `stroke_width` is stroke-width."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str | None], between: str = "") -> Markup:
    """Parts in a row, plain strings escaped."""
    return Markup(between.join(_inside(part) for part in parts if part is not None))


def _inside(part: str) -> str:
    return part if isinstance(part, Markup) else html.escape(part)


def _short(value: str | float) -> str:
    """Coordinates need no more than two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], class_: str | None = None) -> Markup:
    """A table whose first column names the row; wide ones scroll inside their own box."""
    body = (tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
            tag("tbody", *body),
            class_=class_,
        ),
        class_="scroll",
        tabindex="0",
    )


def section(anchor: str, title: str, *content: str | None) -> Markup:
    """A headed part of the page."""
    return tag("section", tag("h2", title), *content, id=anchor)


def paragraph(*parts: str | None, class_: str | None = None) -> Markup:
    """Text, escaped, and markup in one paragraph."""
    return tag("p", *parts, class_=class_)


def note(text: str) -> Markup:
    """Small and muted, beside the main thing in a cell."""
    return tag("span", text, class_="note")


def decimal(value: float | None, digits: int) -> str:
    """With a true minus sign; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """0.123 as 12.3 %."""
    return NONE if value is None or not math.isfinite(value) else f"{decimal(100 * value, digits)} %"


def times(value: float | None, digits: int = 2) -> str:
    """1.5 as 1.50×."""
    return NONE if value is None or not math.isfinite(value) else f"{decimal(value, digits)}×"


def whole(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,.0f}"


def scaled(value: float) -> str:
    """1234567 as 1.23 M, three figures."""
    for power, name in ((12, "T"), (9, "B"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{_three(value / 10**power)} {name}"
    return f"{value:g}"


def size(count: float) -> str:
    """A count of bytes, in powers of ten."""
    text = scaled(count)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def scientific(value: float) -> str:
    """3.1e13 as 3.10 × 10¹³."""
    if not value or not math.isfinite(value):
        return decimal(value, 0)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _three(value: float) -> str:
    """Three figures."""
    exponent = int(f"{value:.2e}".split("e")[1])
    return f"{value:.{max(0, 2 - exponent)}f}"
