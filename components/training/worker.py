"""What one worker does. The same in the stage's own process and in a Ray Train worker."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from components.model.transformer import MultiTokenTransformer
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loop import Batches, Reporter, TrainState, train
from components.training.parallel import from_all_workers, rank_and_workers


@dataclass(frozen=True)
class Job:
    """A training as plain values, paths and module-level functions, so that other processes can be handed it."""

    config: TrainingConfig
    execution: TrainingExecution
    threads: int
    """CPU threads per worker."""
    make_model: Callable[[], MultiTokenTransformer]
    """The model before step 1."""
    open_data: Callable[[torch.device], Batches]
    checkpoints: Path
    """A directory that every worker sees."""
    reporter: Reporter
    """Used by the first worker alone."""


class UnusableData(ValueError):
    """The data cannot be trained on. All workers raise it together, whichever of them found out."""


def work(job: Job) -> None:
    """Train to the last step and leave its checkpoint. With several workers a process group must exist."""
    torch.set_num_threads(job.threads)
    on_gpu = job.execution.gpus_per_worker > 0
    if not on_gpu:
        keep_freed_memory()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    model = job.make_model().to(device)
    model.recompute_layers = job.execution.activation_checkpointing
    state = TrainState.fresh(model, job.config)
    reporter = job.reporter if rank_and_workers()[0] == 0 else None
    train(state, job.config, job.execution, _open(job, device), job.checkpoints, reporter)


def _open(job: Job, device: torch.device) -> Batches:
    """The data, once no worker finds fault with its share: nobody waits for one that has given up."""
    data, fault = None, ""
    try:
        data = job.open_data(device)
    except (ValueError, OSError) as error:
        fault = str(error)
    if faults := [said for said in dict.fromkeys(from_all_workers(fault)) if said]:
        raise UnusableData("\n".join(faults))
    assert data is not None
    return data


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, where it can be told so (glibc).

    By default it gives large blocks back to the system and every step pays for having them mapped anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 1 << 25)  # the largest that it accepts
