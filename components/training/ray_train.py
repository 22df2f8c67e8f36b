"""The one Ray file of this room: the same work in several processes, through Ray Train.

Ray Train finds a lost worker and, elastic, settles how many there can be; from where to go on is ours: the newest
checkpoint, which loads at any number of workers.
"""

import os
import uuid
from pathlib import Path
from typing import Any

from components.training.checkpoint import list_checkpoints, step_of
from components.training.loop import NonFiniteLoss
from components.training.worker import Job, UnusableData, work

POLLS_PER_SECOND = 4
"""Of all workers together. Every poll is a task in the dashboard, which keeps the last 100,000 of all tasks; with fewer
polls the end of a training is noticed later."""
SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # it logs an error that is none
    "RAY_TRAIN_ENABLE_CONTROLLER_LOGGING": "0",
    # Ray's picture of the nodes is up to 20 s old: after that, workers that find no place will not find one
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
}
SECONDS_BETWEEN_LOOKS = 60.0
"""How often an elastic training that runs well looks whether there is room for more workers."""


class WorkersLost(RuntimeError):
    """Workers were lost more often than allowed, by Ray's word; what failed in others is what came of that."""


def work_on_ray(job: Job, storage: Path, name: str) -> None:
    """Run `work(job)` in `job.execution.workers` processes with `job.threads` cores each; Ray must be running.

    A lost worker makes all start again from the last checkpoint: as many as there is room for, where the execution has
    `min_workers`. After more than its `max_failures` losses without a newer checkpoint, WorkersLost is raised, or an
    error of the work as it was; data that cannot be trained on and a loss that is no number are not tried again.
    `storage` takes what Ray Train writes about the run; every node must see it. `name` is what the dashboard calls it.
    """
    every = f"{job.execution.workers / POLLS_PER_SECOND:g}"
    for setting, value in {**SETTINGS, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": every}.items():
        os.environ.setdefault(setting, value)
    from ray.train.v2.api.exceptions import WorkerGroupError

    losses, reached = 0, _steps_in_safety(job)
    while True:
        try:
            hopeless = _trainer(job, storage, name).fit().return_value
            break
        except WorkerGroupError as error:
            before, reached = reached, _steps_in_safety(job)
            losses = losses + 1 if reached == before else 1
            failures = error.worker_failures
            lost = {rank: why for rank, why in failures.items() if type(why).__module__.startswith("ray.")}
            said = _in_words(lost or failures, "were lost" if lost else "failed")
            if losses > job.execution.max_failures >= 0:
                if not lost:
                    raise next(iter(failures.values())) from error
                allowed = f"allowed (max_failures): {job.execution.max_failures}"
                raise WorkersLost(
                    f"{said}; losses since the checkpoint of step {reached}: {losses}, {allowed}"
                ) from error
            job.reporter.warn(f"{said}; training went on from step {reached}")
    if hopeless is not None:
        raise hopeless


def _trainer(job: Job, storage: Path, name: str) -> Any:
    """One attempt for Ray, which is not asked for others: it counts losses over a whole training, which would use up
    any number in weeks on many nodes."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    execution = job.execution
    gpus, most, fewest = execution.gpus_per_worker, execution.workers, execution.fewest_workers
    scaling: dict[str, Any] = {  # the annotations are those of an older ScalingConfig
        "num_workers": most if fewest == most else (fewest, most),
        "elastic_resize_monitor_interval_s": SECONDS_BETWEEN_LOOKS,
        "use_gpu": gpus > 0,
        "resources_per_worker": {"CPU": job.threads, "GPU": gpus},
    }
    return TorchTrainer(
        _ray_worker,  # type: ignore[arg-type]  # it may return a value; the annotation is older
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            # a new run for Ray at every attempt: our own checkpoints are what a training goes on from
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=0),
        ),
    )


def _steps_in_safety(job: Job) -> int:
    """Steps of the newest checkpoint."""
    return max(map(step_of, list_checkpoints(job.checkpoints)), default=0)


def _in_words(failures: dict[int, Exception], what: str) -> str:
    """Which workers ended a training."""
    named = ", ".join(f"rank {rank} ({type(why).__name__})" for rank, why in sorted(failures.items()))
    return f"training workers {what}: {named}"


def _ray_worker(config: dict[str, Any]) -> Exception | None:
    """Returns instead of raising what would only happen again when Ray Train starts the workers anew.

    Only what all workers raise together: one that returned alone would leave the others waiting for it.
    """
    try:
        work(config["job"])
    except (NonFiniteLoss, UnusableData) as error:
        return error
    return None
