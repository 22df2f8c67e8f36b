"""What one worker does. The same in the stage's own process and in a Ray Train worker."""

import ctypes
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.model.config import ModelConfig
from components.model.transformer import Layer, MultiTokenTransformer
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loop import Batches, Look, Reporter, TrainState, train
from components.training.parallel import from_all_workers, rank_and_workers
from components.training.placement import Placement, dtype_of
from components.training.sharded import Sharded, fill_parts, shard
from components.training.whole import Whole


@dataclass(frozen=True)
class Job:
    """A training as plain values, paths and module-level functions, so that other processes can be handed it."""

    config: TrainingConfig
    execution: TrainingExecution
    threads: int
    """CPU threads per worker."""
    model: ModelConfig
    initial_weights: Callable[[], Iterable[tuple[str, Tensor]]]
    """The parameters before step 1 by name, whole, one at a time."""
    open_data: Callable[[torch.device], Batches]
    checkpoints: Path
    """A directory that every worker sees."""
    reporter: Reporter
    """Used by the first worker alone."""
    open_look: Callable[[], Look] | None = None
    """What to measure while training, where there is anything."""


class UnusableData(ValueError):
    """The data cannot be trained on. All workers raise it together, whichever of them found out."""


def work(job: Job) -> None:
    """Train to the last step and leave its checkpoint. With several workers a process group must exist."""
    torch.set_num_threads(job.threads)
    on_gpu = job.execution.gpus_per_worker > 0
    if not on_gpu:
        keep_freed_memory()
        if fault := job.execution.lacks_compiler:  # which torch would say late, and not how to do without
            raise FileNotFoundError(fault)
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    state = make_state(job.model, job.config, job.execution, device)
    set_weights(state.model, job.initial_weights())
    reporter = job.reporter if rank_and_workers()[0] == 0 else None
    data, look = _open(job, device)
    train(state, job.config, job.execution, data, job.checkpoints, reporter, look)


def make_state(
    model: ModelConfig,
    config: TrainingConfig,
    execution: TrainingExecution,
    device: torch.device,
    memory: AbstractContextManager[Any] | None = None,
) -> TrainState:
    """A training whose weights are yet to be set; no worker ever holds more than its part. `memory`: see `place`."""
    with torch.device("meta"):
        empty = MultiTokenTransformer(model)
    return TrainState.fresh(empty, config, place(empty, config, execution, device, memory))


def place(
    model: MultiTokenTransformer,
    config: TrainingConfig,
    execution: TrainingExecution,
    device: torch.device,
    memory: AbstractContextManager[Any] | None = None,
) -> Placement:
    """Give a model that has no memory yet (made on the meta device) its place on `device`; its weights are not set.

    Compiled layers and activation checkpointing are set up here too, since they wrap what is placed. `memory`: what
    holds while tensors are made, where they are simulated (`training.simulate`).
    """
    dtype = dtype_of(config)
    model.recompute_layers = execution.activation_checkpointing
    if execution.compile:
        for layer in [*(module for module in model.modules() if isinstance(module, Layer)), model.norm]:
            layer.forward = torch.compile(layer.forward, dynamic=False)
    workers = rank_and_workers()[1]
    mesh = shard(model, dtype, execution, device) if execution.sharding == "full" and workers > 1 else None
    with memory or nullcontext():
        if mesh is None:
            model.to_empty(device=device)
            model.tie_embeddings()
            return Whole(model, dtype, execution.compile, execution.separate_gradients(workers))
        fill_parts(model, mesh, device)
        return Sharded(model, dtype, execution)


def set_weights(model: MultiTokenTransformer, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Set the parameters, wherever they live, to whole tensors that come one at a time; each worker keeps its part."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights:
            parameter = parameters.pop(name)
            if isinstance(parameter, DTensor):
                mesh = parameter.device_mesh
                whole = tensor.to(parameter.to_local().device)
                tensor = distribute_tensor(whole, mesh, parameter.placements, src_data_rank=None)
            parameter.copy_(tensor)
    assert not parameters, f"without a value: {sorted(parameters)}"


def _open(job: Job, device: torch.device) -> tuple[Batches, Look | None]:
    """Data and what to measure, once no worker finds fault with its share: nobody waits for one that has given up."""
    data, look, fault = None, None, ""
    try:
        data = job.open_data(device)
        if job.open_look and job.execution.evaluate_every:
            look = job.open_look()
    except (ValueError, OSError) as error:
        fault = str(error)
    if faults := [said for said in dict.fromkeys(from_all_workers(fault)) if said]:
        raise UnusableData("\n".join(faults))
    assert data is not None
    return data, look


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, where it can be told so (glibc).

    By default it gives large blocks back to the system and every step pays for having them mapped anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 1 << 25)  # the largest that it accepts
