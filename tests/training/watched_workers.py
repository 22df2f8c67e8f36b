"""Real training steps by several processes of a gloo group, watched in each as the simulation is."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer, initial_weight
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loss import window_targets
from components.training.simulate import kept, take_step, watched_step
from components.training.worker import make_state, set_weights

Setting = tuple[ModelConfig, TrainingConfig, TrainingExecution]
Seen = tuple[int, dict[str, int], dict[Any, int]]
"""Peak in bytes, what was in it, and collectives with their numbers."""


def watch_together(settings: Sequence[Setting], directory: Path, workers: int = 2) -> list[list[Seen]]:
    """The second step of each training, as each of the workers saw it."""
    torch.multiprocessing.start_processes(_worker, (settings, directory, workers), nprocs=workers, start_method="spawn")
    seen = [pickle.loads((directory / f"{rank}.pickle").read_bytes()) for rank in range(workers)]
    return [list(of_one) for of_one in zip(*seen, strict=True)]


def _worker(rank: int, settings: Sequence[Setting], directory: Path, workers: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{directory / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=workers)
    try:
        seen = [_watch(rank, workers, *setting) for setting in settings]
        (directory / f"{rank}.pickle").write_bytes(pickle.dumps(seen))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _watch(rank: int, workers: int, model: ModelConfig, config: TrainingConfig, execution: TrainingExecution) -> Seen:
    state = make_state(model, config, execution, torch.device("cpu"))
    with torch.device("meta"):
        shapes = [(name, p.shape) for name, p in MultiTokenTransformer(model).named_parameters()]
    set_weights(state.model, ((name, initial_weight(model, 1, name, shape)) for name, shape in shapes))
    length = config.context_length + model.n_future_tokens
    draw = torch.Generator().manual_seed(rank)
    sequences = config.sequences_per_step // workers
    batch = window_targets(
        torch.randint(0, model.vocabulary_size, (sequences, length), generator=draw), model.n_future_tokens
    )
    take_step(state, batch, config, execution)
    watch, _ = watched_step(state, batch, config, execution)
    return watch.peak_bytes, watch.at_peak(kept(state)), dict(watch.collectives)
