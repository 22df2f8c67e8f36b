"""The one Ray file of this room: the same work in several processes, through Ray Train."""

import os
import uuid
from pathlib import Path
from typing import Any

from components.training.loop import NonFiniteLoss
from components.training.worker import Job, UnusableData, work

POLLS_PER_SECOND = 4
"""Of all workers together. Every poll is a task in the dashboard, which keeps the last 100,000 of all tasks; with fewer
polls the end of a training is noticed later."""
SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # it logs an error that is none
    "RAY_TRAIN_ENABLE_CONTROLLER_LOGGING": "0",
}


def work_on_ray(job: Job, storage: Path, name: str) -> None:
    """Run `work(job)` in `job.execution.workers` processes with `job.threads` cores each; Ray must be running.

    A lost worker makes all start again from the last checkpoint, twice at most. An error of the work itself is
    raised here as it was; data that cannot be trained on and a loss that is no number are not tried again. `storage`
    takes what Ray Train writes about the run; every node must see it. `name` is what the dashboard calls it.
    """
    every = f"{job.execution.workers / POLLS_PER_SECOND:g}"
    for setting, value in {**SETTINGS, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": every}.items():
        os.environ.setdefault(setting, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    gpus = job.execution.gpus_per_worker
    trainer = TorchTrainer(
        _ray_worker,  # type: ignore[arg-type]  # it may return a value; the annotation is older
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.execution.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job.threads, "GPU": gpus},
        ),
        run_config=RunConfig(
            # a new run for Ray at every attempt: our own checkpoints are what a training goes on from
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=2),
        ),
    )
    try:
        hopeless = trainer.fit().return_value  # type: ignore[attr-defined]  # annotated as V1's
    except WorkerGroupError as error:
        raise next(iter(error.worker_failures.values())) from error
    if hopeless is not None:
        raise hopeless


def _ray_worker(config: dict[str, Any]) -> Exception | None:
    """Returns instead of raising what would only happen again when Ray Train starts the workers anew.

    Only what all workers raise together: one that returned alone would leave the others waiting for it.
    """
    try:
        work(config["job"])
    except (NonFiniteLoss, UnusableData) as error:
        return error
    return None
