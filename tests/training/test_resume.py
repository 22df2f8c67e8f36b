"""A training that is killed goes on as if nothing had happened."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, EXECUTION, Stopped, killed_at, metrics_of, stop_at, write_shards

from components.artifacts import Checkpoint, Shards
from components.flow.stage_run import StageRun
from components.training.checkpoint import load_trained_model
from components.training.stage import pretrain
from components.training.windows import WindowBatches


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def undisturbed(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, StageRun]:
    torch.set_num_threads(1)
    run = StageRun.local(tmp_path_factory.mktemp("undisturbed"), EXECUTION)
    return pretrain(CONFIG, shards, run), run


def pretrain_until(step: int, shards: Shards, run: StageRun) -> None:
    """Train until the data of a step is asked for; that raises, as an unreadable disk would."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            pretrain(CONFIG, shards, run)


def test_killed_after_a_checkpoint_it_goes_on_bit_for_bit(
    undisturbed: tuple[Checkpoint, StageRun], tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards")
    killed_at("data", 14, tmp_path)
    run = StageRun.local(tmp_path / "run", EXECUTION)
    assert json.loads((run.work / "committed.json").read_text()) == {"done": 10, "total": 20}
    assert [line["step"] for line in metrics_of(run)] == [1, 4, 8, 12], "it had come further than its checkpoint"
    checkpoint = pretrain(CONFIG, shards, run)
    assert checkpoint.digest == undisturbed[0].digest
    assert metrics_of(run) == metrics_of(undisturbed[1])
    assert [line["step"] for line in metrics_of(run)] == [1, 4, 8, 12, 16, 20]


def test_stopped_before_the_first_checkpoint_it_starts_anew(
    shards: Shards, undisturbed: tuple[Checkpoint, StageRun], tmp_path: Path
) -> None:
    run = StageRun.local(tmp_path, EXECUTION)
    pretrain_until(6, shards, run)
    assert pretrain(CONFIG, shards, run).digest == undisturbed[0].digest
    assert metrics_of(run) == metrics_of(undisturbed[1])


def truncate_weights(checkpoint: Path) -> None:
    (path,) = checkpoint.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(checkpoint: Path) -> None:
    (path,) = checkpoint.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty_the_state(checkpoint: Path) -> None:
    (checkpoint / "state.json").write_text("")


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "model.json").unlink()


@pytest.mark.parametrize("damage", [truncate_weights, flip_a_bit, empty_the_state, lose_a_file])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    shards: Shards,
    undisturbed: tuple[Checkpoint, StageRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage,
) -> None:
    run = StageRun.local(tmp_path, replace(EXECUTION, checkpoint_every=5))
    pretrain_until(13, shards, run)
    checkpoints = run.work / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000005", "step-000010"]
    damage(checkpoints / "step-000010")
    asked: list[int] = []
    batch = WindowBatches.batch
    monkeypatch.setattr(WindowBatches, "batch", lambda self, step: (asked.append(step), batch(self, step))[1])
    assert pretrain(CONFIG, shards, run).digest == undisturbed[0].digest
    assert asked == list(range(5, 20))
    assert metrics_of(run) == metrics_of(undisturbed[1])
    warnings = (run.directory / "warnings.jsonl").read_text()
    assert "step-000010 is damaged; going on from step 5" in warnings
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000015", "step-000020"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_killed_while_it_writes_a_checkpoint_it_goes_on_from_the_one_before(
    undisturbed: tuple[Checkpoint, StageRun], tmp_path: Path, asynchronous: bool
) -> None:
    """The files are there, the name is not; asynchronous, steps have been made meanwhile."""
    shards = write_shards(tmp_path / "shards")
    execution = {"checkpoint_every": 5, "asynchronous_checkpoints": asynchronous}
    killed_at("checkpoint", 10, tmp_path, **execution)
    run = StageRun.local(tmp_path / "run", replace(EXECUTION, **execution))
    names = sorted(path.name for path in (run.work / "checkpoints").iterdir())
    assert names == ["step-000005", "unfinished-step-000010"]
    assert pretrain(CONFIG, shards, run).digest == undisturbed[0].digest
    assert metrics_of(run) == metrics_of(undisturbed[1])


def test_a_finished_training_only_lays_out_its_result(
    shards: Shards, undisturbed: tuple[Checkpoint, StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its last checkpoint and the manifest."""
    checkpoint, run = undisturbed
    stop_at(monkeypatch, -1)
    monkeypatch.setattr("components.training.loop.train_step", None)
    again = pretrain(CONFIG, shards, run)
    assert again == checkpoint


def test_a_checkpoint_has_the_final_weights_and_holds_no_pickle(undisturbed: tuple[Checkpoint, StageRun]) -> None:
    from components.model.weights import load_model

    last = undisturbed[1].work / "checkpoints" / "step-000020"
    model, final = load_trained_model(last), load_model(undisturbed[0].path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), final.parameters(), strict=True))
    assert {path.suffix for path in last.iterdir()} == {".json", ".safetensors"}
