"""The train step, a function of state and batch, and the loop that decides when things happen.

One loop for every scale: it runs in one process or, unchanged, in each data-parallel worker. Every worker takes
its share of the global batch; gradients and sums are added over workers once per step, so that one worker and
several give the same losses to rounding. Torch alone; what to train on and where to report come in as callables.

Shape suffixes: G sequences of this worker's share of a batch, T positions, K prediction heads.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import MultiTokenTransformer
from components.training.checkpoint import (
    CheckpointWriter,
    latest_intact,
    list_checkpoints,
    load_checkpoint,
    step_of,
)
from components.training.config import TrainingConfig, TrainingExecution
from components.training.cross_entropy import IGNORE
from components.training.loss import HeadSums, multi_token_backward
from components.training.metrics import Interval, OwnTimes, StepResult, matmul_flops, progress_text, step_metrics
from components.training.optimizer import Optimizer
from components.training.parallel import rank_and_workers, sum_over_workers
from components.training.placement import Placement, dtype_of
from components.training.schedule import active_heads, learning_rate
from components.training.trace import TRACE, part, traced
from components.training.whole import Whole

Batch = tuple[Tensor, Tensor]
"""tokens_GT and targets_KGT of this worker's share of one step."""


class Batches(Protocol):
    """What to train on, as a pure function of the step, counted from 0."""

    def batch(self, step: int) -> Batch:
        """This worker's share of a step."""

    def where(self, step: int) -> str:
        """What data that step is, over all workers, for an error."""


