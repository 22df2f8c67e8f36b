"""Stale cache slots are never used: whatever stands in them, the output is the same bit for bit."""

import pytest
import torch

from components.decoding.batch import Batch
from components.decoding.network import Network
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer


def network(arrangement: str, n_kv_heads: int | None) -> Network:
    config = ModelConfig(
        dim=32,
        layers=6,
        n_attention_heads=4,
        n_kv_heads=n_kv_heads,
        vocabulary_size=23,
        n_future_tokens=3,
        arrangement=arrangement,  # type: ignore[arg-type]
    )
    model = MultiTokenTransformer(config)
    model.init_weights(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return Network(model, torch.float32)


def poison(batch: Batch, hidden: float, unread: float) -> None:
    """Overwrite every slot that holds nothing valid.

    In a ragged batch slots up to the longest row's end in the next pass are read and hidden by the mask: what stands
    there is finite, as every key and value is. Slots past that, and all stale ones of a single sequence, must not be
    read at all, so NaN may stand there.
    """
    ragged = len(batch.lengths) > 1
    for cache, fed in ((batch.cache, batch.k), (batch.draft_cache, 0)):
        if cache is None:
            continue
        end = max(batch.lengths) + fed if ragged else batch.lengths[0]
        for slot in range(cache.data.shape[2]):
            length = batch.lengths[slot] if slot < len(batch.lengths) else 0
            cache.data[:, :, slot, length:end] = hidden if slot < len(batch.lengths) else unread
            cache.data[:, :, slot, end:] = unread


@torch.inference_mode()
def decode(net: Network, prompts: list[list[int]], poisoned: bool, k: int) -> list[list[list[int]]]:
    """Steps with a fixed pattern of acceptance (right or not: what is accepted is then the past), one sequence
    leaving after some steps. Everything that the passes return is kept."""
    net.prepare(k, 64)
    batch = Batch(net, prompts, 64, k)
    seen = [[[token] for token in batch.prefill(prompts)]]
    last = [row[0] for row in seen[0]]
    for step in range(8):
        if step == 3 and len(last) > 1:
            batch.drop(0)
            last[0] = last[-1]
            last.pop()
        if poisoned:
            poison(batch, 1e3, torch.nan)
        drafts = batch.draft() if k > 1 else [[] for _ in last]
        if poisoned:
            poison(batch, -1e3, torch.nan)
        choices = batch.verify([[token, *row] for token, row in zip(last, drafts, strict=True)])
        seen += [drafts, choices]
        for slot in range(len(last)):
            count = (step + slot) % k
            batch.keep(slot, count + 1)
            last[slot] = choices[slot][count]
    return seen


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(6,), (4, 9, 1), (5, 5, 5)])
@pytest.mark.parametrize(
    ("arrangement", "n_kv_heads"), [("parallel", None), ("parallel", 2), ("causal", 2), ("anticausal", None)]
)
def test_stale_slots_are_never_used(k: int, lengths: tuple[int, ...], arrangement: str, n_kv_heads: int | None) -> None:
    net = network(arrangement, n_kv_heads)
    prompts = [[(7 * i + row) % 23 for i in range(length)] for row, length in enumerate(lengths)]
    clean = decode(net, prompts, False, k)
    assert decode(net, prompts, True, k) == clean
