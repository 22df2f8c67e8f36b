"""What a stage sees of the run it is part of: where to write, how to report progress, how it was asked to run."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class StageRecord:
    """What the store knows of a finished stage; a stage's `run.lineage` has one per ancestor, inputs first."""

    name: str
    title: str
    stage: str
    key: str
    inputs: tuple[str, ...]
    """Names of the nodes it read."""
    reused: bool
    """Whether this invocation found it in the store instead of running it."""
    started: float
    """time.time() when it started, in the run that made it."""
    seconds: float
    config: Any
    """As JSON values."""
    artifact: Any
    """The artifact's fields as JSON values."""
    machine: str
    """Processor and cores it ran on."""
    warnings: tuple[str, ...] = ()
    """What a person should act on."""


@dataclass(frozen=True)
class StageRun:
    """One attempt of one stage. Plain paths and values, so that workers can be handed it too."""

    name: str
    """The node's name."""
    directory: Path
    """The attempt: the artifact's files go here. Nobody reads them before the manifest is written."""
    work: Path
    """Kept across attempts of the same key, for stages that can go on from partial work."""
    execution: Any = None
    """Workers, micro-batch and the like, as bound; never part of the identity."""
    cpus: int = 1
    """CPU cores granted."""
    gpus: float = 0
    """GPUs granted to the stage's own process; a stage that drives Ray leaves them to its workers."""
    run_started: float = 0.0
    """time.time() at the start of the whole invocation."""
    lineage: tuple[StageRecord, ...] = ()
    """Everything this stage was made from."""

    @staticmethod
    def local(directory: Path, execution: Any = None, cpus: int = 1, gpus: float = 0) -> "StageRun":
        """A run outside any pipeline, for tests and notebooks."""
        for folder in (directory / "out", directory / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        return StageRun("local", directory / "out", directory / "work", execution, cpus, gpus, time.time())

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line: {"step": …, name: value, …}; the driver forwards it to MLflow while it grows."""
        return self.work / "metrics.jsonl"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append metrics of one step."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def rewind_metrics(self, last_step: int) -> None:
        """Drop metrics after `last_step`, so that going on from a checkpoint doubles no step."""
        if not self.metrics_path.exists():
            return
        kept = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the last line of a killed writer
                continue
            if record["step"] <= last_step:
                kept.append(line + "\n")
        partial = self.metrics_path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(self.metrics_path)

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Say how far the stage is; `text` is a word on what it does now. Cheap, but not for every microsecond."""
        path = self.directory / "progress.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"done": done, "total": total, "text": text, "at": time.time()}))
        partial.replace(path)

    def committed(self, done: int, total: int) -> None:
        """A resumable stage says what it could go on from; the plan reads it."""
        write_json(self.work / "committed.json", {"done": done, "total": total})

    def warn(self, message: str) -> None:
        """Something a person should act on: shown on the terminal and kept in the manifest."""
        with (self.directory / "warnings.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(message) + "\n")
