"""A trace of some steps: what they spend their time on, to be opened in Perfetto or chrome://tracing."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler would say on the terminal that it starts and stops

TRACE = "trace.json.gz"
STEPS_BEFORE = 2
"""Steps of an attempt that are no part of the trace: they set up what later ones find there."""
_on = False


def part(name: str) -> AbstractContextManager[Any]:
    """Gives what is done within a name in the trace, if there is one being made; else it costs nothing."""
    return torch.profiler.record_function(name) if _on else nullcontext()


@contextlib.contextmanager
def traced(steps: int, path: Path, device: torch.device) -> Iterator[Callable[[], None]]:
    """Write `steps` steps, from the third on, to `path` (0: none). It gives what is to be called after each step."""
    global _on
    if not steps:
        yield lambda: None
        return
    profiler = torch.profiler

    def write(profile: Any) -> None:
        global _on
        _on = False
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        profile.export_chrome_trace(str(partial))
        partial.replace(path)

    activities = [profiler.ProfilerActivity.CPU] + [profiler.ProfilerActivity.CUDA] * (device.type == "cuda")
    schedule = profiler.schedule(skip_first=STEPS_BEFORE - 1, wait=0, warmup=1, active=steps, repeat=1)
    _on = True
    try:
        with profiler.profile(activities=activities, schedule=schedule, on_trace_ready=write) as profile:
            yield profile.step
    finally:
        _on = False
