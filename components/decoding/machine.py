"""What the machine can do and whether somebody else was using it: figures without which a speed says little."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

QUIET_BELOW = 0.06
"""Share of all cores that other processes may use in a block that still counts as quiet."""


@dataclass
class Neighbours:
    """Filled when the block ends."""

    share: float | None = None
    """Share of all cores that other processes used; None where the system does not tell."""

    @property
    def quiet(self) -> bool | None:
        return None if self.share is None else self.share < QUIET_BELOW


def _busy_seconds() -> float | None:
    """CPU seconds used by all processes since boot (Linux)."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    except (OSError, IndexError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@contextmanager
def watch_neighbours() -> Iterator[Neighbours]:
    """Compare the machine's busy time with this process's own over the block."""
    found = Neighbours()
    busy, own, wall = _busy_seconds(), time.process_time(), time.perf_counter()
    yield found
    after = _busy_seconds()
    own, wall = time.process_time() - own, time.perf_counter() - wall
    if busy is not None and after is not None and wall > 0:
        found.share = max(0.0, (after - busy - own) / (wall * (os.cpu_count() or 1)))


def describe() -> dict[str, object]:
    """Processor, cores and versions."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    found: dict[str, object] = {
        "processor": model,
        "cores": os.cpu_count(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def read_bandwidth(size_bytes: int, threads: int, device: torch.device) -> float:
    """Bytes per second when reading an array of this size again and again: caches count where it fits them."""
    array = torch.ones(max(1 << 20, size_bytes) // 4, device=device)
    return array.numel() * 4 / _best_seconds(array.sum, threads, device)


def matmul_rate(dtype: torch.dtype, threads: int, device: torch.device) -> float:
    """Floating-point operations per second of a 1024-cube matrix product."""
    a, b = (torch.ones(1024, 1024, dtype=dtype, device=device) for _ in range(2))
    return 2 * 1024**3 / _best_seconds(lambda: a @ b, threads, device)


def _best_seconds(function: object, threads: int, device: torch.device, budget_seconds: float = 0.3) -> float:
    """The shortest of the calls that fit the budget, at least five."""
    assert callable(function)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    best, started, calls = float("inf"), time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - started < budget_seconds:
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
        calls += 1
    torch.set_num_threads(before)
    return best
