"""A stage in a process of its own: what a Ray task runs."""

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.flow.disk import full_disk
from components.flow.identity import machine
from components.flow.stage_run import StageRun
from components.flow.store import encode_artifact


def execute(module: str, function: str, config: Any, inputs: list[Any], run: StageRun) -> tuple[Any, list[str], Any]:
    """In the stage's process: run it, its output in the attempt's log.

    Returns the encoded artifact, warnings, and the machine that it ran on.
    """
    os.environ["OMP_NUM_THREADS"] = str(run.cpus)  # Ray sets 1 for a task that holds no CPU
    stage = getattr(importlib.import_module(module), function)
    with output_to(run.directory / "log.txt"):
        try:
            artifact = stage(config, *inputs, run)
            encoded = encode_artifact(artifact, run.directory)
            (run.directory / "progress.json").unlink(missing_ok=True)  # of the run, not of its result
            if run.metrics_path.exists():
                (run.directory / "metrics.jsonl").write_bytes(run.metrics_path.read_bytes())
        except Exception as error:
            text = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
            text = full_disk(error, run.directory) or text
            with contextlib.suppress(OSError):  # the disk may be full
                traceback.print_exc()
                (run.directory / "error.txt").write_text(text + "\n", encoding="utf-8")
            raise RuntimeError(text) from None
    path = run.directory / "warnings.jsonl"
    warnings = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return encoded, warnings, machine()


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Standard output and error of this process, libraries' included, go to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the disk may be full
                sys.stdout.flush()
                sys.stderr.flush()
            for number, original in zip((1, 2), saved, strict=True):
                os.dup2(original, number)
                os.close(original)
