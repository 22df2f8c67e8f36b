"""Looks at held-out text while training, against evaluation and decoding, which look at the same text by themselves."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tiny_training import CONFIG, EXECUTION, killed_at, metrics_of, write_shards

from components.artifacts import Shards
from components.decoding.checks import heldout_steps
from components.evaluation.heldout import score_windows
from components.flow.cost import Outlook
from components.flow.stage_run import StageRun
from components.model.acceptance import tokens_per_forward_of
from components.model.config import Arrangement
from components.model.weights import load_model
from components.training.config import PretrainConfig
from components.training.stage import _open_heldout, pretrain

LOOKING = replace(EXECUTION, evaluate_every=6, evaluate_tokens=200)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


def config(arrangement: str) -> PretrainConfig:
    return replace(CONFIG, model=replace(CONFIG.model, n_future_tokens=3, arrangement=arrangement))


@pytest.mark.parametrize("arrangement", get_args(Arrangement))
def test_a_look_sees_what_evaluation_and_decoding_see(shards: Shards, tmp_path: Path, arrangement: str) -> None:
    """The last look, against the artifact; 6 windows of 32 tokens, 4 at a time."""
    run = StageRun.local(tmp_path, replace(LOOKING, micro_batch_sequences=4))
    checkpoint = pretrain(config(arrangement), shards, run)
    model = load_model(checkpoint.path).eval()
    windows = _open_heldout(shards.path, config(arrangement), LOOKING).windows_WS
    assert windows.shape == (6, 32 + 3)
    starts = list(range(len(windows)))
    *_, sums = score_windows(model, lambda i, _: windows[i], starts, 32, 5, torch.ones(258, dtype=torch.long))
    line = metrics_of(run)[-1]
    for i, score in enumerate(sums.scores(), 1):
        assert line[f"heldout/loss/head_{i}"] == pytest.approx(score.loss, rel=1e-5)
        assert line[f"heldout/top1/head_{i}"] == score.top1
    histogram = heldout_steps(model, windows[:, :32].tolist(), 0, [3])[3]
    assert sum(histogram[1:]) > 0, "some drafts are accepted"
    assert line["heldout/tokens_per_forward"] == tokens_per_forward_of(histogram)


def test_looking_changes_nothing_and_stands_at_its_steps(shards: Shards, tmp_path: Path) -> None:
    looking, blind = StageRun.local(tmp_path / "looking", LOOKING), StageRun.local(tmp_path / "blind", EXECUTION)
    assert pretrain(CONFIG, shards, looking).digest == pretrain(CONFIG, shards, blind).digest
    lines = metrics_of(looking)
    assert [line["step"] for line in lines if "heldout/tokens_per_forward" in line] == [6, 12, 18, 20]
    without = [{k: v for k, v in line.items() if not k.startswith("heldout/")} for line in lines]
    assert [line for line in without if len(line) > 1] == metrics_of(blind)
    losses = [line["heldout/loss/head_1"] for line in lines if "heldout/loss/head_1" in line]
    assert losses[-1] < losses[0], "it learns"


def test_a_killed_training_looks_again_and_sees_the_same(shards: Shards, tmp_path: Path) -> None:
    """The look after step 12 lies behind the checkpoint of step 10 and is made twice."""
    undisturbed = StageRun.local(tmp_path / "undisturbed", LOOKING)
    pretrain(CONFIG, shards, undisturbed)
    (tmp_path / "shards").symlink_to(shards.path)
    killed_at("data", 14, tmp_path, evaluate_every=6, evaluate_tokens=200)
    run = StageRun.local(tmp_path / "run", LOOKING)
    assert metrics_of(run)[-1]["step"] == 12
    pretrain(CONFIG, shards, run)
    assert metrics_of(run) == metrics_of(undisturbed)


def test_the_plan_counts_the_looks(shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many forward passes as there are, on as many windows, a third of a training's FLOPs each."""
    from components.training import heldout

    looked: list[int] = []
    look = heldout.look

    def watched(*args: Any, **told: Any) -> dict[str, float]:
        looked.append(told["heldout"].windows_WS[:, :32].numel())
        return look(*args, **told)

    monkeypatch.setattr(heldout, "look", watched)
    pretrain(CONFIG, shards, StageRun.local(tmp_path, LOOKING))
    cost = partial(Outlook, CONFIG, ({},), external=None)
    more = pretrain.cost(cost(LOOKING)).flops - pretrain.cost(cost(EXECUTION)).flops
    assert more == pytest.approx(sum(looked) * CONFIG.model.flops_per_token(32) / 3)


def test_too_little_held_out_text_is_said_and_not_looked_at(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", n_tokens=300)
    run = StageRun.local(tmp_path / "run", LOOKING)
    pretrain(CONFIG, shards, run)
    assert "heldout/" not in run.metrics_path.read_text()
    assert (
        "the validation split has 30 tokens and one window takes 34" in (run.directory / "warnings.jsonl").read_text()
    )
