"""Sums per head against the plain forward, whatever the batching; bits per byte by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from components.evaluation import heldout
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

VOCABULARY = 300
BYTES_V = torch.tensor([1] * 256 + [0] * (VOCABULARY - 256))


def _model(n: int, arrangement: str = "parallel") -> MultiTokenTransformer:
    model = MultiTokenTransformer(
        ModelConfig(
            dim=32,
            layers=5,
            n_attention_heads=2,
            vocabulary_size=VOCABULARY,
            n_future_tokens=n,
            arrangement=arrangement,  # type: ignore[arg-type]
        )
    )
    model.init_weights(3)
    with torch.no_grad():  # far from uniform, so that a wrong target shows
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return model.eval()


def _tokens(count: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear", "replicated"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("logits_at_once", [heldout.LOGITS_AT_ONCE, 7 * VOCABULARY])
def test_windows_equal_the_plain_forward(
    n: int, arrangement: str, logits_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heldout, "LOGITS_AT_ONCE", logits_at_once)
    model, text, T = _model(n, arrangement), _tokens(200), 16
    starts = heldout.window_starts(len(text), T, n, targets=8 * T)
    *_, sums = heldout.score_windows(model, lambda s, length: text[s : s + length], starts, T, 3, BYTES_V)

    with torch.inference_mode():
        logits_KBTV = model(torch.stack([text[s : s + T] for s in starts]))
    for i in range(n):
        target_BT = torch.stack([text[s + i + 1 : s + i + 1 + T] for s in starts])
        loss = F.cross_entropy(logits_KBTV[i].double().flatten(0, 1), target_BT.flatten(), reduction="sum")
        assert sums.loss[i] == pytest.approx(loss.item(), rel=1e-6)
        assert sums.correct[i] == int((logits_KBTV[i].argmax(-1) == target_BT).sum())
        if i == 0:
            of_each = F.cross_entropy(logits_KBTV[0].double().transpose(1, 2), target_BT, reduction="none").sum(1)
            assert [nats for nats, _ in sums.by_sequence] == pytest.approx(of_each.tolist(), rel=1e-6)
            assert [n_bytes for _, n_bytes in sums.by_sequence] == BYTES_V[target_BT].sum(1).tolist()
    assert sums.targets == [8 * T] * n
    assert sums.scores()[0].loss == pytest.approx(sums.loss[0] / (8 * T))


def test_models_of_different_n_see_the_same_windows() -> None:
    assert heldout.window_starts(10_000, 64, 1, 2048) == heldout.window_starts(10_000, 64, 8, 2048)


def test_windows_are_disjoint_spread_and_leave_room_for_every_target() -> None:
    starts = heldout.window_starts(1_000, 64, 8, 640)
    assert len(starts) == 10
    assert all(b - a >= 64 for a, b in itertools.pairwise(starts))
    assert starts[-1] + 64 + 8 <= 1_000
    assert starts[-1] > 700


def test_a_split_shorter_than_a_window_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"70 tokens; one window needs 72 .*lower evaluation.context_length"):
        heldout.window_starts(70, 64, 8, 640)


def test_bits_per_byte_counts_the_bytes_of_the_scored_targets_alone() -> None:
    """Zero weights predict uniformly: log2 V bits a target, and each byte symbol is a byte, each mark none."""
    model, T = _model(1), 16
    with torch.no_grad():
        model.unembedding[0].weight.zero_()
    text = torch.cat((torch.full((40,), 65), torch.full((9,), 256), torch.full((31,), 66)))
    starts = [16, 32]  # targets 17..48: 8 of them are marks (40..47), one more mark lies beyond
    *_, sums = heldout.score_windows(model, lambda s, length: text[s : s + length], starts, T, 2, BYTES_V)
    targets = text[17:49]
    assert sums.target_bytes == int((targets < 256).sum()) == 23
    assert sums.bits_per_byte() == pytest.approx(32 * math.log2(VOCABULARY) / 23, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_completions_are_scored_whole_by_every_head_and_padding_not_at_all(batch_size: int) -> None:
    n, model = 3, _model(3)
    lengths = [(3, 1), (9, 14), (4, 7), (6, 2), (12, 5)]
    sequences = [(_tokens(p + c)[:p].tolist(), _tokens(p + c)[p:].tolist()) for p, c in lengths]
    *_, sums = heldout.score_completions(model, sequences, batch_size, BYTES_V)
    loss = [0.0] * n
    for prompt, completion in sequences:
        with torch.inference_mode():
            logp_KTV = model(torch.tensor([prompt + completion]))[:, 0].double().log_softmax(-1)
        for i in range(n):
            for j, token in enumerate(completion, start=len(prompt)):
                loss[i] -= logp_KTV[i, j - 1 - i, token].item()
    assert sums.loss == pytest.approx(loss, rel=1e-6)
    assert sums.targets == [sum(c for _, c in lengths)] * n


def test_a_prompt_shorter_than_the_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt of 2 tokens cannot be scored with 3 heads"):
        list(heldout.score_completions(_model(3), [([1, 2], [3])], 1, BYTES_V))
