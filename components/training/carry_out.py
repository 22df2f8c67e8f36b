"""Carrying a training out for a stage: in its own process, or in Ray Train workers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from components.model.config import ModelConfig
from components.training.config import TrainingConfig, TrainingExecution

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from components.training.loop import Batches, Look, Reporter

    class StageRun(Reporter, Protocol):
        """What is needed of `components.flow`'s."""

        @property
        def name(self) -> str: ...
        @property
        def work(self) -> Path: ...
        @property
        def cpus(self) -> int: ...


def carry_out(
    config: TrainingConfig,
    model: ModelConfig,
    weights: "Callable[[], Iterator[tuple[str, Tensor]]]",
    open_data: "Callable[[torch.device], Batches]",
    run: "StageRun",
    execution: TrainingExecution,
    open_look: "Callable[[], Look] | None" = None,
) -> Path:
    """Train to the last step, going on from what is under `run.work`; returns the last checkpoint.

    In this process, or in Ray Train workers where there are several or GPUs. ValueError where a worker would have
    nothing to do. The callables cross to other processes: module-level functions, or `partial` of these.
    """
    from components.training.checkpoint import checkpoint_path
    from components.training.worker import Job, work

    if execution.workers > config.sequences_per_step:
        raise ValueError(
            f"workers is {execution.workers}, but a step has {config.sequences_per_step} sequences "
            "(batch_tokens / context_length); every worker needs one"
        )
    threads = threads_per_worker(execution, run.cpus)
    checkpoints = run.work / "checkpoints"
    job = Job(config, execution, threads, model, weights, open_data, checkpoints, run, open_look)
    if execution.workers == 1 and not execution.gpus_per_worker:
        work(job)
    else:
        from components.training.ray_train import work_on_ray

        work_on_ray(job, run.work / "ray", run.name)
    return checkpoint_path(checkpoints, config.steps)


def threads_per_worker(execution: TrainingExecution, cpus: int) -> int:
    """CPU threads of each worker of a stage that was granted so many cores."""
    return execution.cpus_per_worker or max(1, cpus // execution.workers)


def initial_weights(model: ModelConfig, seed: int) -> "Iterator[tuple[str, Tensor]]":
    """Every parameter before step 1, by name."""
    import torch

    from components.model.transformer import MultiTokenTransformer, initial_weight

    with torch.device("meta"):
        shapes = [(name, p.shape) for name, p in MultiTokenTransformer(model).named_parameters()]
    for name, shape in shapes:
        yield name, initial_weight(model, seed, name, shape)
