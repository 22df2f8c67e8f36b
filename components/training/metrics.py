"""What a training says of itself: means over the steps since the last line, speed, memory."""

import json
import resource
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from components.model.config import ModelConfig
from components.training.config import Precision, TrainingConfig
from components.training.loss import HeadSums
from components.training.parallel import from_all_workers
from components.training.schedule import learning_rate, mean_over_steps


@dataclass(frozen=True)
class StepResult:
    """What one step of all workers together measured."""

    sums: HeadSums
    """Of all workers; heads that do not count have none."""
    gradient_norm: Tensor
    """Before clipping."""
    busy_seconds: float
    """This worker's time until it had nothing left to do but add its gradients to the others' (on a GPU: until all that
    was queued)."""


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


@dataclass
class OwnTimes:
    """What one worker did since the last line of metrics, to be held against the others."""

    steps: int = 0
    data: float = 0.0
    busy: float = 0.0

    def add(self, data: float = 0.0, busy: float = 0.0) -> None:
        """Seconds of one step: of reading its data, or of computing."""
        self.steps += busy > 0
        self.data += data
        self.busy += busy

    def of_all_workers(self, device: torch.device) -> dict[str, float]:
        """Seconds per step and peak memory of the workers: least, most, and up to 16 workers each by rank. Empty if
        there is one worker. All call it together."""
        own = {"data_seconds": self.data / self.steps, "busy_seconds": self.busy / self.steps}
        own["peak_bytes"] = peak_memory_bytes(device)
        said = [json.loads(text) for text in from_all_workers(json.dumps(own))]
        values: dict[str, float] = {}
        for name in own if len(said) > 1 else ():
            of_rank = [worker[name] for worker in said]
            values |= {f"workers/{name}/least": min(of_rank), f"workers/{name}/most": max(of_rank)}
            if len(said) <= 16:
                values |= {f"workers/{name}/{rank}": value for rank, value in enumerate(of_rank)}
        return values


def step_metrics(
    interval: Interval,
    result: StepResult,
    model: ModelConfig,
    config: TrainingConfig,
    step: int,
    roof_flops: float,
    device: torch.device,
) -> dict[str, float]:
    """One line of metrics after `step` steps. Heads count from 1 here: `loss/head_1` is the next-token loss in nats."""
    values: dict[str, float] = {}
    for i, count in enumerate(interval.count):
        if count:
            values[f"loss/head_{i + 1}"] = interval.loss[i] / count
            values[f"top1/head_{i + 1}"] = interval.correct[i] / count
    tokens_per_second = interval.steps * config.batch_tokens / interval.seconds
    of_heads = partial(model.flops_per_token, config.context_length)
    flops_per_token = mean_over_steps(config, model.n_future_tokens, of_heads, step - interval.steps, step)
    flops_per_second = tokens_per_second * flops_per_token
    return values | {
        "train/learning_rate": learning_rate(config, step - 1),
        "train/gradient_norm": result.gradient_norm.item(),
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
    return float(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_bytes())


def resident_bytes() -> int:
    """The most memory that this process has held, the interpreter and torch's code included."""
    try:
        said = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(said.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux; there getrusage has what a process held that started this one, too
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def progress_text(recent: Interval, config: TrainingConfig) -> str:
    """`loss 2.31, 12,300 tokens/s`: next-token loss and speed over the steps of `recent`."""
    loss = recent.loss[0] / max(recent.count[0], 1)
    seconds_per_step = recent.seconds / recent.steps
    speed = config.batch_tokens / seconds_per_step
    return f"loss {loss:.2f}, {speed:,.0f} tokens/s"
