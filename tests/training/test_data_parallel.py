"""Two workers, each in a process of its own, against one."""

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_training import CONFIG, EXECUTION, metrics_of, write_shards

from components.flow.stage_run import StageRun
from components.model.weights import load_model
from components.training.checkpoint import checkpoint_path
from components.training.parallel import own_share
from components.training.stage import _new_model, _open_windows, pretrain
from components.training.worker import Job, work


def worker(rank: int, directory: Path) -> None:
    """One of two processes of a group."""
    store = f"file://{directory / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    run = StageRun.local(directory / "together", replace(EXECUTION, micro_batch_sequences=3))
    job = Job(
        config=CONFIG.training,
        execution=run.execution,
        threads=1,
        make_model=partial(_new_model, CONFIG),
        open_data=partial(_open_windows, directory / "shards", CONFIG),
        checkpoints=run.work / "checkpoints",
        reporter=run,
    )
    try:
        work(job)
        dist.barrier()  # the first writes the last checkpoint: nobody takes the group down beneath it
    finally:
        dist.destroy_process_group()


def test_two_workers_learn_what_one_learns(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    alone = StageRun.local(tmp_path / "alone", EXECUTION)
    reference = load_model(pretrain(CONFIG, shards, alone).path)
    torch.multiprocessing.start_processes(worker, (tmp_path,), nprocs=2, start_method="spawn")
    together = StageRun.local(tmp_path / "together")
    for ours, theirs in zip(metrics_of(together), metrics_of(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    model = load_model(checkpoint_path(together.work / "checkpoints", CONFIG.training.steps))
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("items", "workers"), [(8, 1), (8, 2), (8, 3), (3, 3), (2, 5)])
def test_shares_cover_a_batch_once(monkeypatch: pytest.MonkeyPatch, items: int, workers: int) -> None:
    shares = []
    for rank in range(workers):
        monkeypatch.setattr("components.training.parallel.rank_and_workers", lambda rank=rank: (rank, workers))
        shares.append(list(range(items))[own_share(items)])
    assert list(chain(*shares)) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
