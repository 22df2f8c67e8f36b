"""A training step of one among many workers, without the workers and without the memory: its peak and what it sends.

The real code runs: model, placement, sharding, loss, backward passes, optimizer. Tensors are simulated (torch's
FakeTensorMode: shapes and no memory), and so are the other workers (a process group that answers at once). Nothing
depends on the data, so what is counted (`step_watch`) is what a real step would hold and send.

GPUs are simulated on the CPU device, as a build of torch without GPUs cannot make such tensors. What the two do
differently for memory's sake is put in its place: logits for as many positions at a time as on a GPU, attention by the
fused kernel at any length, norms by one that keeps its input alone, a cross entropy whose gradient takes the logits'
memory (Triton is presumed), and products that are added to a sum at once.
Compiled layers are simulated as they are before compilation. What the allocator, CUDA and NCCL take besides is not in
the figures.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from components.model import transformer
from components.model.config import ModelConfig
from components.training import loss
from components.training.config import NotSimulated, TrainingConfig, TrainingExecution
from components.training.loop import Batch, TrainState, gradient_of_batch
from components.training.schedule import learning_rate
from components.training.step_watch import Collective, StepWatch
from components.training.worker import make_state

SEEN_MICRO_BATCHES = 3
"""The first micro-batch of a step, the last, and one of those between them, which are all alike."""


@dataclass(frozen=True)
class Simulation:
    """What one worker, with the largest share of the batch and of the parameters, does in a step."""

    workers: int
    micro_batches: int
    """Micro-batches of the step."""
    peak_bytes: int
    """Most bytes of live tensors, from the second step on."""
    at_peak: Mapping[str, int]
    """What was there then: `parameters`, `gradients` and `optimizer` of its own, and `other`."""
    collectives: Mapping[Collective, int]
    """Exchanges of the whole step, and how often each comes."""

    def total(self, kind: str | None = None) -> tuple[int, int, float]:
        """(number, bytes of payload, bytes sent by each worker) of the collectives of a kind, or of all."""
        chosen = [(c, times) for c, times in self.collectives.items() if kind in (None, c.kind)]
        return (
            sum(times for _, times in chosen),
            sum(times * c.payload_bytes for c, times in chosen),
            sum(times * c.sent_bytes(self.workers) for c, times in chosen),
        )


def simulate(
    model: ModelConfig, config: TrainingConfig, execution: TrainingExecution, workers: int | None = None
) -> Simulation:
    """Simulate the second step of a training, all heads taking part; `workers` other than execution's if given.

    ValueError where a worker would have no sequence; NotSimulated where a process group is there already, or this
    version of torch has no simulated one.
    """
    config = replace(config, curriculum="none")
    execution = replace(execution, workers=workers or execution.workers, compile=False)
    workers = execution.workers
    if workers > config.sequences_per_step:
        raise ValueError(f"{workers} workers share {config.sequences_per_step} sequences per step; every one needs one")
    share = -(-config.sequences_per_step // workers)
    micro_batches = -(-share // execution.micro_batch_sequences)
    seen = min(micro_batches, SEEN_MICRO_BATCHES)
    sequences = share - (micro_batches - seen) * execution.micro_batch_sequences
    with simulated_workers(workers), _on_gpu(execution.gpus_per_worker > 0):
        from torch._subclasses.fake_tensor import FakeTensorMode

        simulated = FakeTensorMode(allow_non_fake_inputs=True)
        state = make_state(model, config, execution, torch.device("cpu"), simulated)
        with simulated:
            first = min(share, execution.micro_batch_sequences)
            take_step(state, *_batch(model, config, workers, first), execution)
            watch, starts = watched_step(state, *_batch(model, config, workers, sequences), execution)
            collectives = watch.collectives
            if micro_batches > seen:
                between = starts[2] - starts[1]
                for one, times in between.items():
                    collectives[one] += times * (micro_batches - seen)
            at_peak = watch.at_peak(kept(state))
    return Simulation(workers, micro_batches, watch.peak_bytes, at_peak, dict(collectives))


def take_step(state: TrainState, batch: Batch, config: TrainingConfig, execution: TrainingExecution) -> None:
    """One step, whose loss nobody looks at: what `train_step` does where all goes well."""
    gradient_of_batch(state, batch, config, execution.micro_batch_sequences)
    state.optimizer.step(learning_rate(config, state.step))
    state.step += 1


def watched_step(
    state: TrainState, batch: Batch, config: TrainingConfig, execution: TrainingExecution
) -> tuple[StepWatch, list[Counter[Collective]]]:
    """A step, of simulated or real tensors, and what was seen of it; then the collectives before each micro-batch."""
    starts: list[Counter[Collective]] = []
    placement = state.placement
    begin: Callable[[bool], None] = placement.begin_micro_batch

    def begin_micro_batch(last: bool) -> None:
        starts.append(Counter(watch.collectives))
        begin(last)

    placement.begin_micro_batch = begin_micro_batch  # type: ignore[method-assign]
    try:
        with watch_of(state, *batch) as watch:
            take_step(state, batch, config, execution)
    finally:
        del placement.begin_micro_batch
    return watch, starts


def watch_of(state: TrainState, *others: Tensor) -> StepWatch:
    """A watch that knows of what the state holds, and holds nothing of it: gradients may go while it is watched."""
    own = itertools.chain.from_iterable(kept(state).values())
    return StepWatch(itertools.chain(own, state.placement.own_tensors(), others))


def kept(state: TrainState) -> dict[str, list[Tensor]]:
    """This worker's parameters, gradients and state of the optimizer."""
    parameters = list(state.model.parameters())
    return {
        "parameters": list(parameters),
        "gradients": [p.grad for p in parameters if p.grad is not None],
        "optimizer": [tensor for p in parameters for tensor in state.optimizer.kept(p).values()],
    }


