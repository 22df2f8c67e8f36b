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
) -> Grid:
    """`index.html` and `results.json` in `directory`. `cells`: those that there are, by their place in the config."""
    grid = gather(config, cells)
    example = next(iter(cells.values())).path / "example.txt" if cells else None
    made = Made(
        when=datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=machine,
        versions=dict(package_versions()),
        commit=code_commit(),
        seconds=seconds,
        example=example.read_text(encoding="utf-8").strip() if example and example.is_file() else "",
    )
    numbers = results(grid) | {
        "when": made.when,
        "machine": made.machine,
        "commit": made.commit,
        "versions": dict(made.versions),
        "seconds": seconds,
    }
    (directory / "results.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (directory / "index.html").write_text(grid_page(grid, made), encoding="utf-8")
    return grid
