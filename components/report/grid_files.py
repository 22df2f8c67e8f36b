"""The page of a grid and its numbers, as files; of a run that goes on as well as of one that is done."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path

from components.artifacts import Cell
from components.report.config import GridConfig
from components.report.facts import code_commit, package_versions
from components.report.grid import Grid, gather, results
from components.report.grid_page import Made, grid_page


def write_grid(
    directory: Path,
    config: GridConfig,
    cells: Mapping[int, Cell],
    now: float,
    machine: str,
    seconds: float | None = None,
    ended: bool = False,
) -> Grid:
    """`index.html` and `results.json` in `directory`. `cells`: those that there are, by their place in the config;
    `ended`: whether the run is over without the others."""
    grid = gather(config, cells)
    example = next(iter(cells.values())).path / "example.txt" if cells else None
    made = Made(
        when=datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=machine,
        versions=dict(package_versions()),
        commit=code_commit(),
        seconds=seconds,
        ended=ended,
        example=example.read_text(encoding="utf-8").strip() if example and example.is_file() else "",
    )
    numbers = results(grid) | {
        "when": made.when,
        "machine": made.machine,
        "commit": made.commit,
        "versions": dict(made.versions),
        "seconds": seconds,
    }
    _write(directory / "results.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    _write(directory / "index.html", grid_page(grid, made))
    return grid


def _write(path: Path, text: str) -> None:
    """So that whoever reads it meanwhile sees the old one or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
