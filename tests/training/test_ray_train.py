"""Two Ray Train workers against one process, with a worker lost on the way."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny_training
from tiny_training import CONFIG, EXECUTION, lose_second_worker_once, metrics_of, write_shards

from components.flow.stage_run import StageRun
from components.training.stage import _carry_out, _checkpoint, _initial_weights, pretrain


@pytest.mark.ray
def test_two_ray_workers_learn_what_one_process_learns(ray_local: None, tmp_path: Path) -> None:
    """A worker of rank 1 gets SIGKILL at step 15; both start again from the checkpoint of step 10."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(tiny_training)  # workers cannot import it
    shards = write_shards(tmp_path / "shards")
    alone = StageRun.local(tmp_path / "alone", EXECUTION)
    pretrain(CONFIG, shards, alone)
    run = StageRun.local(tmp_path / "run", replace(EXECUTION, workers=2), cpus=2)
    open_data = partial(lose_second_worker_once, tmp_path, CONFIG, 14)
    _carry_out(CONFIG.training, CONFIG.model, partial(_initial_weights, CONFIG), open_data, run)
    assert (tmp_path / "killed").exists()
    (named,) = (run.work / "ray").iterdir()
    assert named.name.startswith("local-")  # the run's name, in Ray's logs too
    lines = metrics_of(run)
    assert [line["step"] for line in lines] == [1, 4, 8, 12, 16, 20]
    for ours, theirs in zip(lines, metrics_of(alone), strict=True):
        for name in ("loss/head_1", "loss/head_2"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    assert _checkpoint(CONFIG.training, shards.path / "tokenizer", run).steps == 20
