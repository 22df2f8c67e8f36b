"""The train step and the loop: batches in parts, losses that are no number, what is logged."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, EXECUTION, metrics_of, with_execution, write_shards
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.artifacts import Shards
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.shards.reader import TokenReader
from components.training.config import PretrainConfig, TrainingConfig
from components.training.loop import NonFiniteLoss, TrainState, train_step
from components.training.loss import window_targets
from components.training.stage import pretrain
from components.training.windows import WindowBatches


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


def changed(**training) -> PretrainConfig:
    return replace(CONFIG, training=replace(CONFIG.training, **training))


def test_the_parts_a_batch_is_taken_in_do_not_matter(shards: Shards, tmp_path: Path) -> None:
    """8 sequences a step, at once, and 3 + 3 + 2."""
    curves = []
    for micro in (8, 3):
        run = with_execution(StageRun.local(tmp_path / str(micro), EXECUTION), micro_batch_sequences=micro)
        pretrain(changed(steps=8), shards, run)
        curves.append([line["loss/head_2"] for line in metrics_of(run)])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_what_is_logged_is_the_mean_over_the_steps_since_the_last_line(shards: Shards, tmp_path: Path) -> None:
    every, some = StageRun.local(tmp_path / "every", EXECUTION), StageRun.local(tmp_path / "some", EXECUTION)
    pretrain(changed(steps=10), shards, with_execution(every, log_every=1))
    checkpoint = pretrain(changed(steps=10), shards, with_execution(some, log_every=4))
    each = {line["step"]: line for line in metrics_of(every)}
    assert sorted(each) == list(range(1, 11))
    for line, steps in zip(metrics_of(some), ([1], [2, 3, 4], [5, 6, 7, 8], [9, 10]), strict=True):
        assert line["step"] == steps[-1]
        assert line["train/learning_rate"] == each[steps[-1]]["train/learning_rate"]
        for name in ("loss/head_1", "loss/head_2", "top1/head_1", "top1/head_2"):
            assert line[name] == pytest.approx(sum(each[step][name] for step in steps) / len(steps), rel=1e-9)
    assert each[1]["loss/head_1"] == pytest.approx(math.log(258), rel=0.05)
    assert each[10]["loss/head_1"] < each[1]["loss/head_1"] - 0.5, "it learns"
    assert (checkpoint.path / "metrics.jsonl").read_bytes() == some.metrics_path.read_bytes()


def test_the_checkpoint_says_what_it_cost(shards: Shards, tmp_path: Path) -> None:
    checkpoint = pretrain(changed(steps=3), shards, StageRun.local(tmp_path, EXECUTION))
    assert (checkpoint.steps, checkpoint.tokens, checkpoint.n_future_tokens) == (3, 768, 2)
    assert checkpoint.parameters == CONFIG.model.n_parameters()
    assert checkpoint.training_flops == 768 * CONFIG.model.flops_per_token(32)
    assert checkpoint.training_seconds > 0
    assert (checkpoint.path / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.parametrize("changes", [{"n_future_tokens": 3}, {"n_future_tokens": 4, "arrangement": "replicated"}])
def test_a_step_does_the_flops_that_are_counted_and_no_more(changes: dict) -> None:
    """The memory order repeats no forward and leaves nothing out."""
    model = MultiTokenTransformer(ModelConfig(dim=32, layers=5, vocabulary_size=50, **changes))
    config = TrainingConfig(steps=1, batch_tokens=96, context_length=16)
    state = TrainState.fresh(model, config)
    batch = window_targets(torch.zeros(6, 16 + model.config.n_future_tokens, dtype=torch.long), len(batch_heads(model)))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        train_step(state, batch, config, micro_batch_sequences=4)
    assert counter.get_total_flops() == 96 * model.config.flops_per_token(16)


def batch_heads(model: MultiTokenTransformer) -> range:
    return range(model.config.n_future_tokens)


def test_a_loss_that_is_no_number_stops_with_step_and_data(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight turns to infinity before step 13, as a broken memory or a wild learning rate would have it."""
    run = StageRun.local(tmp_path, EXECUTION)
    batch = WindowBatches.batch
    models: list[MultiTokenTransformer] = []
    fresh = TrainState.fresh
    monkeypatch.setattr(
        TrainState, "fresh", staticmethod(lambda model, *rest: (models.append(model), fresh(model, *rest))[1])
    )

    def poisoned(self: WindowBatches, step: int):
        if step == 12:
            with torch.no_grad():
                models[0].norm.weight[0] = math.inf
        return batch(self, step)

    monkeypatch.setattr(WindowBatches, "batch", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"step 13 of 20 .*nan") as caught:
        pretrain(CONFIG, shards, run)
    message = str(caught.value)
    places = re.findall(r"(shard-\d+\.arrow) at token (\d+)", message)
    assert len(places) == CONFIG.training.sequences_per_step
    assert f"Last good checkpoint: {run.work / 'checkpoints' / 'step-000010'}" in message
    assert [line["step"] for line in metrics_of(run)] == [1, 4, 8, 12]
    # the places are those of the step's windows
    from components.shards.order import GlobalOrder

    starts = GlobalOrder(shards.tokens["train"], 32, 8, CONFIG.training.seed).starts(12)
    reader = TokenReader(shards.path, "train")
    assert places == [(path.name, str(offset)) for path, offset in map(reader.locate, starts.tolist())]


