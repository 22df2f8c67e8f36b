"""The memory order of the backward pass against the plain sum of losses, and the memory that it is for."""

import weakref
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.model.config import LAYER_ARRANGEMENTS, Arrangement, ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.training.cross_entropy import IGNORE
from components.training.loss import HeadSums, multi_token_backward, window_targets

V = 53


def model_of(n: int, **changes) -> MultiTokenTransformer:
    shape = {"dim": 32, "layers": 5, "n_attention_heads": 4, "vocabulary_size": V, "n_future_tokens": n}
    model = MultiTokenTransformer(ModelConfig(**shape | changes)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * 0.2 + (parameter.dim() == 1))
    return model


def batch_of(n: int, masked: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT, targets_KBT = window_targets(torch.randint(0, V, (3, 17 + n), generator=generator), n)
    if masked:
        targets_KBT = targets_KBT.masked_fill(torch.rand(targets_KBT.shape, generator=generator) < 0.4, IGNORE)
    return tokens_BT, targets_KBT


def naive(model: MultiTokenTransformer, tokens_BT: torch.Tensor, targets_KBT: torch.Tensor) -> list[torch.Tensor]:
    """Equation 2 in one piece: all logits, the sum of the heads' means, one backward."""
    losses = [
        F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        for logits, targets in zip(model(tokens_BT), targets_KBT, strict=True)
    ]
    sum(losses).backward()
    return [loss.detach() for loss in losses]


CASES = [
    *[(n, {"arrangement": a}, masked) for n in (1, 2, 3, 4) for a in get_args(Arrangement) for masked in (0, 1)],
    *[(4, {"arrangement": a, "extra_layers": True}, False) for a in LAYER_ARRANGEMENTS],
    (3, {"n_kv_heads": 2}, False),
    (3, {"tied_embeddings": True}, False),
    (8, {"arrangement": "replicated"}, False),
]


@pytest.mark.parametrize("chunk_tokens", [1, 20, 1024])
@pytest.mark.parametrize(("n", "changes", "masked"), CASES)
def test_gradients_equal_the_naive_sum(n: int, changes: dict, masked: bool, chunk_tokens: int) -> None:
    tokens_BT, targets_KBT = batch_of(n, masked)
    reference, model = model_of(n, **changes), model_of(n, **changes)
    means = naive(reference, tokens_BT, targets_KBT)
    counts_K = (targets_KBT != IGNORE).sum((1, 2))
    sums = multi_token_backward(model, tokens_BT, targets_KBT, 1 / counts_K.double(), chunk_tokens)
    torch.testing.assert_close(sums.loss_K / counts_K, torch.stack(means), rtol=1e-12, atol=0)
    assert torch.equal(sums.count_K, counts_K.double())
    for (name, a), b in zip(reference.named_parameters(), model.parameters(), strict=True):
        assert (a.grad - b.grad).norm() < 1e-10 * a.grad.norm(), name


def test_parts_of_a_batch_add_up() -> None:
    tokens_BT, targets_KBT = batch_of(2, masked=True)
    whole, parts = model_of(2), model_of(2)
    scale_K = torch.tensor([0.1, 0.2], dtype=torch.float64)
    sums = multi_token_backward(whole, tokens_BT, targets_KBT, scale_K)
    pieces = [
        multi_token_backward(parts, tokens_BT[rows], targets_KBT[:, rows], scale_K)
        for rows in (slice(0, 1), slice(1, 3))
    ]
    for total, *summands in zip(sums, *pieces, strict=True):
        torch.testing.assert_close(total, sum(summands), rtol=1e-12, atol=0)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_correct_counts_first_choices_that_are_the_target() -> None:
    tokens_BT, targets_KBT = batch_of(3, masked=True)
    model = model_of(3)
    choices_KBT = model(tokens_BT).argmax(-1)
    targets_KBT[:, :, ::3] = choices_KBT[:, :, ::3]
    sums = multi_token_backward(model, tokens_BT, targets_KBT, torch.ones(3, dtype=torch.float64))
    assert torch.equal(sums.correct_K, (choices_KBT == targets_KBT).sum((1, 2)).double())


def test_a_batch_without_targets_gives_zero_gradients() -> None:
    tokens_BT, targets_KBT = batch_of(2, masked=False)
    model = model_of(2)
    sums = multi_token_backward(model, tokens_BT, torch.full_like(targets_KBT, IGNORE), torch.ones(2))
    assert isinstance(sums, HeadSums)
    assert sums.loss_K.tolist() == sums.count_K.tolist() == [0, 0]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_windows_give_every_position_all_its_targets() -> None:
    tokens_BT, targets_KBT = window_targets(torch.arange(8)[None], 3)
    assert tokens_BT.tolist() == [[0, 1, 2, 3, 4]]
    assert targets_KBT[:, 0].tolist() == [[1, 2, 3, 4, 5], [2, 3, 4, 5, 6], [3, 4, 5, 6, 7]]


class LogitRows(TorchDispatchMode):
    """The most rows of width V that were alive at one time."""

    def __init__(self, model: MultiTokenTransformer) -> None:
        super().__init__()
        self.alive = self.most = 0
        self.seen = {p.untyped_storage().data_ptr() for p in model.parameters()}  # a transposed weight is no logits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and tensor.shape[1] == V:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.seen:
                    self.seen.add(storage.data_ptr())
                    self.alive += len(tensor)
                    self.most = max(self.most, self.alive)
                    weakref.finalize(storage, self._free, storage.data_ptr(), len(tensor))
        return out

    def _free(self, pointer: int, rows: int) -> None:
        self.seen.discard(pointer)
        self.alive -= rows


def test_logits_exist_for_one_head_and_one_chunk_at_a_time() -> None:
    """Paper section 2: memory for logits falls from O(nV) to O(V); here further, to the chunk's share of it."""

    def most_rows(n: int, chunk_tokens: int) -> int:
        tokens_BT, targets_KBT = batch_of(n, masked=False)
        model = model_of(n)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with LogitRows(model) as rows:
            multi_token_backward(model, tokens_BT, targets_KBT, torch.ones(n), chunk_tokens)
        return rows.most

    assert most_rows(4, 51) == most_rows(1, 51), "heads add nothing"
    gradient_rows = 32  # one gradient of the unembedding, before it is added to the others
    assert 10 <= most_rows(4, 10) <= 5 * 10 + gradient_rows, "logits and what the loss makes of them, of one chunk"