Look = Callable[[MultiTokenTransformer, Placement], Mapping[str, float]]
"""What is measured of a model while it is trained, by the metric's name; all workers call it together."""


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
    placement: Placement
    optimizer: Optimizer
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time in steps, over all attempts."""
    interval: Interval = field(default_factory=Interval)
    """Sums since the last line of metrics."""

    @staticmethod
    def fresh(model: MultiTokenTransformer, config: TrainingConfig, placement: Placement | None = None) -> "TrainState":
        """The state before step 1, with the model's weights as they are; placed as for one process on a CPU, if not
        otherwise."""
        return TrainState(
            model.train(),
            placement or Whole(model, dtype_of(config), separate_gradients=True),
            Optimizer(model, config),
        )

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device


def gradient_of_batch(
    state: TrainState, batch: Batch, config: TrainingConfig, micro_batch_sequences: int
) -> StepResult:
    """The gradient of one global batch, summed over workers and clipped, with what it measured. Waits for nothing."""
    tokens_GT, targets_KGT = batch
    K = active_heads(config, state.step, len(targets_KGT))
    targets_KGT = targets_KGT[:K]
    placement = state.placement
    started = time.perf_counter()
    placement.begin_step(K)
    counts_K = sum_over_workers((targets_KGT != IGNORE).sum((1, 2))).clamp(min=1).double()
    weights = config.head_weights or (1.0,) * K
    scale_K = torch.tensor(weights[:K], dtype=torch.float64, device=tokens_GT.device) / counts_K
    totals = torch.zeros(3, K, dtype=torch.float64, device=tokens_GT.device)
    micro_batches = _micro_batches((tokens_GT, targets_KGT), config, micro_batch_sequences)
    for place, (tokens_BT, targets_KBT) in enumerate(micro_batches, start=1):
        placement.begin_micro_batch(last=place == len(micro_batches))
        with torch.autocast(tokens_GT.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            sums = multi_token_backward(state.model, tokens_BT, targets_KBT, scale_K, placement=placement)
        totals += torch.stack(tuple(sums))
    busy_seconds = time.perf_counter() - started
    with part("sum over workers"):
        placement.finish()
        totals = F.pad(sum_over_workers(totals), (0, len(batch[1]) - K))
    return StepResult(HeadSums(*totals), placement.clip(config.clip_norm), busy_seconds)


def _micro_batches(batch: Batch, config: TrainingConfig, sequences: int) -> list[Batch]:
    """A worker's share in parts of so many sequences: as many parts as any worker has, since layers in parts are
    gathered by all together. A worker with fewer takes a sequence again, of which nothing counts."""
    tokens_GT, targets_KGT = batch
    starts = range(0, len(tokens_GT), sequences)
    parts = [(tokens_GT[s : s + sequences], targets_KGT[:, s : s + sequences]) for s in starts]
    workers = rank_and_workers()[1]
    if workers > 1 and len(parts) < math.ceil(math.ceil(config.sequences_per_step / workers) / sequences):
        parts.append((tokens_GT[:1], torch.full_like(targets_KGT[:, :1], IGNORE)))
    return parts


def train_step(state: TrainState, batch: Batch, config: TrainingConfig, micro_batch_sequences: int) -> StepResult:
    """One optimizer step on one global batch. NonFiniteLoss leaves weights and optimizer as they were."""
    result = gradient_of_batch(state, batch, config, micro_batch_sequences)
    if not (math.isfinite(norm := result.gradient_norm.item()) and result.sums.loss_K.isfinite().all()):
        losses = ", ".join(f"{loss:.4g}" for loss in (result.sums.loss_K / result.sums.count_K.clamp(min=1)).tolist())
        raise NonFiniteLoss(f"loss per head {losses}; gradient norm {norm:.4g}")
    with part("optimizer"):
        state.optimizer.step(learning_rate(config, state.step))
    state.step += 1
    return result


def train(
    state: TrainState,
    config: TrainingConfig,
    execution: TrainingExecution,
    data: Batches,
    checkpoints: Path,
    reporter: Reporter | None,
    look: Look | None = None,
) -> None:
    """Train to `config.steps`, going on from the newest intact checkpoint under `checkpoints` if there is one.

    `reporter` is the first worker's; others pass None. `look` is called every `execution.evaluate_every` steps.
    The first worker's trace of `execution.profile_steps` goes beside `checkpoints`. A non-finite loss stops with
    NonFiniteLoss, naming step and data, and keeps the checkpoints.
    """
    writer = CheckpointWriter(checkpoints, execution.keep_checkpoints, execution.asynchronous_checkpoints)
    resume(state, config, checkpoints, reporter)
    device = state.device
    roof = measured_roof(device, config, reporter) if reporter else 0.0
    recent, own, said, committed = Interval(), OwnTimes(), 0.0, state.step
    trace = traced(execution.profile_steps if reporter else 0, checkpoints.with_name(TRACE), device)
    with trace as stepped:
        while state.step < config.steps:
            started = time.perf_counter()
            with part("data"):
                batch = data.batch(state.step)
            own.add(data=time.perf_counter() - started)
            try:
                result = train_step(state, batch, config, execution.micro_batch_sequences)
            except NonFiniteLoss as error:
                writer.wait()
                saved = list_checkpoints(checkpoints)
                raise NonFiniteLoss(
                    f"step {state.step + 1} of {config.steps} is not finite: {error}. Its data: "
                    f"{data.where(state.step)}. Last good checkpoint: {saved[-1] if saved else 'none'}. "
                    "Lower learning_rate, or look at that data"
                ) from None
            seconds = time.perf_counter() - started
            state.seconds += seconds
            own.add(busy=result.busy_seconds)
            done = state.step == config.steps
            state.interval.add(result.sums, seconds)
            recent.add(result.sums, seconds)
            values: dict[str, float] = {}
            if due(execution.log_every, state.step, done) or state.step == 1:
                values = own.of_all_workers(device)
                if reporter:
                    values |= step_metrics(state.interval, result, state.model.config, config, state.step, roof, device)
                state.interval, own = Interval(), OwnTimes()
            if look is not None and due(execution.evaluate_every, state.step, done):
                values |= look(state.model, state.placement)
            if reporter and values:
                reporter.metrics(state.step, values)
            if due(execution.checkpoint_every, state.step, done):
                counters = {"seconds": state.seconds, "interval": asdict(state.interval)}
                writer.save(state.step, state.model, state.optimizer, counters)
                if done:
                    writer.wait()
            if reporter and writer.committed > committed:
                committed = writer.committed
                reporter.committed(committed, config.steps)
            if reporter and (done or time.monotonic() - said > 1):
                reporter.progress(state.step, config.steps, progress_text(recent, config))
                recent, said = Interval(), time.monotonic()
            stepped()


def due(every: int, step: int, done: bool) -> bool:
    """Whether what happens every so many steps (0: never), and at the end, happens after `step` steps."""
    return every > 0 and (done or step % every == 0)


def measured_roof(device: torch.device, config: TrainingConfig, reporter: Reporter) -> float:
    """FLOP/s that matrix products reach here on all workers together; warns where the precision is ill chosen."""
    rate = matmul_flops(device, config.precision)
    if config.precision == "bfloat16" and 1.5 * rate < matmul_flops(device, "float32"):
        reporter.warn("bfloat16 is slower than float32 on this processor: set precision to float32")
    return rate * rank_and_workers()[1]


def resume(state: TrainState, config: TrainingConfig, checkpoints: Path, reporter: Reporter | None) -> None:
    """Put `state` where the newest intact checkpoint left it."""
    if reporter:
        checkpoints.mkdir(parents=True, exist_ok=True)
    newest, damaged = latest_intact(checkpoints)
    step = step_of(newest) if newest else 0
    if newest:
        counters = load_checkpoint(newest, state.model, state.optimizer)
        state.step, state.seconds = step, counters["seconds"]
        state.interval = Interval(**counters["interval"])
    if reporter:
        for path in damaged:
            reporter.warn(f"checkpoint {path} is damaged; going on from step {step} instead")
        reporter.rewind_metrics(step)
        reporter.committed(step, config.steps)
