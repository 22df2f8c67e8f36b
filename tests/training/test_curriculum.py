"""How many heads count, and how much each: what rests rests whole, and what counts is weighed as it should be."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from tiny_training import CONFIG, EXECUTION, Stopped, metrics_of, stop_at, write_shards
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.artifacts import Shards
from components.flow.stage_run import StageRun
from components.model.config import Arrangement, ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.training.checkpoint import checkpoint_path, read_state
from components.training.config import Curriculum, PretrainConfig, TrainingConfig, TrainingExecution
from components.training.gradients import only_used_by
from components.training.loop import TrainState, gradient_of_batch, train_step
from components.training.loss import window_targets
from components.training.schedule import active_heads, mean_over_steps
from components.training.simulate import simulated_workers, watched_step
from components.training.stage import pretrain
from components.training.whole import Whole
from components.training.worker import make_state

K = 3
STEPS = 9


def config(**changes) -> TrainingConfig:
    plain = TrainingConfig(steps=STEPS, batch_tokens=64, context_length=16, warmup_steps=1, learning_rate=1e-2)
    return replace(plain, **changes)


def model_of(arrangement: str = "parallel") -> MultiTokenTransformer:
    shape = ModelConfig(
        dim=32, layers=5, n_attention_heads=4, vocabulary_size=40, n_future_tokens=K, arrangement=arrangement
    )
    model = MultiTokenTransformer(shape)
    model.init_weights(seed=1)
    return model


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    window = torch.randint(0, 40, (4, 16 + K), generator=torch.Generator().manual_seed(step))
    return window_targets(window, K)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.mark.parametrize("steps", [1, 7, 12, 100, 10_850])
@pytest.mark.parametrize("k_max", [1, 2, 4, 7])
def test_the_number_of_heads_is_aynetdinov_and_akbik_s(steps: int, k_max: int) -> None:
    """Their formulas for epoch e of E, in exact fractions."""
    for e in range(steps):
        stage = floor(e / Fraction(steps, k_max))
        assert active_heads(config(steps=steps, curriculum="forward"), e, k_max) == min(k_max, stage + 1)
        assert active_heads(config(steps=steps, curriculum="reverse"), e, k_max) == max(1, k_max - stage)
        assert active_heads(config(steps=steps), e, k_max) == k_max


@pytest.mark.parametrize("curriculum", get_args(Curriculum))
@pytest.mark.parametrize("arrangement", get_args(Arrangement))
def test_heads_that_rest_cost_no_flops(arrangement: str, curriculum: str) -> None:
    model, wanted = model_of(arrangement), config(curriculum=curriculum)
    state = TrainState.fresh(model, wanted)
    of_heads = partial(model.config.flops_per_token, 16)
    counts = []
    for step in range(STEPS):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            train_step(state, batch_of(step), wanted, micro_batch_sequences=4)
        counts.append(counter.get_total_flops())
        assert counts[-1] == 64 * mean_over_steps(wanted, K, of_heads, step, step + 1)
    assert sum(counts) == pytest.approx(wanted.tokens * mean_over_steps(wanted, K, of_heads), rel=1e-12)


@pytest.mark.parametrize("arrangement", get_args(Arrangement))
def test_data_parallel_workers_send_nothing_of_heads_that_rest(arrangement: str) -> None:
    shape, wanted = model_of(arrangement).config, config(curriculum="forward")
    with simulated_workers(2):
        state = make_state(shape, wanted, TrainingExecution(workers=2), torch.device("cpu"))
        state.model.init_weights(1)
        for step in range(STEPS):
            idle = only_used_by(state.model, active := active_heads(wanted, step, K))
            watch, _ = watched_step(state, batch_of(step), wanted, TrainingExecution(workers=2))
            payload = sum(times * c.payload_bytes for c, times in watch.collectives.items())
            small = 8 * active + 3 * 8 * active  # targets that count, and sums of the losses
            assert payload - small == 4 * (shape.n_parameters() - sum(p.numel() for p in idle))


def everything(state: TrainState, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
    """A parameter and what the optimizer keeps of it, as they are now."""
    kept = {name: tensor.clone() for name, tensor in state.optimizer.kept(parameter).items()}
    return kept | {"value": parameter.detach().clone()}


@pytest.mark.parametrize("curriculum", ["forward", "reverse"])
@pytest.mark.parametrize("arrangement", get_args(Arrangement))
def test_what_only_resting_heads_use_stands_still_and_all_else_moves(arrangement: str, curriculum: str) -> None:
    """Neither decay nor momentum moves it, and the optimizer's counts say in how many steps it was moved."""
    model = model_of(arrangement)
    wanted = config(curriculum=curriculum, weight_decay=0.5)
    state = TrainState.fresh(model, wanted)
    expected = dict.fromkeys(model.parameters(), 0)
    rested = 0
    for step in range(STEPS):
        idle = {id(p) for p in only_used_by(model, active_heads(wanted, step, K))}
        before = {name: everything(state, p) for name, p in model.named_parameters()}
        train_step(state, batch_of(step), wanted, micro_batch_sequences=2)
        for name, parameter in model.named_parameters():
            after = everything(state, parameter)
            if id(parameter) in idle:
                rested += 1
                assert after.keys() == before[name].keys()
                assert all(torch.equal(after[kept], before[name][kept]) for kept in after), name
            else:
                expected[parameter] += 1
                assert not torch.equal(after["value"], before[name]["value"]), f"{name} did not move"
    assert {p: state.optimizer.times_moved(p) for p in model.parameters()} == expected
    # by arrangement: layers of heads, matrices, tables; an anticausal chain runs through all of its heads
    assert (rested > 0) == (arrangement != "anticausal")
    assert sorted(set(expected.values())) == ([9] if arrangement == "anticausal" else [3, 6, 9])


