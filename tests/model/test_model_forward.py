"""Properties of the forward pass and of the initial weights."""

import pytest
import torch

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer


def small(n: int, **changes) -> MultiTokenTransformer:
    shape = {"dim": 32, "layers": 5, "n_attention_heads": 4, "vocabulary_size": 61}
    model = MultiTokenTransformer(ModelConfig(**shape | changes, n_future_tokens=n))
    model.init_weights(seed=3)
    return model.eval()


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear", "replicated"])
def test_a_token_never_changes_logits_before_it(arrangement: str) -> None:
    model = small(3, arrangement=arrangement)
    tokens = torch.randint(0, 61, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 61
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :, :7], after[:, :, :7])
    assert (before[:, :, 7:] != after[:, :, 7:]).any(dim=-1).all(), "and it reaches every later position"


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear", "replicated"])
def test_fewer_heads_give_the_same_logits(arrangement: str) -> None:
    model = small(4, arrangement=arrangement)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        for heads in (1, 2, 3):
            assert torch.equal(model(tokens, heads=heads), model(tokens)[:heads])


def test_a_linear_head_starts_where_the_next_token_head_is() -> None:
    model = small(3, arrangement="linear")
    with torch.no_grad():
        logits = model(torch.arange(10)[None])
    torch.testing.assert_close(logits[1:], logits[:1].expand(2, -1, -1, -1), rtol=0, atol=1e-6)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, second = small(2), small(2)
    torch.manual_seed(99)  # the global generator plays no part
    second.init_weights(seed=3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    second.init_weights(seed=4)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)


def test_models_of_different_n_start_with_what_they_share() -> None:
    one, four = dict(small(1).named_parameters()), dict(small(4).named_parameters())
    shared = one.keys() & four.keys()
    assert {"embedding.weight", "unembedding.0.weight", "trunk.0.ffn.down.weight"} <= shared
    assert any(name.startswith("prediction_heads.0.") for name in shared)
    for name in shared:
        assert torch.equal(one[name], four[name]), name


def test_no_two_tensors_start_alike() -> None:
    matrices = [p.flatten()[:64] for p in small(2).parameters() if p.dim() > 1]
    for i, a in enumerate(matrices):
        assert not any(torch.equal(a, b) for b in matrices[:i])


def test_heads_predict_uniformly_at_first() -> None:
    """Small initial weights: the loss starts near log V."""
    with torch.no_grad():
        probabilities = small(2)(torch.arange(20)[None]).softmax(-1)
    torch.testing.assert_close(probabilities, torch.full_like(probabilities, 1 / 61), rtol=0.5, atol=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_future_tokens": 0}, "n_future_tokens is 0; it must be at least 1"),
        ({"n_future_tokens": 8}, "at most 7"),
        ({"n_future_tokens": 8, "arrangement": "anticausal"}, "each anticausal head is one of the layers.*at most 7"),
        ({"layers": 1, "extra_layers": True, "n_future_tokens": 3}, "needs at least one"),
        ({"extra_layers": True, "arrangement": "linear"}, "extra_layers has no meaning for linear heads"),
        ({"extra_layers": True, "arrangement": "replicated"}, "extra_layers has no meaning for replicated heads"),
        ({"arrangement": "serial"}, "use one of parallel, causal, anticausal, linear, replicated"),
        ({"dim": 30, "n_attention_heads": 4}, r"n_attention_heads \(4\) must divide dim \(30\)"),
        ({"dim": 12, "n_attention_heads": 4}, "even"),
        ({"n_kv_heads": 0}, "n_kv_heads is 0"),
        ({"n_kv_heads": 3}, r"n_kv_heads \(3\) must divide"),
        ({"ffn_dim": 0}, "ffn_dim is 0"),
        ({"arrangement": "replicated", "n_future_tokens": 2, "tied_embeddings": True}, "tied_embeddings"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelConfig(**{"layers": 8, "n_attention_heads": 4} | changes)
