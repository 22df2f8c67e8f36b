"""What the machine can do and whether somebody else was using it: figures without which a speed says little."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from components.decoding.limits import Roofs

READ_BYTES = 500_000_000
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


def ask_for_large_pages() -> None:
    """Let torch ask Linux for large pages of memory, unless the environment says otherwise: weights are read once a
    step, and with pages of 4 kB a tenth of the time goes to finding them. To be called before the first large tensor
    of a process; elsewhere than on Linux it does nothing."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class RoofMeter:
    """Measures the machine's roofs again and again between timed blocks: shared machines change by the minute."""

    def __init__(self, dtype: torch.dtype, device: torch.device, cores: int) -> None:
        self._device, self._threads = device, sorted({1, cores})
        self._array = torch.ones(READ_BYTES // 4, device=device)
        self._a, self._b = (torch.ones(2048, 2048, dtype=dtype, device=device) for _ in range(2))
        self.read: list[float] = []
        self.flops: list[float] = []

    def measure(self) -> None:
        """One more reading of each, by one thread and by all, whichever is more."""
        before = torch.get_num_threads()
        reads, rates = [], []
        for threads in self._threads:
            torch.set_num_threads(threads)
            reads.append(READ_BYTES / self._seconds(self._array.sum))
            rates.append(2 * 2048**3 / self._seconds(lambda: self._a @ self._b))
        torch.set_num_threads(before)
        self.read.append(max(reads))
        self.flops.append(max(rates))

    def roofs(self) -> Roofs:
        """Medians of all readings."""
        return Roofs(statistics.median(self.read), statistics.median(self.flops))

    def _seconds(self, function: Callable[[], object]) -> float:
        """The median of three calls."""
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            function()
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)
