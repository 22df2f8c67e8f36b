"""What the page says of the recipe that made it. Needs the standard library alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """Of a study: what each artifact is called in it, in the order of the report's inputs."""

    checkpoints: tuple[str, ...]
    evaluations: tuple[str, ...]
    benchmarks: tuple[str, ...]


@dataclass(frozen=True)
class ReportConfig:
    """The words on the page that do not come from an artifact."""

    recipe: str = "demo"
    """Name of the recipe."""
    overrides: tuple[str, ...] = ()
    """What was given on the command line, as `conf=bytes`; printed in the command that makes the page again."""
    sizes: Labels | None = None
    """Which artifact is of which size; None in an ordinary recipe, where all are of one."""
    arrangements: Labels | None = None
    """Which artifact is of which arrangement of its heads, empty for n = 1; None where the models say it."""


@dataclass(frozen=True)
class CellLabel:
    """What a cell of a grid is called."""

    size: str
    schedule: str
    """Empty for a plain one of `n_future_tokens` heads."""
    n_future_tokens: int
    seed: int
    parameters_in_layers: int
    """Without embedding and unembedding, as the paper counts small models (Table S14)."""
    arrangement: str = "parallel"
    """How its heads hang together."""


@dataclass(frozen=True)
class GridConfig:
    """The words on the page of a grid that do not come from an artifact."""

    recipe: str
    """Name of the recipe."""
    overrides: tuple[str, ...]
    """What was given on the command line; printed in the command that makes the page again."""
    task: str
    """What was learned: `induction`, `polynomial`, `path_star`, `text`."""
    setting: str
    """The task in a sentence."""
    cells: tuple[CellLabel, ...]
    """In the order of the report's inputs."""
    trained_to: int | None = None
    """Of polynomials, the most operations in training; more are beyond it."""
    guessing: float | None = None
    """What guessing reaches, where it is more than nothing."""
    paper: str = ""
    """The figure of the paper that measured the same, to stand beside: `Figure 7`, `Figure S14` or `Figure 8`; empty:
    none."""
