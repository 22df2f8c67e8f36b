"""What the page says of the recipe that made it. Needs the standard library alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportConfig:
    """The words on the page that do not come from an artifact."""

    recipe: str = "demo"
    """Name of the recipe, as in `conf=NAME`; printed with the command that makes the page again."""
    overrides: tuple[str, ...] = ()
    """Fields changed on the command line, as `training.steps=400`; printed in the same command."""
    title: str = ""
    """Title of the page; empty: made from the models that are compared."""
