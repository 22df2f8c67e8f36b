"""Stale cache slots are never used: whatever stands in them, the output is the same bit for bit."""

import pytest
import torch
from torch import Tensor

from components.decoding.cache import BagCache, DenseCache, locate
from components.decoding.live import Live
from components.decoding.network import Network
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer, rotary_table


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


def poison(live: Live, value: float) -> None:
    """Overwrite every position that holds nothing valid: behind a sequence's end, and all of slots without one.

    What a mask hides is still multiplied by 0, so it is finite, as every key and value is.
    """
    lengths = dict(zip(live.slots, live.lengths_B.tolist(), strict=True))
    for cache in (live.cache, live.draft_cache):
        if cache is None:
            continue
        for slot in range(cache.slots):
            length = lengths.get(slot, 0)
            if isinstance(cache, BagCache):
                for position in range(length, cache.pages * 64):
                    cache.keys[:, slot, :, position // 64, :, position % 64] = value
            else:
                cache.keys[:, slot, :, length:] = value
            cache.values[:, slot, :, length:] = value


@torch.inference_mode()
def decode(net: Network, prompts: list[list[int]], poisoned: bool, k: int) -> list[Tensor]:
    """Steps with a fixed pattern of acceptance (right or not: what is accepted is then the past), one sequence
    leaving after some steps, and another taking its place. Every logit that the passes return is kept."""
    net.prepare(80, k > 1)
    live = Live(net, len(prompts), 80, k - 1)
    seen = [live.join(prompt) for prompt in prompts]
    last_B = torch.cat(seen).argmax(-1)
    for step in range(8):
        if step == 3:
            last_B = last_B[live.leave([0])]
        if step == 5:
            seen.append(live.join(prompts[0]))
            last_B = torch.cat((last_B, seen[-1].argmax(-1)))
        if not live.B:
            continue
        tokens_BT = last_B[:, None]
        if poisoned:
            poison(live, 1e3)
        if k > 1:
            seen.append(live.draft(k - 1))
            tokens_BT = torch.cat((tokens_BT, seen[-1].argmax(-1)), 1)
        if poisoned:
            poison(live, -1e3)
        logits_BTV, _ = live.verify(tokens_BT)
        seen.append(logits_BTV)
        accepted_B = (torch.arange(live.B) + step) % k
        live.keep(accepted_B)
        last_B = logits_BTV.argmax(-1).gather(1, accepted_B[:, None])[:, 0]
    return seen


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(6,), (4, 9, 1), (5, 5, 5), (60, 3)])
@pytest.mark.parametrize(
    ("arrangement", "n_kv_heads"), [("parallel", None), ("parallel", 2), ("causal", 2), ("anticausal", None)]
)
@pytest.mark.parametrize("on_bags", [True, False])
def test_stale_slots_are_never_used(
    k: int, lengths: tuple[int, ...], arrangement: str, n_kv_heads: int | None, on_bags: bool
) -> None:
    net = network(arrangement, n_kv_heads)
    net._on_bags = on_bags
    prompts = [[(7 * i + row) % 23 for i in range(length)] for row, length in enumerate(lengths)]
    for clean, dirty in zip(decode(net, prompts, False, k), decode(net, prompts, True, k), strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("kind", [BagCache, DenseCache])
@pytest.mark.parametrize("kv_heads", [4, 2])
@torch.inference_mode()
def test_attention_is_the_textbook_formula(kind: type[BagCache] | type[DenseCache], kv_heads: int) -> None:
    """Two layers at once, slots out of order, lengths on both sides of a page's edge."""
    J, H, E, slots, lengths, T = 2, 4, 8, 3, (63, 130), 3
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    cos, sin = rotary_table(torch.arange(200), E, 1e4)
    angles = torch.complex(cos[:, : E // 2], sin[:, : E // 2])
    cache = kind(J, kv_heads, slots, 140, E, torch.float32, torch.device("cpu"))
    used, used_B = (2, 0), torch.tensor([2, 0])
    keys, values = drawn(2, 200, J, kv_heads, E), drawn(2, 200, J, kv_heads, E)
    for place, (slot, length) in enumerate(zip(used, lengths, strict=True)):
        where = locate((slot,), used_B[place : place + 1], torch.arange(length)[None], length, angles)
        cache.write(0, J, where, keys[place, :length], values[place, :length])
    positions = torch.tensor(lengths)[:, None] + torch.arange(T)
    where = locate(used, used_B, positions, max(lengths) + T, angles)
    new = [torch.cat([part[b, n : n + T] for b, n in enumerate(lengths)]) for part in (keys, values)]
    cache.write(0, J, where, *new)
    q = drawn(2 * T, J * H, E)
    found = cache.attend(0, J, where, q).view(2, T, J, H, E)
    for b, length in enumerate(lengths):
        for t in range(T):
            for j in range(J):
                for h in range(H):
                    k, v = (x[b, : length + t + 1, j, h * kv_heads // H] for x in (keys, values))
                    expected = (k @ q.view(2, T, J, H, E)[b, t, j, h]).softmax(0) @ v
                    torch.testing.assert_close(found[b, t, j, h], expected, atol=1e-5, rtol=1e-5)
