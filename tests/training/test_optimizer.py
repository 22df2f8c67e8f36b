"""AdamW, its groups, clipping and the learning rate."""

import math
from dataclasses import replace

import pytest
import torch

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.training.config import TrainingConfig
from components.training.loop import TrainState, train_step
from components.training.loss import window_targets
from components.training.optimizer import Optimizer, parameter_groups
from components.training.placement import gradient_of
from components.training.schedule import learning_rate
from components.training.whole import Whole

CONFIG = TrainingConfig(steps=10, batch_tokens=64, context_length=16, warmup_steps=2, learning_rate=1e-2)


def model_of(n: int, **changes) -> MultiTokenTransformer:
    shape = {"dim": 32, "layers": 5, "n_attention_heads": 4, "vocabulary_size": 40, "n_future_tokens": n}
    model = MultiTokenTransformer(ModelConfig(**shape | changes))
    model.init_weights(seed=1)
    return model


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"arrangement": "replicated"}])
def test_every_parameter_is_in_one_group_and_moves_at_step_1(changes: dict) -> None:
    model = model_of(3, **changes)
    grouped = [id(p) for group in parameter_groups(model, CONFIG) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    state = TrainState.fresh(model, CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    window = torch.randint(0, 40, (4, 19), generator=torch.Generator().manual_seed(0))
    train_step(state, window_targets(window, 3), CONFIG, micro_batch_sequences=4)
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), f"{name} has no gradient"
        assert not torch.equal(parameter, before[name]), f"{name} did not move"


def test_tied_weights_are_updated_once() -> None:
    grouped = [p for group in parameter_groups(model_of(1, tied_embeddings=True), CONFIG) for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})


def test_updates_are_those_of_decoupled_adam() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, in plain arithmetic: decay on matrices, none on norm gains."""
    model = model_of(1)
    state = TrainState.fresh(model, CONFIG)
    matrix, gain = model.trunk[0].ffn.down.weight, model.trunk[0].ffn_norm.weight
    expected = {p: p.detach().double().clone() for p in (matrix, gain)}
    mean, square = dict.fromkeys(expected, 0.0), dict.fromkeys(expected, 0.0)
    for step in range(3):
        window = torch.randint(0, 40, (4, 17), generator=torch.Generator().manual_seed(step))
        train_step(state, window_targets(window, 1), CONFIG, micro_batch_sequences=4)
        rate = 1e-2 * (step + 1) / 2 if step < 2 else learning_rate(CONFIG, step)
        for parameter, decay in ((matrix, 0.1), (gain, 0.0)):
            gradient = parameter.grad.double()
            mean[parameter] = 0.9 * mean[parameter] + 0.1 * gradient
            square[parameter] = 0.95 * square[parameter] + 0.05 * gradient**2
            move = mean[parameter] / (1 - 0.9 ** (step + 1))
            move = move / ((square[parameter] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
            expected[parameter] = expected[parameter] * (1 - rate * decay) - rate * move
            torch.testing.assert_close(parameter.detach().double(), expected[parameter], rtol=1e-4, atol=1e-6)


def test_embedding_and_unembedding_have_their_own_rate_and_the_same_decay() -> None:
    """The first step of Adam moves every number by the learning rate, whatever its gradient (Kingma & Ba 2015, 2.1)."""
    config = replace(CONFIG, embedding_rate_ratio=4.0, weight_decay=0.0, warmup_steps=0)
    for ratio, decay in ((1.0, 0.0), (4.0, 0.0), (4.0, 0.5)):
        model = model_of(1)
        state = TrainState.fresh(model, replace(config, embedding_rate_ratio=ratio, weight_decay=decay))
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        window = torch.randint(0, 40, (4, 17), generator=torch.Generator().manual_seed(0))
        train_step(state, window_targets(window, 1), config, micro_batch_sequences=4)
        for name, parameter in model.named_parameters():
            rate = 1e-2 * (ratio if name in ("embedding.weight", "unembedding.0.weight") else 1.0)
            decayed = before[name] * (1 - 1e-2 * decay * (parameter.dim() > 1))
            sign = parameter.grad.sign() * (parameter.grad.abs() > 1e-5)  # where eps is nothing beside it
            moved = (parameter.detach() - decayed) * sign.abs()
            torch.testing.assert_close(moved, -rate * sign, rtol=2e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("separate", [False, True])
def test_a_long_gradient_is_scaled_to_the_norm_and_a_short_one_kept(separate: bool) -> None:
    model = model_of(2)
    placement = Whole(model, torch.float32, separate_gradients=separate)
    generator = torch.Generator().manual_seed(0)
    original = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), original, strict=True):
        gradient_of(parameter).copy_(gradient)
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in original))
    assert placement.clip(2 * norm).item() == pytest.approx(norm, rel=1e-5)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), original, strict=True))
    placement.clip(0.5)
    for parameter, gradient in zip(model.parameters(), original, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * (0.5 / norm), rtol=1e-5, atol=0)
    placement.begin_step(2)
    assert placement.clip(1.0).item() == 0


def test_weights_are_float32_under_bfloat16_arithmetic() -> None:
    config = TrainingConfig(steps=2, batch_tokens=64, context_length=16, precision="bfloat16")
    state = TrainState.fresh(model_of(2), config)
    window = torch.randint(0, 40, (4, 18), generator=torch.Generator().manual_seed(0))
    rounded = train_step(state, window_targets(window, 2), config, micro_batch_sequences=4)
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert {v.dtype for p in state.model.parameters() for v in state.optimizer.kept(p).values()} == {torch.float32}
    exact = train_step(TrainState.fresh(model_of(2), CONFIG), window_targets(window, 2), CONFIG, 4)
    torch.testing.assert_close(rounded.sums.loss_K, exact.sums.loss_K, rtol=1e-3, atol=0)
    assert not torch.equal(rounded.sums.loss_K, exact.sums.loss_K), "the setting has an effect"


def test_learning_rate_at_the_marks() -> None:
    """Table S13: linear warm-up, cosine to the decay ratio."""
    config = TrainingConfig(steps=1001, warmup_steps=100, learning_rate=3e-4, decay_ratio=0.1)
    assert learning_rate(config, 0) == pytest.approx(3e-6)
    assert learning_rate(config, 49) == pytest.approx(1.5e-4)
    assert learning_rate(config, 99) == learning_rate(config, 100) == pytest.approx(3e-4)
    assert learning_rate(config, 550) == pytest.approx(3e-4 * 0.55)
    assert learning_rate(config, 1000) == pytest.approx(3e-5)
    rates = [learning_rate(config, step) for step in range(100, 1001)]
    assert rates == sorted(rates, reverse=True)


def test_torch_has_the_same_cosine() -> None:
    config = TrainingConfig(steps=50, warmup_steps=0, learning_rate=1.0, decay_ratio=0.03)
    optimizer = Optimizer(model_of(1), config).adamw
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=49, eta_min=0.03)
    for step in range(50):
        assert learning_rate(config, step) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (3, 3), (60, 100)])
def test_short_trainings_have_a_learning_rate(steps: int, warmup: int) -> None:
    """SAMSum in Table S13 has 60 steps and 100 of warm-up: the peak is never reached."""
    config = TrainingConfig(steps=steps, warmup_steps=warmup, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