@pytest.mark.parametrize("arrangement", get_args(Arrangement))
def test_the_gradient_is_that_of_the_naive_weighted_sum(arrangement: str) -> None:
    """In float64, with unequal weights of which one is 0, over uneven micro-batches."""
    weights = (1.0, 0.25, 0.0)
    model, naive = model_of(arrangement).double(), model_of(arrangement).double()
    tokens_GT, targets_KGT = batch_of(0)
    wanted = config(head_weights=weights, clip_norm=1e9)
    state = TrainState.fresh(model, wanted, Whole(model, torch.float64))
    gradient_of_batch(state, (tokens_GT, targets_KGT), wanted, micro_batch_sequences=3)
    logits_KGTV = naive(tokens_GT)
    losses = [F.cross_entropy(logits_KGTV[i].flatten(0, 1), targets_KGT[i].flatten()) for i in range(K)]
    sum(weight * loss for weight, loss in zip(weights, losses, strict=True)).backward()
    theirs = dict(naive.named_parameters())
    for name, parameter in model.named_parameters():
        expected = theirs[name].grad if theirs[name].grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12, msg=name)


def training(**changes) -> PretrainConfig:
    model = replace(CONFIG.model, n_future_tokens=K)
    return replace(CONFIG, model=model, training=replace(CONFIG.training, steps=12, **changes))


@pytest.mark.parametrize("curriculum", ["forward", "reverse"])
def test_stopped_in_the_middle_of_a_curriculum_it_goes_on_bit_for_bit(
    shards: Shards, tmp_path: Path, curriculum: str
) -> None:
    """Stopped after step 6, when two of three heads count; the checkpoint is that of step 5."""
    execution = replace(EXECUTION, checkpoint_every=5, log_every=1)
    whole, run = (StageRun.local(tmp_path / name, execution) for name in ("whole", "run"))
    expected = pretrain(training(curriculum=curriculum), shards, whole)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Stopped):
            pretrain(training(curriculum=curriculum), shards, run)
    assert pretrain(training(curriculum=curriculum), shards, run).digest == expected.digest
    assert metrics_of(run) == metrics_of(whole)
    states = [read_state(checkpoint_path(at.work / "checkpoints", 12)) for at in (whole, run)]
    assert states[0]["moved"] == states[1]["moved"]
    assert {states[0]["moved"][f"prediction_heads.{i}.ffn.down.weight"] for i in range(K)} == {4, 8, 12}


@pytest.mark.parametrize(
    ("curriculum", "heads"),
    [("forward", [1] * 4 + [2] * 4 + [3] * 4), ("reverse", [3] * 4 + [2] * 4 + [1] * 4), ("none", [3] * 12)],
)
def test_metrics_have_the_heads_that_count(shards: Shards, tmp_path: Path, curriculum: str, heads: list[int]) -> None:
    run = StageRun.local(tmp_path, replace(EXECUTION, log_every=1))
    checkpoint = pretrain(training(curriculum=curriculum), shards, run)
    of_heads = partial(training().model.flops_per_token, CONFIG.training.context_length)
    flops = checkpoint.tokens * sum(map(of_heads, heads)) / 12
    assert checkpoint.training_flops == pytest.approx(flops)
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    for line, active in zip(lines, heads, strict=True):
        for kind in ("loss", "top1"):
            named = sorted(name for name in line if name.startswith(f"{kind}/"))
            assert named == [f"{kind}/head_{i}" for i in range(1, active + 1)]
        per_token = line["speed/flops_per_second"] / line["speed/tokens_per_second"]
        assert per_token == pytest.approx(of_heads(active))
