"""Two Ray Train workers against one process, with workers lost on the way."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny_training
from tiny_training import CONFIG, EXECUTION, lose_second_worker, metrics_of, write_shards

from components.artifacts import Shards
from components.flow.stage_run import StageRun
from components.training.carry_out import carry_out, initial_weights
from components.training.config import TrainingExecution
from components.training.ray_train import WorkersLost
from components.training.stage import _checkpoint, pretrain

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def alone(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    run = StageRun.local(tmp_path_factory.mktemp("alone"), EXECUTION)
    pretrain(CONFIG, shards, run)
    return run


def train_on_ray(directory: Path, shards: Shards, execution: TrainingExecution, lost_at: tuple[int, ...]) -> StageRun:
    """Two workers, of which the second gets SIGKILL when it asks for the data of a step (from 0) in `lost_at`."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(tiny_training)  # workers cannot import it
    if not (directory / "shards").exists():
        (directory / "shards").symlink_to(shards.path)
    run = StageRun.local(directory / "run", replace(execution, workers=2), cpus=2)
    open_data = partial(lose_second_worker, directory, CONFIG, lost_at)
    weights = partial(initial_weights, CONFIG.model, CONFIG.training.seed)
    carry_out(CONFIG.training, CONFIG.model, weights, open_data, run, run.execution)
    return run


def same_losses(run: StageRun, alone: StageRun) -> None:
    lines = metrics_of(run)
    assert [line["step"] for line in lines] == [1, 4, 8, 12, 16, 20]
    for ours, theirs in zip(lines, metrics_of(alone), strict=True):
        for name in ("loss/head_1", "loss/head_2"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


def test_losses_with_progress_between_do_not_end_it(
    ray_local: None, shards: Shards, alone: StageRun, tmp_path: Path
) -> None:
    """Parts of the model on two workers, one of which is lost after step 7 and after step 12; one loss may be."""
    execution = replace(EXECUTION, sharding="full", checkpoint_every=5, max_failures=1)
    run = train_on_ray(tmp_path, shards, execution, (7, 12))
    assert all((tmp_path / f"killed-at-{step}").exists() for step in (7, 12))
    attempts = [path.name for path in (run.work / "ray").iterdir()]
    assert len(attempts) == 3
    assert all(name.startswith("local-") for name in attempts)  # the run's name, in Ray's logs too
    same_losses(run, alone)
    said = (run.directory / "warnings.jsonl").read_text().splitlines()
    lost = "training workers were lost: rank 1 (WorkerHealthCheckFailedError); training went on from step"
    assert said == [f'"{lost} 5"', f'"{lost} 10"']
    assert _checkpoint(CONFIG.training, shards.path / "tokenizer", run).steps == 20


def test_one_loss_too_many_ends_it_and_the_next_run_goes_on(
    ray_local: None, shards: Shards, alone: StageRun, tmp_path: Path
) -> None:
    execution = replace(EXECUTION, max_failures=0)
    with pytest.raises(WorkersLost, match=r"lost: rank 1 \(\w+\); .* of step 10: 1, allowed \(max_failures\): 0"):
        train_on_ray(tmp_path, shards, execution, (14,))
    run = train_on_ray(tmp_path, shards, execution, (9,))  # it does not come past that step again
    assert not (tmp_path / "killed-at-9").exists()
    same_losses(run, alone)
