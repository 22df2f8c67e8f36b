"""The forms of causal attention against its definition in float64."""

import math

import pytest
import torch

from components.model.attention import BLOCK, AttentionInBlocks, causal_attention


def by_definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    seen = torch.ones(q.shape[2], q.shape[2]).tril().bool()
    return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("T", [1, 33, 300, 512, 600])
def test_values_and_gradients(dtype: torch.dtype, tolerance: float, kv_heads: int, T: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, T, 16), (2, kv_heads, T, 16), (2, kv_heads, T, 16), (2, 4, T, 16)]
    *qkv, outward = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    ours = [x.clone().requires_grad_() for x in qkv]
    exact = [x.double().requires_grad_() for x in qkv]
    result, reference = causal_attention(*ours), by_definition(*exact)
    assert result.dtype == dtype
    result.backward(outward)
    reference.backward(outward.double())
    pairs = [(result, reference), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]
    for a, b in pairs:  # with one position the weights are constant: q and k have no gradient
        assert (a.double() - b).norm() <= tolerance * (b.norm() + 1)
    with torch.no_grad():
        plain = causal_attention(*qkv)
    assert (plain.double() - reference).norm() <= tolerance * reference.norm()


@pytest.mark.parametrize(("spread", "tolerance"), [(1, 0.01), (9, 0.05), (36, 0.2)])
def test_in_bfloat16_the_error_grows_with_the_spread_of_the_scores(spread: float, tolerance: float) -> None:
    """Scores are rounded: one of 100 is off by up to a quarter, and a weight by as much of itself."""
    generator = torch.Generator().manual_seed(0)
    *qkv, outward = (torch.randn((1, 2, 512, 64), generator=generator).bfloat16() for _ in range(4))
    qkv[0] = qkv[0] * spread
    ours, exact = [x.clone().requires_grad_() for x in qkv], [x.double().requires_grad_() for x in qkv]
    causal_attention(*ours).backward(outward)
    by_definition(*exact).backward(outward.double())
    for a, b in zip(ours, exact, strict=True):
        assert (a.grad.double() - b.grad).norm() < tolerance * b.grad.norm()


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("T", [BLOCK // 2, BLOCK, BLOCK + 3, 2 * BLOCK])
def test_in_blocks_it_is_the_same_to_the_last_digits(T: int, size: float) -> None:
    """Scores of several hundred, at 30, leave one weight of nearly 1 and many that underflow."""
    generator = torch.Generator().manual_seed(0)
    *qkv, outward = (torch.randn((2, 3, T, 8), generator=generator, dtype=torch.float64) * size for _ in range(4))
    ours, exact = ([x.clone().requires_grad_() for x in qkv] for _ in range(2))
    result, reference = AttentionInBlocks.apply(*ours), by_definition(*exact)  # type: ignore[no-untyped-call]
    result.backward(outward)
    reference.backward(outward)
    torch.testing.assert_close(result, reference, rtol=1e-12, atol=1e-12 * size)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12 * size**3)
