"""What ModelConfig says by formula against counting."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

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
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens).sum().backward()
    assert counter.get_total_flops() == 2 * 16 * config.flops_per_token(16)


def test_parameters_are_equal_across_n() -> None:
    sizes = {ModelConfig(layers=8, n_future_tokens=n).n_parameters() for n in (1, 2, 4, 7)}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "billions"),
    [(1024, 18, 16, 0.3), (2048, 24, 16, 1.3), (4096, 32, 32, 6.7), (5120, 40, 40, 13.0)],
)
def test_table_s14_sizes(dim: int, layers: int, heads: int, billions: float) -> None:
    config = ModelConfig(dim=dim, layers=layers, n_attention_heads=heads, vocabulary_size=32000)
    assert config.n_parameters() == pytest.approx(billions * 1e9, rel=0.05)


def test_cache_bytes_are_counted() -> None:
    """The cache holds the keys and values that the attention of every used layer computes for a token."""
    config = ModelConfig(dim=64, layers=6, n_attention_heads=4, n_kv_heads=2, vocabulary_size=50, n_future_tokens=3)
    model = MultiTokenTransformer(config)
    for k in (1, 2, 3):
        layers = [*model.trunk, *model.prediction_heads[:k]]
        values = sum(2 * layer.attention.kv_width for layer in layers)
        assert config.kv_bytes_per_token(bytes_per_value=2, k=k) == 2 * values
    replicated = ModelConfig(dim=64, layers=6, n_attention_heads=4, n_future_tokens=8, arrangement="replicated")
    assert replicated.kv_bytes_per_token(4, k=8) == replicated.kv_bytes_per_token(4, k=1) == 6 * 2 * 64 * 4
