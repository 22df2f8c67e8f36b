"""The plan and the run as a person sees them on the terminal."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from components.flow.plan import Plan

PLAIN_INTERVAL_SECONDS = 20.0
STYLES = {
    "reused": "dim",
    "not needed": "dim",
    "run": "bold",
    "continue": "bold yellow",
    "waiting": "dim",
    "running": "bold cyan",
    "done": "green",
    "failed": "bold red",
    "stopped": "yellow",
}


def duration(seconds: float) -> str:
    """`7 s`, `2:05`, `3:04:05`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def plan_table(plan: Plan) -> Table:
    """One row a stage: what happens to it and why."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("why")
    for row in plan.nodes:
        table.add_row(
            row.node.title,
            Text(row.status, style=STYLES[row.status]),
            Text(row.reason, style="dim" if row.status in ("reused", "not needed") else ""),
        )
    return table


@dataclass
class Row:
    """A stage while the run goes on."""

    title: str
    state: str
    note: str = ""
    started: float = 0.0
    seconds: float = 0.0
    done: float = 0.0
    total: float = 0.0
    first: tuple[float, float] | None = None
    """(time, done) of the first progress seen: what was done before this attempt says nothing of its speed."""
    printed: float = 0.0

    def read_progress(self, path: Path) -> None:
        """Take over what the stage last said (see StageRun.progress)."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if self.first is None or record["total"] != self.total:
            self.first = (record["at"], record["done"])
        self.done, self.total, self.note = record["done"], record["total"], record["text"]

    def seconds_left(self) -> float | None:
        """From the speed since the first progress seen; None before there is one."""
        if self.first is None or self.done <= self.first[1]:
            return None
        speed = (self.done - self.first[1]) / max(time.time() - self.first[0], 1e-3)
        return (self.total - self.done) / speed


class RunTable:
    """A row per stage. On a terminal it is redrawn in place; otherwise changes are printed as lines."""

    def __init__(self, console: Console, rows: dict[str, Row]) -> None:
        self.console = console
        self.rows = rows
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> "RunTable":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def set(self, name: str, state: str, note: str = "") -> None:
        """A stage changed its state."""
        row = self.rows[name]
        now = time.time()
        if state == "running":
            row.started = row.printed = now
        elif row.started:
            row.seconds = now - row.started
        row.state, row.note = state, note
        if not self.console.is_terminal:
            took = f" in {duration(row.seconds)}" if row.seconds else ""
            self.console.print(Text(f"{row.title}: {state}{took}" + (f", {note}" if note else "")), soft_wrap=True)

    def progress(self, name: str, path: Path) -> None:
        """Read a running stage's progress file."""
        row = self.rows[name]
        row.read_progress(path)
        now = time.time()
        if not self.console.is_terminal and row.total and now - row.printed > PLAIN_INTERVAL_SECONDS:
            row.printed = now
            self.console.print(Text(f"{row.title}: {self._words(row)}"), soft_wrap=True)

    def say(self, message: str) -> None:
        """A line above the table."""
        self.console.print(Text(message), soft_wrap=True)

    @staticmethod
    def _words(row: Row) -> str:
        left = row.seconds_left()
        share = f"{100 * row.done / row.total:.0f} %" if row.total else ""
        parts = [share, f"{duration(left)} left" if left is not None else "", row.note]
        return ", ".join(p for p in parts if p)

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=False, expand=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(width=22)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for row in self.rows.values():
            bar: RenderableType = ""
            took, words = (duration(row.seconds) if row.seconds else ""), row.note
            if row.state == "running":
                took, words = duration(time.time() - row.started), self._words(row)
                if row.total:
                    bar = ProgressBar(total=row.total, completed=row.done, width=20)
            table.add_row(row.title, Text(row.state, style=STYLES[row.state]), bar, took, Text(words, style="dim"))
        return Group("", table)