def test_a_step_that_fails_changes_nothing() -> None:
    model = MultiTokenTransformer(CONFIG.model)
    model.init_weights(1)
    state = TrainState.fresh(model, CONFIG.training)
    batch = window_targets(torch.zeros(8, 34, dtype=torch.long), 2)
    train_step(state, batch, CONFIG.training, 8)
    moments = [v.clone() for p in model.parameters() for v in state.optimizer.kept(p).values()]
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    weights = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteLoss):
        train_step(state, batch, CONFIG.training, 8)
    assert state.step == 1
    for before, after in zip(weights, model.parameters(), strict=True):
        torch.testing.assert_close(before, after.detach(), rtol=0, atol=0, equal_nan=True)
    now = [v for p in model.parameters() for v in state.optimizer.kept(p).values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, now, strict=True))


def test_progress_ends_at_the_end(shards: Shards, tmp_path: Path) -> None:
    run = StageRun.local(tmp_path, EXECUTION)
    pretrain(changed(steps=3), shards, run)
    progress = (run.directory / "progress.json").read_text()
    assert re.search(r'"done": 3, "total": 3, "text": "loss \d\.\d\d, [\d,]+ tokens/s"', progress)


def test_a_vocabulary_that_is_not_the_shards_is_refused(shards: Shards, tmp_path: Path) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, vocabulary_size=300))
    with pytest.raises(ValueError, match=r"vocabulary_size is 300, but the shards were written with 258"):
        pretrain(config, shards, StageRun.local(tmp_path, EXECUTION))


def test_a_context_longer_than_the_corpus_is_refused(shards: Shards, tmp_path: Path) -> None:
    config = changed(context_length=8192, batch_tokens=8192)
    with pytest.raises(ValueError, match="context_length 8192"):
        pretrain(config, shards, StageRun.local(tmp_path, EXECUTION))


def test_more_workers_than_sequences_are_refused(shards: Shards, tmp_path: Path) -> None:
    run = with_execution(StageRun.local(tmp_path, EXECUTION), workers=9)
    with pytest.raises(ValueError, match="workers is 9, but a step has 8 sequences"):
        pretrain(CONFIG, shards, run)


def test_compiling_without_a_compiler_says_how_to_do_without(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = StageRun.local(tmp_path, replace(EXECUTION, compile=True))
    with pytest.raises(FileNotFoundError, match=r"there is no no-such-compiler: .* cluster\.training\.compile=false"):
        pretrain(CONFIG, shards, run)
