"""How the prediction heads hang together: the paper's formulas (Appendix B), written out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from components.model.config import LAYER_ARRANGEMENTS, ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import keep_heads

SHAPE = {"dim": 32, "layers": 6, "n_attention_heads": 4, "vocabulary_size": 61}
TOKENS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(0))
EVERY: dict[str, dict[str, object]] = {
    name: {"arrangement": name} for name in (*LAYER_ARRANGEMENTS, "linear", "replicated")
} | {f"{name}, extra": {"arrangement": name, "extra_layers": True} for name in LAYER_ARRANGEMENTS}
EVERY_ARRANGEMENT = pytest.mark.parametrize("changes", EVERY.values(), ids=EVERY)


def drawn(n: int, **changes: object) -> MultiTokenTransformer:
    """Weights so large that every part shows in the logits, norms' gains and `linear` heads' matrices too."""
    model = MultiTokenTransformer(ModelConfig(**SHAPE | changes, n_future_tokens=n))
    generator = torch.Generator().manual_seed(n)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    return model.eval()


Compose = Callable[[list[Callable[[Tensor], Tensor]], Tensor], list[Tensor]]


def by_hand(model: MultiTokenTransformer, compose: Compose) -> Tensor:
    """Logits of what `compose` makes, head after head, of [f_h1, f_h2, …] and z."""
    rotary = model.rotary(TOKENS.shape[1], TOKENS.device)
    z = model.embedding(TOKENS)
    for layer in model.trunk:
        z = layer(z, rotary)
    functions = [
        (lambda x, layer=layer: layer(x) if isinstance(layer, torch.nn.Linear) else layer(x, rotary))
        for layer in model.prediction_heads
    ]
    states = compose(functions, z)
    tables = [table.weight for table in model.unembedding]
    return torch.stack([model.norm(h) @ tables[i % len(tables)].T for i, h in enumerate(states)])


@torch.no_grad()
def test_parallel_heads_read_the_trunk() -> None:
    model = drawn(3)
    expected = by_hand(model, lambda f, z: [f[0](z), f[1](z), f[2](z)])
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_causal_head_reads_the_head_before_it() -> None:
    """Head i: f_hi(… f_h2(f_h1(z)))."""
    model = drawn(3, arrangement="causal")
    expected = by_hand(model, lambda f, z: [f[0](z), f[1](f[0](z)), f[2](f[1](f[0](z)))])
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_anticausal_head_reads_the_head_behind_it() -> None:
    """Head 1: f_h1(f_h2(… f_hn(z))): next-token prediction passes through all layers."""
    model = drawn(3, arrangement="anticausal")
    expected = by_hand(model, lambda f, z: [f[0](f[1](f[2](z))), f[1](f[2](z)), f[2](z)])
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_linear_heads_are_matrices_on_the_trunk_and_the_first_is_the_trunk_itself() -> None:
    model = drawn(3, arrangement="linear")
    assert [tuple(head.weight.shape) for head in model.prediction_heads] == [(32, 32), (32, 32)]
    expected = by_hand(model, lambda f, z: [z, f[0](z), f[1](z)])
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_replicated_heads_are_unembeddings_of_the_trunk() -> None:
    model = drawn(3, arrangement="replicated")
    expected = by_hand(model, lambda f, z: [z, z, z])
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=1e-5)


@EVERY_ARRANGEMENT
@torch.no_grad()
def test_one_head_is_the_ordinary_model(changes: dict) -> None:
    """Bit for bit, with the same layers in the same order; for heads that are layers the seed alone brings that."""
    ordinary = MultiTokenTransformer(ModelConfig(**SHAPE)).eval()
    ordinary.init_weights(5)
    model = MultiTokenTransformer(ModelConfig(**SHAPE | changes)).eval()
    model.init_weights(5)
    if not model.prediction_heads:  # the last layer, drawn under another name
        model.trunk[-1].load_state_dict(ordinary.prediction_heads[0].state_dict())
    assert model.config.n_parameters() == ordinary.config.n_parameters()
    assert torch.equal(model(TOKENS), ordinary(TOKENS))


@EVERY_ARRANGEMENT
def test_heads_need_the_layers_that_they_are_said_to_need(changes: dict) -> None:
    """What the first k heads' logits depend on, by their gradients; `heads` runs no more than that."""
    model = drawn(4, **changes)
    layers = [*model.trunk, *(head for head in model.prediction_heads if not isinstance(head, torch.nn.Linear))]
    ran: list[int] = []
    for layer in layers:
        layer.register_forward_hook(lambda *_: ran.append(1))
    for k in (1, 2, 4):
        ran.clear()
        model.zero_grad()
        model(TOKENS, heads=k).sum().backward()
        reached = sum(any(p.grad is not None for p in layer.parameters()) for layer in layers)
        assert len(ran) == reached == model.config.n_trunk_layers + model.config.head_layers_run(k)


@EVERY_ARRANGEMENT
@pytest.mark.parametrize("kept", [1, 2, 3, 4])
@torch.no_grad()
def test_dropping_heads_leaves_the_others_as_they_were(changes: dict, kept: int) -> None:
    """A dropped anticausal head stays on the way to the others, and so becomes a layer of the trunk."""
    model = drawn(4, **changes)
    less = keep_heads(model, kept)
    assert less.config.n_future_tokens == kept
    assert torch.equal(less(TOKENS), model(TOKENS)[:kept])
    assert sum(p.numel() for p in less.parameters()) == less.config.n_parameters()
    gone = model.config.n_layers - less.config.n_layers
    expected = 4 - kept if changes["arrangement"] in ("parallel", "causal") else 0
    assert gone == expected
    into_trunk = 4 - kept if changes["arrangement"] == "anticausal" else 0
    assert len(less.trunk) == len(model.trunk) + into_trunk
    less.norm.weight.zero_()
    assert model.norm.weight.abs().sum() > 0, "it is a copy"


@EVERY_ARRANGEMENT
def test_heads_dropped_twice_are_heads_dropped_once(changes: dict) -> None:
    twice = keep_heads(keep_heads(drawn(4, **changes), 3), 1)
    once = keep_heads(drawn(4, **changes), 1)
    assert twice.config == once.config
    for a, b in zip(twice.parameters(), once.parameters(), strict=True):
        assert torch.equal(a, b)