def _batch(model: ModelConfig, config: TrainingConfig, workers: int, sequences: int) -> tuple[Batch, TrainingConfig]:
    """A worker's share of a step with so many sequences for each, and the training that has such steps."""
    shape = (sequences, config.context_length)
    tokens, targets = (
        torch.zeros(shape, dtype=torch.long),
        torch.zeros((model.n_future_tokens, *shape), dtype=torch.long),
    )
    return (tokens, targets), replace(config, batch_tokens=workers * sequences * config.context_length)


@contextmanager
def simulated_workers(workers: int) -> Iterator[None]:
    """A process group of so many workers, of which this process is the first and the only one."""
    if workers == 1:
        yield
        return
    if dist.is_initialized():
        raise NotSimulated("this process has other workers already; simulate in a process of its own")
    try:
        from torch.testing._internal.distributed.fake_pg import FakeStore
    except ImportError as error:  # private: torch promises nothing
        raise NotSimulated(f"torch {torch.__version__} has no simulated process group ({error})") from None
    dist.init_process_group("fake", rank=0, world_size=workers, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _on_gpu(yes: bool) -> Iterator[None]:
    """While it holds, tensors of the CPU take the ways that those of a GPU take."""
    if not yes:
        yield
        return
    ways: list[tuple[Any, str, Any]] = [
        (loss, "CHUNK_TOKENS", {"cpu": loss.CHUNK_TOKENS["cuda"]}),
        (loss, "add_product", _add_product),
        (loss, "cross_entropy_gradient", _cross_entropy_in_place),
        (transformer, "causal_attention", _fused_attention),
        (transformer.RMSNorm, "forward", _fused_norm),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in ways]
    try:
        for owner, name, way in ways:
            setattr(owner, name, way)
        yield
    finally:
        for owner, name, way in before:
            setattr(owner, name, way)


def _add_product(sum_MN: Tensor, a_MC: Tensor, b_CN: Tensor) -> None:
    sum_MN.add_(1.0)


def _cross_entropy_in_place(
    logits_CV: Tensor, targets_C: Tensor, scale: Tensor, compiled: bool
) -> tuple[Tensor, Tensor]:
    return logits_CV, torch.empty(len(logits_CV), 3).sum(0, dtype=torch.float64)


def _fused_attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    grouped = q_BHTE.shape[1] != k_BHTE.shape[1]
    return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=True, enable_gqa=grouped)


class _NormOfGpu(torch.autograd.Function):
    """The shapes of torch's `_fused_rms_norm` on a GPU, which keeps its input and a number per position."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


def _fused_norm(self: transformer.RMSNorm, x: Tensor) -> Tensor:
    out: Tensor = _NormOfGpu.apply(x, self.weight.to(x.dtype))  # type: ignore[no-untyped-call]
    return out
