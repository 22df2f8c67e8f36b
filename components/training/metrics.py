"""What a training says of itself: means over the steps since the last line, speed, memory."""

import resource
import sys
import time
from dataclasses import dataclass, field

import torch

from components.model.config import ModelConfig
from components.training.config import Precision, TrainingConfig
from components.training.loss import HeadSums


@dataclass(frozen=True)
class StepResult:
    """What one step of all workers together measured."""

    sums: HeadSums
    gradient_norm: float
    """Before clipping."""
    learning_rate: float


@dataclass
class Interval:
    """Sums over the steps since the last line of metrics; kept in checkpoints, so that a resumed line is equal."""

    steps: int = 0
    seconds: float = 0.0
    loss: list[float] = field(default_factory=list)
    """Per head, in nats."""
    correct: list[float] = field(default_factory=list)
    count: list[float] = field(default_factory=list)

    def add(self, sums: HeadSums, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        for name, values_K in zip(("loss", "correct", "count"), sums, strict=True):
            before = getattr(self, name) or [0.0] * len(values_K)
            setattr(self, name, [a + b for a, b in zip(before, values_K.tolist(), strict=True)])


def step_metrics(
    interval: Interval,
    result: StepResult,
    model: ModelConfig,
    config: TrainingConfig,
    roof_flops: float,
    device: torch.device,
) -> dict[str, float]:
    """One line of metrics. Heads count from 1 here: `loss/head_1` is the next-token loss in nats."""
    values: dict[str, float] = {}
    for i, count in enumerate(interval.count):
        if count:
            values[f"loss/head_{i + 1}"] = interval.loss[i] / count
            values[f"top1/head_{i + 1}"] = interval.correct[i] / count
    tokens_per_second = interval.steps * config.batch_tokens / interval.seconds
    flops_per_second = tokens_per_second * model.flops_per_token(config.context_length)
    return values | {
        "train/learning_rate": result.learning_rate,
        "train/gradient_norm": result.gradient_norm,
        "speed/tokens_per_second": tokens_per_second,
        "speed/flops_per_second": flops_per_second,
        "speed/share_of_matmul": flops_per_second / roof_flops,
        "memory/peak_bytes": peak_memory_bytes(device),
    }


def matmul_flops(device: torch.device, precision: Precision) -> float:
    """FLOP/s of a large square matrix product here and now: what the model's FLOP/s can be held against."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory_bytes(device: torch.device) -> float:
    """The most memory this worker has held: on the GPU, or the process's resident set."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def progress_text(recent: Interval, config: TrainingConfig) -> str:
    """`loss 2.31, 12,300 tokens/s`: next-token loss and speed over the steps of `recent`."""
    loss = recent.loss[0] / max(recent.count[0], 1)
    seconds_per_step = recent.seconds / recent.steps
    speed = config.batch_tokens / seconds_per_step
    return f"loss {loss:.2f}, {speed:,.0f} tokens/s"
