"""What ModelConfig says by formula against counting."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.model.config import ModelConfig
from components.model.transformer import Attention, MultiTokenTransformer

SHAPES = [
    ModelConfig(dim=64, layers=5, n_attention_heads=4, vocabulary_size=101, n_future_tokens=n, **changes)
    for n, changes in [
        (1, {}),
        (4, {}),
        (2, {"n_kv_heads": 2}),
        (2, {"tied_embeddings": True}),
        (3, {"ffn_dim": 80}),
        (1, {"arrangement": "replicated"}),
        (8, {"arrangement": "replicated"}),
        (4, {"arrangement": "causal", "n_kv_heads": 2}),
        (4, {"arrangement": "anticausal"}),
        (4, {"arrangement": "linear"}),
        (6, {"arrangement": "linear", "tied_embeddings": True}),
        (4, {"extra_layers": True}),
        (6, {"arrangement": "causal", "extra_layers": True}),
        (3, {"arrangement": "anticausal", "extra_layers": True}),
    ]
]


@pytest.mark.parametrize("config", SHAPES)
def test_parameters_are_counted(config: ModelConfig) -> None:
    model = MultiTokenTransformer(config)
    assert config.n_parameters() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("config", SHAPES)
def test_training_flops_are_counted(config: ModelConfig) -> None:
    """FlopCounterMode counts the whole score matrix; the plain kernel recomputes nothing in its backward."""
    model = MultiTokenTransformer(config)
    tokens = torch.zeros(2, 16, dtype=torch.long)
    for k in range(1, config.n_future_tokens + 1):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(tokens, heads=k).sum().backward()
        assert counter.get_total_flops() == 2 * 16 * config.flops_per_token(16, k)
    assert config.flops_per_token(16) == config.flops_per_token(16, config.n_future_tokens)


LAYER = 4 * 96 * 96 + 3 * 96 * 256 + 2 * 96
"""Parameters of a layer of width 96: q, k, v and the projection behind them, SwiGLU, two norms' gains."""


@pytest.mark.parametrize(
    ("changes", "one_more_head"),
    [
        ({"arrangement": "parallel"}, 0),
        ({"arrangement": "causal"}, 0),
        ({"arrangement": "anticausal"}, 0),
        ({"arrangement": "parallel", "extra_layers": True}, LAYER),
        ({"arrangement": "causal", "extra_layers": True}, LAYER),
        ({"arrangement": "anticausal", "extra_layers": True}, LAYER),
        ({"arrangement": "linear"}, 96**2),
        ({"arrangement": "replicated"}, 500 * 96),
    ],
    ids=str,
)
def test_what_equal_parameters_means(changes: dict, one_more_head: int) -> None:
    """Heads out of the trunk's end cost nothing; the others, at the same depth, what makes them heads."""
    shape = {"dim": 96, "layers": 8, "n_attention_heads": 4, "ffn_dim": 256, "vocabulary_size": 500}
    ordinary = ModelConfig(**shape).n_parameters()
    assert ordinary == 8 * LAYER + 96 + 2 * 500 * 96
    for n in (1, 2, 4, 7):
        config = ModelConfig(**shape, **changes, n_future_tokens=n)
        assert config.n_parameters() == ordinary + (n - 1) * one_more_head


def test_heads_as_large_as_in_table_s4() -> None:
    """7B, n = 4: "+Layers 3" is 607 million more parameters, and linear heads are 50 million."""
    shape = {"dim": 4096, "layers": 32, "n_attention_heads": 32, "vocabulary_size": 32_000}
    one = ModelConfig(**shape)
    extra = ModelConfig(**shape, n_future_tokens=4, extra_layers=True)
    assert (extra.n_layers, extra.n_trunk_layers) == (35, 31)
    assert extra.n_parameters() - one.n_parameters() == 3 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) == 607_150_080
    linear = ModelConfig(**shape, n_future_tokens=4, arrangement="linear")
    assert linear.n_parameters() - one.n_parameters() == 3 * 4096**2 == 50_331_648


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "billions"),
    [(1024, 18, 16, 0.3), (2048, 24, 16, 1.3), (4096, 32, 32, 6.7), (5120, 40, 40, 13.0)],
)
def test_table_s14_sizes(dim: int, layers: int, heads: int, billions: float) -> None:
    config = ModelConfig(dim=dim, layers=layers, n_attention_heads=heads, vocabulary_size=32000)
    assert config.n_parameters() == pytest.approx(billions * 1e9, rel=0.05)


@pytest.mark.parametrize("config", SHAPES)
def test_cache_bytes_are_counted(config: ModelConfig) -> None:
    """The cache holds the keys and values that the attention of every used layer computes for a token."""
    model = MultiTokenTransformer(config)
    values: list[int] = []
    for module in model.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda attention, *_: values.append(2 * attention.kv_width))
    for k in range(1, config.n_future_tokens + 1):
        values.clear()
        model(torch.zeros(1, 1, dtype=torch.long), heads=k)
        assert config.kv_bytes_per_token(bytes_per_value=2, k=k) == 2 * sum(values)


def test_layer_flops_are_those_of_the_forward_behind_the_embedding() -> None:
    """With no unembedding to speak of, and no matrices beside the layers, all FLOPs are theirs."""
    config = ModelConfig(dim=64, layers=5, n_attention_heads=4, vocabulary_size=2, n_future_tokens=3, extra_layers=True)
    model = MultiTokenTransformer(config)
    for k in (1, 2, 3):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model(torch.zeros(1, 16, dtype=torch.long), heads=k)
        unembeddings = 2 * k * 2 * 64
        assert counter.get_total_flops() == 16 * (config.layer_flops_per_token(16, k) + unembeddings)
