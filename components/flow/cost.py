"""What a stage is expected to cost, and the devices that it is reckoned on. Arithmetic alone: nothing is measured.

A stage says in its own terms what it will do (`Cost`: tokens, FLOPs, bytes); a `Device` turns that into time and says
what fits. So a plan can be priced on a laptop for a cluster that is not there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Device:
    """A kind of device and its rates: what a plan reckons with."""

    name: str
    """What people call it."""
    bfloat16_flops: float
    """FLOP/s of dense bfloat16 matrix products, at best; of one core for a CPU."""
    float32_flops: float
    """FLOP/s of float32 matrix products, at best; of one core for a CPU."""
    memory_bytes_per_second: float
    """Read bandwidth of its memory; of one core for a CPU."""
    utilisation: float
    """Share of these rates that work is expected to reach, from 0 to 1; what is recomputed counts as work, and so
    does attention to the whole context."""
    memory_bytes: int | None = None
    """Memory that one worker can have on it; null for a CPU: what the node has."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)}; it must be above 0"
            for name in ("bfloat16_flops", "float32_flops", "memory_bytes_per_second")
            if not getattr(self, name) > 0
        ]
        if not 0 < self.utilisation <= 1:
            faults.append(f"utilisation is {self.utilisation}; it must be above 0 and at most 1")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            faults.append(f"memory_bytes is {self.memory_bytes}; it must be at least 1, or null")
        if faults:
            raise ValueError("\n".join(faults))

    def flops(self, precision: str) -> float:
        """FLOP/s at best in `bfloat16` or `float32`."""
        return self.bfloat16_flops if precision == "bfloat16" else self.float32_flops


@dataclass(frozen=True)
class Cost:
    """What a stage will use. None: not known before what it reads is there."""

    tokens: float | None = None
    """Tokens that it takes in or makes."""
    flops: float | None = None
    """FLOPs of its matrix products, over all devices."""
    precision: str = "float32"
    """Of these products."""
    read_bytes: float = 0
    """Bytes of weights and caches that it reads from memory, where that may take longer than the products."""
    core_seconds: float | None = None
    """Work that is no matrix product, in seconds of one core."""
    disk_bytes: float | None = None
    """What its result takes on disk."""
    scratch_bytes: float = 0
    """What it takes on disk besides while it runs."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes of one worker at its peak, by what they are for."""
    workers: int = 1
    """Processes that hold `memory` each."""
    on_gpu: bool = False
    """Whether FLOPs and memory are a GPU's."""
    note: str = ""
    """A word on what is made, such as its size."""
    expects: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its artifact, as far as they are known beforehand: what the cost of later stages is told from."""

    @property
    def memory_bytes(self) -> int:
        """One worker's memory at its peak."""
        return sum(self.memory.values())

    def of_part(self, part: float) -> "Cost":
        """Of a part of the work: it takes tokens and time in proportion, disk and memory as the whole does."""

        def of(value: float | None) -> float | None:
            return None if value is None else part * value

        return replace(
            self,
            tokens=of(self.tokens),
            flops=of(self.flops),
            read_bytes=part * self.read_bytes,
            core_seconds=of(self.core_seconds),
        )

    def device_seconds(self, device: Device) -> float | None:
        """Seconds of one device (a GPU, or a core) at the device's stated utilisation."""
        if self.flops is None:
            return self.core_seconds
        products = self.flops / device.flops(self.precision)
        reading = self.read_bytes / device.memory_bytes_per_second
        return max(products, reading) / device.utilisation + (self.core_seconds or 0)


@dataclass(frozen=True)
class Outlook:
    """What a stage's `cost` is told of one node."""

    config: Any
    inputs: tuple[Any, ...]
    """Per input the fields of its artifact that are known, as JSON values; a tuple of such for a group."""
    execution: Any
    external: Any
    """What the stage's `external` gave."""
    gpus: float = 0
    """GPUs that the node holds."""


@dataclass(frozen=True)
class Capacity:
    """What there is to run on: equal nodes."""

    nodes: int
    cpus: int
    """CPU cores of a node."""
    gpus: int
    """GPUs of a node."""
    memory_bytes: int | None
    """Main memory of a node; None: not known."""
    gpu: Device
    cpu: Device
    here: bool
    """This machine, and not a cluster."""
    gpus_in_all: int | None = None
    """Where the nodes are not equal; None: nodes times GPUs of a node."""

    @property
    def all_gpus(self) -> int:
        return self.nodes * self.gpus if self.gpus_in_all is None else self.gpus_in_all

    def device(self, on_gpu: bool) -> Device:
        """The device that a cost is reckoned on."""
        return self.gpu if on_gpu else self.cpu

    def lacks_devices(self, cost: Cost) -> bool:
        """Whether there are fewer GPUs than the cost has workers."""
        return cost.on_gpu and cost.workers > self.all_gpus

    def room(self, cost: Cost) -> int | None:
        """Bytes that one of the cost's workers can have; None: not known."""
        if cost.on_gpu:
            return self.gpu.memory_bytes
        if self.memory_bytes is None:
            return None
        return self.memory_bytes // -(-cost.workers // self.nodes)

    def fits(self, cost: Cost) -> bool:
        """Whether there are enough devices and every worker has the memory it needs."""
        room = self.room(cost)
        return not self.lacks_devices(cost) and (room is None or cost.memory_bytes <= room)


def total(costs: Iterable[Cost]) -> Cost:
    """Sums of what adds up; memory and workers do not."""
    every = list(costs)
    return Cost(
        tokens=sum(c.tokens or 0 for c in every),
        flops=sum(c.flops or 0 for c in every),
        core_seconds=sum(c.core_seconds or 0 for c in every),
        disk_bytes=sum(c.disk_bytes or 0 for c in every),
        scratch_bytes=sum(c.scratch_bytes for c in every),
    )
