"""Trainings by several processes of a gloo group, spawned once for all of them."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from components.flow.stage_run import StageRun
from components.training.carry_out import initial_weights
from components.training.config import PretrainConfig, TrainingExecution
from components.training.loop import Batch
from components.training.parallel import rank_and_workers
from components.training.stage import _open_look, _windows
from components.training.windows import WindowBatches
from components.training.worker import Job, work


@dataclass(frozen=True)
class Tiny:
    """A training on `shards` that leaves its run under `directory`."""

    config: PretrainConfig
    execution: TrainingExecution
    shards: Path
    directory: Path
    until: int | None = None
    """Steps after which it stops as if the data could not be read any more."""
    slow_reader: tuple[int, float] | None = None
    """A rank, and the seconds by which its clock goes on while it reads a step's data."""


def train_together(trainings: Sequence[Tiny], workers: int = 2) -> list[StageRun]:
    """Carry the trainings out one after the other, in this process or in `workers` new ones."""
    if workers == 1:
        for training in trainings:
            _train(training)
    else:
        store = trainings[0].directory.parent / f"rendezvous-{trainings[0].directory.name}"
        store.parent.mkdir(parents=True, exist_ok=True)
        arguments = (trainings, f"file://{store}", workers)
        torch.multiprocessing.start_processes(_worker, arguments, nprocs=workers, start_method="spawn")
    return [StageRun.local(training.directory, training.execution) for training in trainings]


def _worker(rank: int, trainings: Sequence[Tiny], store: str, workers: int) -> None:
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # rather than go on without what was compiled
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=workers)
    try:
        for training in trainings:
            _train(training)
            dist.barrier()  # the first writes the last checkpoint: nobody takes the group down beneath it
    finally:
        dist.destroy_process_group()


def _train(training: Tiny) -> None:
    config, execution, shards = training.config, training.execution, training.shards
    run = StageRun.local(training.directory, execution)
    job = Job(
        config=config.training,
        execution=execution,
        threads=1,
        model=config.model,
        initial_weights=partial(initial_weights, config.model, config.training.seed),
        open_data=partial(_open_until, training),
        checkpoints=run.work / "checkpoints",
        reporter=run,
        open_look=partial(_open_look, shards, config, execution) if execution.evaluate_every else None,
    )
    with contextlib.suppress(Stopped):
        work(job)


class Stopped(Exception):
    pass


def _open_until(training: Tiny, device: torch.device) -> WindowBatches:
    batches = _windows(training.shards, training.config, device)
    batch = batches.batch

    def batch_or_stop(step: int) -> Batch:
        if step == training.until:
            raise Stopped
        if training.slow_reader and training.slow_reader[0] == rank_and_workers()[0]:
            clock, seconds = time.perf_counter, training.slow_reader[1]
            time.perf_counter = lambda: clock() + seconds
        return batch(step)

    batches.batch = batch_or_stop  # type: ignore[method-assign]
    return batches
