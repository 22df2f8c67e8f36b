"""A cell of a grid: one training with its test, killed or not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.artifacts import Cell
from components.flow.cost import Outlook
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig
from components.model.weights import load_model
from components.synthetic import batches
from components.synthetic.config import CellConfig, PolynomialConfig
from components.synthetic.polynomials import Polynomials
from components.synthetic.score import score
from components.synthetic.stage import train_cell
from components.training.carry_out import initial_weights
from components.training.config import TrainingConfig, TrainingExecution

TASK = PolynomialConfig(p=3, d=2, operations=1, test_operations=2, answer_only=True)
CONFIG = CellConfig(
    TASK,
    ModelConfig(dim=32, layers=4, n_attention_heads=4, vocabulary_size=TASK.vocabulary_size, n_future_tokens=2),
    TrainingConfig(steps=40, batch_tokens=512, context_length=32, learning_rate=5e-3, warmup_steps=5),
    look_every=15,
    test_items=30,
)
EXECUTION = TrainingExecution(checkpoint_every=10, log_every=5, micro_batch_sequences=16)


def lines(run: StageRun) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def told(run: StageRun) -> list[dict[str, float]]:
    """The lines without what depends on the time and machine."""
    return [{k: v for k, v in line.items() if not k.startswith(("speed/", "memory/"))} for line in lines(run)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, StageRun]:
    run = StageRun.local(tmp_path_factory.mktemp("cell"), EXECUTION)
    return train_cell(CONFIG, run), run


def test_the_test_is_taken_at_equal_distances_and_the_last_is_the_result(undisturbed: tuple[Cell, StageRun]) -> None:
    cell, run = undisturbed
    taken = [line for line in lines(run) if "score/accuracy/m1" in line]
    assert [line["step"] for line in taken] == [15, 30, 40]
    assert cell.metrics == {name: taken[-1][f"score/{name}"] for name in ("accuracy/m1", "accuracy/m2")}
    again = score(load_model(cell.path), Polynomials(TASK).test(30), torch.float32)
    assert cell.metrics == again


def test_what_it_took_is_counted(undisturbed: tuple[Cell, StageRun]) -> None:
    cell, _ = undisturbed
    assert (cell.tokens, cell.n_future_tokens, cell.seed) == (40 * 512, 2, 1)
    assert cell.flops == 40 * 512 * CONFIG.model.flops_per_token(32)
    assert cell.parameters == sum(p.numel() for p in load_model(cell.path).parameters())
    assert cell.seconds > 0
    record = json.loads((cell.path / "cell.json").read_text())
    assert record["metrics"] == cell.metrics
    assert (cell.path / "example.txt").read_text().count("=") == 4
    planned = train_cell.cost(Outlook(CONFIG, (), EXECUTION, None, 0))
    assert (planned.tokens, planned.flops) == (cell.tokens, cell.flops)


def test_a_killed_cell_goes_on_to_the_same_bits(
    undisturbed: tuple[Cell, StageRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    batch = batches.TaskBatches.batch

    def killed(self: batches.TaskBatches, step: int) -> object:
        if step == 33:
            raise Killed
        return batch(self, step)

    run = StageRun.local(tmp_path, EXECUTION)
    with monkeypatch.context() as patched:
        patched.setattr(batches.TaskBatches, "batch", killed)
        with pytest.raises(Killed):
            train_cell(CONFIG, run)
    assert lines(run)[-1]["step"] == 30
    cell = train_cell(CONFIG, run)
    assert cell.overhead_seconds > 0
    assert (cell.digest, cell.metrics) == (undisturbed[0].digest, undisturbed[0].metrics)
    assert told(run) == told(undisturbed[1])


def test_seeds_differ_in_weights_and_data_and_share_the_test(
    undisturbed: tuple[Cell, StageRun], tmp_path: Path
) -> None:
    other = replace(CONFIG, training=replace(CONFIG.training, seed=2))
    cell = train_cell(other, StageRun.local(tmp_path, EXECUTION))
    assert cell.digest != undisturbed[0].digest
    assert cell.items == undisturbed[0].items
    one, two = (batches.TaskBatches(Polynomials(TASK), c.training, 2, torch.device("cpu")) for c in (CONFIG, other))
    assert not torch.equal(one.batch(0)[0], two.batch(0)[0])
    before = [dict(initial_weights(c.model, c.training.seed)) for c in (CONFIG, other)]
    drawn = [name for name, weights in before[0].items() if weights.std() > 0]
    assert drawn
    assert not any(torch.equal(before[0][name], before[1][name]) for name in drawn)
    assert cell.metrics == score(load_model(cell.path), Polynomials(TASK).test(30), torch.float32), "on the same test"


def test_another_test_of_the_same_weights_is_another_result(undisturbed: tuple[Cell, StageRun], tmp_path: Path) -> None:
    """What reads a cell must not take it for the other: it is told apart by its digest."""
    cell = train_cell(replace(CONFIG, test_items=5), StageRun.local(tmp_path, EXECUTION))
    assert cell.items == {"accuracy/m1": 5, "accuracy/m2": 5}
    assert cell.digest != undisturbed[0].digest
