"""The train step, a function of state and batch, and the loop that decides when things happen.

One loop for every scale: it runs in one process or, unchanged, in each data-parallel worker. Every worker takes
its share of the global batch; gradients and sums are added over workers once per step, so that one worker and
several give the same losses to rounding. Torch alone; what to train on and where to report come in as callables.

Shape suffixes: G sequences of this worker's share of a batch, T positions, K prediction heads.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from components.model.transformer import MultiTokenTransformer
from components.training.checkpoint import (
    checkpoint_path,
    latest_intact,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    step_of,
)
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loss import IGNORE, HeadSums, multi_token_backward
from components.training.metrics import Interval, StepResult, matmul_flops, progress_text, step_metrics
from components.training.optimizer import Gradients, make_optimizer
from components.training.parallel import from_first_worker, rank_and_workers, sum_over_workers
from components.training.schedule import learning_rate

Batch = tuple[Tensor, Tensor]
"""tokens_GT and targets_KGT of this worker's share of one step."""


class Batches(Protocol):
    """What to train on, as a pure function of the step, counted from 0."""

    def batch(self, step: int) -> Batch:
        """This worker's share of a step."""

    def where(self, step: int) -> str:
        """What data that step is, over all workers, for an error."""


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is not a number; nothing was updated with it."""


class Reporter(Protocol):
    """Where a training says how it goes; `components.flow`'s StageRun is one."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...
    def rewind_metrics(self, last_step: int) -> None: ...
    def progress(self, done: float, total: float, text: str = "") -> None: ...
    def committed(self, done: int, total: int) -> None: ...
    def warn(self, message: str) -> None: ...


@dataclass
class TrainState:
    """All that a step changes."""

    model: MultiTokenTransformer
    optimizer: torch.optim.AdamW
    gradients: Gradients
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time in steps, over all attempts."""
    interval: Interval = field(default_factory=Interval)
    """Sums since the last line of metrics."""

    @staticmethod
    def fresh(model: MultiTokenTransformer, config: TrainingConfig) -> "TrainState":
        """The state before step 1, with the model's weights as they are."""
        return TrainState(model.train(), make_optimizer(model, config), Gradients(model.parameters()))


def train_step(state: TrainState, batch: Batch, config: TrainingConfig, micro_batch_sequences: int) -> StepResult:
    """One optimizer step on one global batch. NonFiniteLoss leaves weights and optimizer as they were."""
    tokens_GT, targets_KGT = batch
    state.gradients.zero()
    counts_K = sum_over_workers((targets_KGT != IGNORE).sum((1, 2)))
    scale_K = 1.0 / counts_K.clamp(min=1).double()
    totals = torch.zeros(3, len(targets_KGT), dtype=torch.float64, device=tokens_GT.device)
    for start in range(0, len(tokens_GT), micro_batch_sequences):
        micro = slice(start, start + micro_batch_sequences)
        with torch.autocast(tokens_GT.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            sums = multi_token_backward(state.model, tokens_GT[micro], targets_KGT[:, micro], scale_K)
        totals += torch.stack(tuple(sums))
    sum_over_workers(state.gradients.flat)
    sums = HeadSums(*sum_over_workers(totals))
    norm = state.gradients.clip(config.clip_norm).item()
    if not (math.isfinite(norm) and sums.loss_K.isfinite().all()):
        losses = ", ".join(f"{loss:.4g}" for loss in (sums.loss_K * scale_K).tolist())
        raise NonFiniteLoss(f"loss per head {losses}; gradient norm {norm:.4g}")
    rate = learning_rate(config, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.step += 1
    return StepResult(sums, norm, rate)


def train(
    state: TrainState,
    config: TrainingConfig,
    execution: TrainingExecution,
    data: Batches,
    checkpoints: Path,
    reporter: Reporter | None,
) -> None:
    """Train to `config.steps`, going on from the newest intact checkpoint under `checkpoints` if there is one.

    `reporter` is the first worker's; others pass None. A non-finite loss stops with NonFiniteLoss, naming step and
    data, and keeps the checkpoints.
    """
    resume(state, config, checkpoints, reporter)
    device = state.gradients.flat.device
    roof = measured_roof(device, config, reporter) if reporter else 0.0
    recent, said = Interval(), 0.0
    while state.step < config.steps:
        started = time.perf_counter()
        try:
            result = train_step(state, data.batch(state.step), config, execution.micro_batch_sequences)
        except NonFiniteLoss as error:
            saved = list_checkpoints(checkpoints)
            raise NonFiniteLoss(
                f"step {state.step + 1} of {config.steps} is not finite: {error}. Its data: {data.where(state.step)}. "
                f"Last good checkpoint: {saved[-1] if saved else 'none'}. Lower learning_rate, or look at that data"
            ) from None
        seconds = time.perf_counter() - started
        state.seconds += seconds
        if reporter is None:
            continue
        done = state.step == config.steps
        state.interval.add(result.sums, seconds)
        recent.add(result.sums, seconds)
        if done or state.step == 1 or state.step % execution.log_every == 0:
            values = step_metrics(state.interval, result, state.model.config, config, roof, device)
            reporter.metrics(state.step, values)
            state.interval = Interval()
        if done or state.step % execution.checkpoint_every == 0:
            save(state, checkpoints, execution.keep_checkpoints)
            reporter.committed(state.step, config.steps)
        if done or time.monotonic() - said > 1:
            reporter.progress(state.step, config.steps, progress_text(recent, config))
            recent, said = Interval(), time.monotonic()


def measured_roof(device: torch.device, config: TrainingConfig, reporter: Reporter) -> float:
    """FLOP/s that matrix products reach here on all workers together; warns where the precision is ill chosen."""
    rate = matmul_flops(device, config.precision)
    if config.precision == "bfloat16" and 1.5 * rate < matmul_flops(device, "float32"):
        reporter.warn("bfloat16 is slower than float32 on this processor: set precision to float32")
    return rate * rank_and_workers()[1]


def resume(state: TrainState, config: TrainingConfig, checkpoints: Path, reporter: Reporter | None) -> None:
    """Put `state` where the newest intact checkpoint left it; the first worker chooses for all."""
    step = 0
    if reporter:
        checkpoints.mkdir(parents=True, exist_ok=True)
        newest, damaged = latest_intact(checkpoints)
        step = step_of(newest) if newest else 0
        for path in damaged:
            reporter.warn(f"checkpoint {path} is damaged; going on from step {step} instead")
    step = from_first_worker(step, state.gradients.flat.device)
    if step:
        counters = load_checkpoint(checkpoint_path(checkpoints, step), state.model, state.optimizer)
        state.step, state.seconds = step, counters["seconds"]
        state.interval = Interval(**counters["interval"])
    if reporter:
        reporter.rewind_metrics(step)
        reporter.committed(step, config.steps)


def save(state: TrainState, checkpoints: Path, keep: int) -> None:
    """Write a checkpoint of `state`; what is not a weight or the optimizer's is a counter."""
    counters = {"seconds": state.seconds, "interval": asdict(state.interval)}
    save_checkpoint(checkpoints, state.step, state.model, state.optimizer, counters, keep)
