"""The plan and the run as a person sees them on the terminal."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from components.flow.cost import Capacity, Cost, total
from components.flow.fit import scratch_bytes
from components.flow.plan import NodePlan, Plan
from components.flow.quantity import device_time, duration, scaled, size

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


WIDE = 120
"""Columns of a terminal that has room for every figure; a narrower one is shown the most telling."""


MANY = 40
"""Stages of a plan above which those of one model share a line, so that a study is one screen."""


def plan_table(plan: Plan, capacity: Capacity, width: int = WIDE) -> RenderableType:
    """What happens to each stage, what that costs, and why; then sums, and memory by what it is for."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("stage", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in _figures(Cost(), capacity, width):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("why", overflow="fold")
    lines = _lines(plan)
    for title, rows in lines.items():
        running = [row for row in rows if row.status in ("run", "continue")]
        counts = Counter(row.status for row in rows)
        status = " + ".join(name if len(counts) == 1 else f"{count} {name}" for name, count in counts.items())
        notes = dict.fromkeys(row.cost.note for row in running if row.cost and row.cost.note)
        words = [*notes, *list(dict.fromkeys(row.reason for row in rows))[:2]]
        table.add_row(
            title,
            Text(status, style=STYLES[(running or rows)[0].status]),
            *_added([row.cost for row in running if row.cost], capacity, width).values(),
            Text("; ".join(words), style="" if running else "dim"),
        )
    for name, costs, words_on_it in _sums(plan, capacity, by_group=len(lines) == len(plan.nodes)):
        cells = _added(costs, capacity, width).values()
        table.add_row(Text(name, style="bold"), "", *cells, Text(words_on_it, style="dim"))
    return Group(table, *_memory(plan, capacity, width), *_devices(capacity))


def _lines(plan: Plan) -> dict[str, list[NodePlan]]:
    """The nodes that share a line, by its title: those of a group in a plan of many stages, and those that differ by
    their seed alone."""
    alike = Counter((row.node.group, row.node.stage.name) for row in plan.nodes)
    lines: dict[str, list[NodePlan]] = {}
    for row in plan.nodes:
        group = row.node.group
        together = group and (len(plan.nodes) > MANY or alike[group, row.node.stage.name] > 1)
        lines.setdefault(group if group and together else row.node.title, []).append(row)
    return lines


def _figures(cost: Cost, capacity: Capacity, width: int, time: str | None = None) -> dict[str, str]:
    """A cost by the heads of the columns that a terminal has room for; empty where it says nothing."""
    seconds = cost.device_seconds(capacity.device(cost.on_gpu))
    unit = capacity.gpu.name if cost.on_gpu else "core"
    wide = {
        "tokens": scaled(cost.tokens) if cost.tokens else "",
        "disk": size(cost.disk_bytes) if cost.disk_bytes else "",
    }
    return (wide if width >= WIDE else {}) | {
        "FLOPs": f"{cost.flops:.2e}" if cost.flops else "",
        "time": time if time is not None else device_time(seconds, unit) if seconds else "",
    }


def _added(costs: Sequence[Cost], capacity: Capacity, width: int) -> dict[str, str]:
    """The figures of several costs together: tokens that pass through a stage, and the time of GPUs where there are
    any."""
    on_gpu, on_cores = _times(costs, capacity)
    time = device_time(on_gpu, capacity.gpu.name) if on_gpu else device_time(on_cores, "core") if on_cores else ""
    return _figures(total(costs), capacity, width, time)


def _times(costs: Sequence[Cost], capacity: Capacity) -> tuple[float, float]:
    """Seconds of GPUs, and of cores."""
    gpu = sum(c.device_seconds(capacity.gpu) or 0 for c in costs if c.on_gpu)
    return gpu, sum(c.device_seconds(capacity.cpu) or 0 for c in costs if not c.on_gpu)


def _sums(plan: Plan, capacity: Capacity, by_group: bool) -> Iterator[tuple[str, Sequence[Cost], str]]:
    """Name, costs and words of what adds up: each model's stages, unless they share a line, then all that run."""
    priced = [row for row in plan.to_run() if row.cost is not None]
    groups = dict.fromkeys(row.node.group for row in priced if row.node.group and by_group)
    sums = [(str(group), [row for row in priced if row.node.group == group]) for group in groups]
    if len(priced) > 1:
        sums.append(("in all", priced))
    for name, rows in sums:
        costs = [row.cost for row in rows if row.cost is not None]
        words = [f"{len(rows)} stages"]
        if name == "in all":
            on_gpu, on_cores = _times(costs, capacity)
            words += [device_time(on_cores, "core")] if on_gpu and on_cores else []
            disk = sum(cost.disk_bytes or 0 for cost in costs) + scratch_bytes(plan)
            unknown = [row.node.title for row in priced if row.cost and not (row.cost.disk_bytes or row.cost.flops)]
            without = f" without {' and '.join(unknown)}" if unknown else ""
            words.append(f"{size(disk)} on disk at most{without}")
        yield name, costs, "; ".join(words)


