"""`<workspace>/<recipe>-<time>/`: what a person opens after a run."""

import logging
import os
import time
from pathlib import Path

RUN_FILE = "run.json"
"""In a run's folder: what it ran, and the stages that it used or began."""


def run_directory(workspace: Path, recipe: str, latest: str = "latest") -> Path:
    """A new `<workspace>/<recipe>-<time>/`, with `<workspace>/<latest>` leading to it."""
    stem = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = workspace / stem
    for i in range(2, 1000):
        if not directory.exists():
            break
        directory = workspace / f"{stem}-{i}"
    directory.mkdir()
    partial = workspace / f".{latest}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(directory.name)
    partial.replace(workspace / latest)
    return directory


def log_to(path: Path) -> logging.Logger:
    """The engine's logger, writing to a file of this run and nowhere else."""
    logger = logging.getLogger("components.flow")
    logger.handlers.clear()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk shows elsewhere
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def link(directory: Path, name: str, target: Path) -> None:
    """A readable, relative link to a stage's output."""
    place = directory / name
    place.unlink(missing_ok=True)
    place.symlink_to(os.path.relpath(target, directory))
