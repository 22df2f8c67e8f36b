"""How a grid's metrics and ways to train are written, on the page and in its figures."""

from dataclasses import dataclass

from components.report.grid import Grid
from components.report.intervals import Estimate
from components.report.markup import NONE, decimal

Way = tuple[str, int]


@dataclass(frozen=True)
class Shown:
    """How a metric is written."""

    words: str
    scale: float = 100.0
    digits: int = 1
    unit: str = " %"
    difference_unit: str = " points"

    @property
    def axis(self) -> str:
        """What an axis is labelled with."""
        return "% right" if self.unit == " %" else self.words

    def value(self, value: float | None) -> str:
        return NONE if value is None else f"{decimal(self.scale * value, self.digits)}{self.unit}"

    def change(self, difference: float, unit: bool = True) -> str:
        sign = "+" if difference >= 0 else ""
        return f"{sign}{decimal(self.scale * difference, self.digits)}{self.difference_unit if unit else ''}"

    def range(self, made: Estimate) -> str:
        """An interval of differences."""
        if made.interval is None:
            return "one seed"
        low, high = (decimal(self.scale * edge, self.digits) for edge in made.interval)
        return f"{low} to {high}"

    def interval(self, made: Estimate) -> str:
        """An interval of values; of shares no more than can be."""
        low, high = edges(made, self)
        return "one seed" if made.interval is None else f"{decimal(low, self.digits)} to {decimal(high, self.digits)}"


def edges(made: Estimate, shown: "Shown") -> tuple[float, float]:
    """Lowest and highest mean, as shown."""
    low, high = made.interval or (made.mean, made.mean)
    if shown.unit == " %":
        low, high = max(low, 0.0), min(high, 1.0)
    return shown.scale * low, shown.scale * high


METRICS = {
    "accuracy": Shown("right"),
    "accuracy_known": Shown("right, of names that training knows"),
    "first_node": Shown("right first nodes"),
    "later_nodes": Shown("right later nodes"),
    "bits_per_byte": Shown("bits per byte", 1.0, 4, "", ""),
}


def shown(metric: str) -> Shown:
    """How a metric is written."""
    if metric.startswith("accuracy/m"):
        return Shown(f"right answers at m = {metric.removeprefix('accuracy/m')}")
    return METRICS[metric]


def named(way: Way) -> str:
    """What a way to train is called: its schedule, or its heads."""
    return way[0].replace("_", " ") or f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{way[1]}"


def colour(grid: Grid, way: Way) -> str:
    """The colour of a way to train, the same in every figure."""
    return f"var(--s{grid.ways.index(way) % 8})"