def in_words(plan: Plan, capacity: Capacity) -> str:
    """What all that runs comes to."""
    sums = list(_sums(plan, capacity, by_group=False))
    if not sums:
        return "nothing to run that has a price"
    _, costs, words = sums[-1]
    figures = _added(costs, capacity, 0)
    flops = f"{figures['FLOPs']} FLOPs" if figures["FLOPs"] else ""
    return "; ".join(word for word in (flops, figures["time"], words) if word)


def _memory(plan: Plan, capacity: Capacity, width: int) -> list[RenderableType]:
    """Peak memory of one worker, by what it is for where there is room, of the stages that must run."""

    def hardness(row: tuple[str, Cost]) -> tuple[bool, int, int]:
        return not capacity.fits(row[1]), row[1].workers, row[1].memory_bytes

    running = {row.node.name for row in plan.to_run()}
    lines = [
        [(row.node.title, row.cost) for row in rows if row.node.name in running and row.cost and row.cost.memory]
        for rows in _lines(plan).values()
    ]
    rows = [max(stages, key=hardness) for stages in lines if stages]  # of those on a line the hardest to place
    if not rows:
        return []
    if width < WIDE:
        return [Text(), *(Text.assemble((title, "bold"), f": {_told(cost, capacity)}") for title, cost in rows)]
    richest = sorted((cost.memory for _, cost in rows), key=len, reverse=True)
    parts = list(dict.fromkeys(part for memory in richest for part in memory))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("memory", no_wrap=True)
    for part in (*parts, "of each"):
        table.add_column(part, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for title, cost in rows:
        fits = capacity.fits(cost)
        there = capacity.room(cost)
        room = f"of {size(there) if there else '?'}"
        table.add_row(
            title,
            *(size(cost.memory[part]) if part in cost.memory else "" for part in parts),
            Text(size(cost.memory_bytes), style="bold" if fits else "bold red"),
            Text(f"{room} on {_where(cost, capacity)}", style="dim")
            if fits
            else Text(f"{room}: {_misfit(cost, capacity)}", style="red"),
        )
    return [Text(), table]


def _misfit(cost: Cost, capacity: Capacity) -> str:
    return f"{cost.workers} x {capacity.gpu.name} lacking" if capacity.lacks_devices(cost) else "does not fit"


def _where(cost: Cost, capacity: Capacity) -> str:
    on = f"{cost.workers} x {capacity.gpu.name if cost.on_gpu else 'process'}"
    if cost.on_gpu and (seconds := cost.device_seconds(capacity.gpu)) and seconds / cost.workers > 86400:
        on += f", {seconds / cost.workers / 86400:.1f} days"
    return on


def _told(cost: Cost, capacity: Capacity) -> str:
    """What a narrow table leaves out."""
    parts = " + ".join(f"{name} {size(part)}" for name, part in cost.memory.items())
    room = capacity.room(cost)
    words = [f"{scaled(cost.tokens)} tokens" if cost.tokens else "", _where(cost, capacity)]
    words.append(f"memory of each {size(cost.memory_bytes)} of {size(room) if room else '?'}: {parts}")
    words.append(f"{size(cost.disk_bytes)} on disk" if cost.disk_bytes else "")
    words.append("" if capacity.fits(cost) else _misfit(cost, capacity))
    return "; ".join(word for word in words if word)


def _devices(capacity: Capacity) -> list[RenderableType]:
    """What the plan was reckoned on."""
    have = [f"{capacity.cpus} cores"]
    have += [size(capacity.memory_bytes)] if capacity.memory_bytes else []
    have.append(f"{capacity.gpus} {capacity.gpu.name}" if capacity.gpus else "no GPU")
    where = "This machine" if capacity.here else f"Cluster as declared: {capacity.nodes} nodes, each"
    rates = [
        f"{device.name} {device.bfloat16_flops / 1e12:.3g} TFLOP/s in bfloat16, reckoned with "
        f"{100 * device.utilisation:.0f} % of it"
        for device in ((capacity.cpu, capacity.gpu) if capacity.gpus else (capacity.cpu,))
    ]
    return [Text(), Text(f"{where} {', '.join(have)}. {'; '.join(rates)}.", style="dim")]


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
