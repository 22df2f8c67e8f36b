"""A training of up to two workers on a cluster of two nodes of one core each, of which one goes and another comes.

python two_nodes.py DIRECTORY: trains on the shards there and leaves its run under `run`, and in `workers` with how many
workers each attempt was made. The second node is taken away in mid-step; when one worker alone has come to step 14,
a new node joins and that worker stands still until there are two.
"""

import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from components.flow.cluster import environment

if __name__ == "__main__":
    os.environ |= environment(loopback=False)  # before anything imports Ray
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"

import tiny_training
from tiny_training import CONFIG, EXECUTION

from components.flow.stage_run import StageRun
from components.training import ray_train
from components.training.carry_out import carry_out, initial_weights
from components.training.loop import Batch
from components.training.parallel import rank_and_workers
from components.training.stage import _windows
from components.training.windows import WindowBatches

LOST_AT, ALONE_UNTIL = 7, 14


def data(directory: Path, device: torch.device) -> WindowBatches:
    batches = _windows(directory / "shards", CONFIG, device)
    batch = batches.batch
    rank, workers = rank_and_workers()
    if rank == 0:
        with (directory / "workers").open("a") as file:
            file.write(f"{workers}\n")

    def batch_or_wait(asked: int) -> Batch:
        if workers == 2 and asked == LOST_AT:
            (directory / "lose").touch()
            while not (directory / "lost").exists() or rank == 1:
                time.sleep(0.1)
        if workers == 1 and asked == ALONE_UNTIL:
            (directory / "join").touch()
            while True:
                time.sleep(0.1)
        return batch(asked)

    batches.batch = batch_or_wait  # type: ignore[method-assign]
    return batches


def train(directory: Path) -> None:
    execution = replace(EXECUTION, workers=2, min_workers=1, checkpoint_every=5)
    run = StageRun.local(directory / "run", execution, cpus=2)
    weights = partial(initial_weights, CONFIG.model, CONFIG.training.seed)
    carry_out(CONFIG.training, CONFIG.model, weights, partial(data, directory), run, execution)


def wait_for(path: Path, training: Future[None]) -> None:
    while not path.exists() and not training.done():
        time.sleep(0.1)


def main(directory: Path) -> None:
    import ray
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    ray_train.SECONDS_BETWEEN_LOOKS = 5.0
    for module in (tiny_training, sys.modules["__main__"]):
        cloudpickle.register_pickle_by_value(module)  # workers cannot import them
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(train, directory)
            wait_for(directory / "lose", training)
            cluster.remove_node(second, allow_graceful=False)
            (directory / "lost").touch()
            wait_for(directory / "join", training)
            cluster.add_node(num_cpus=1)
            training.result()
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
