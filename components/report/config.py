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
