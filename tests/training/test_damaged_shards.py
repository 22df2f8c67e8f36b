"""A shard with one flipped byte is named before it is trained on, by every worker."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_training import CONFIG, EXECUTION, write_shards

from components.flow.stage_run import StageRun
from components.training.carry_out import initial_weights
from components.training.stage import _windows, pretrain
from components.training.worker import Job, UnusableData, work

DAMAGED = "train/shard-00001.arrow"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_one_worker_names_it_before_the_first_step(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    flip_a_byte(shards.path / DAMAGED)
    run = StageRun.local(tmp_path, EXECUTION)
    with pytest.raises(UnusableData, match=f"shard {shards.path / DAMAGED}; delete the folder {shards.path} and give"):
        pretrain(CONFIG, shards, run)
    assert not run.metrics_path.exists()


def test_damaged_heldout_text_is_named_where_it_would_be_looked_at(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    damaged = next((shards.path / "validation").glob("*.arrow"))
    flip_a_byte(damaged)
    with pytest.raises(UnusableData, match=f"shard {damaged}; delete"):
        pretrain(CONFIG, shards, StageRun.local(tmp_path / "looks", replace(EXECUTION, evaluate_every=5)))
    pretrain(CONFIG, shards, StageRun.local(tmp_path / "does-not", EXECUTION))


def worker(rank: int, directory: Path) -> None:
    """One of two processes of a group, which read a shard each."""
    store = f"file://{directory / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    run = StageRun.local(directory / "run", EXECUTION)
    open_data = partial(_windows, directory / "shards", CONFIG)
    try:
        weights = partial(initial_weights, CONFIG.model, CONFIG.training.seed)
        work(Job(CONFIG.training, EXECUTION, 1, CONFIG.model, weights, open_data, run.work / "checkpoints", run))
    except UnusableData as error:
        (directory / f"said-{rank}").write_text(str(error))
    finally:
        dist.destroy_process_group()


def test_the_worker_that_found_nothing_stops_with_the_other(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    flip_a_byte(shards.path / DAMAGED)
    torch.multiprocessing.start_processes(worker, (tmp_path,), nprocs=2, start_method="spawn")
    for rank in range(2):
        assert str(shards.path / DAMAGED) in (tmp_path / f"said-{rank}").read_text()
