"""`cross_entropy_gradient` on a GPU: one kernel, that puts the gradient where the logits were.

A row is read twice, the second time from the cache, and written once; no number of it is kept in float32.

Shape suffixes: C positions of one chunk, V vocabulary, B symbols of one block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

BLOCK, WARPS = 4096, 8
"""Symbols at a time, and warps to a row: the fastest of those tried on an H200 at a vocabulary of 32,000."""


def in_place(logits_CV: Tensor, targets_C: Tensor, scale: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """`cross_entropy.cross_entropy_gradient` in float32 arithmetic; the logits are its gradient afterwards."""
    assert logits_CV.is_contiguous()
    assert targets_C.is_contiguous()
    C, V = logits_CV.shape
    sums_C3 = torch.empty(C, 3, device=logits_CV.device)
    with torch.cuda.device(logits_CV.device):
        _row[(C,)](logits_CV, targets_C, scale, sums_C3, V, IGNORE=ignore, BLOCK=BLOCK, num_warps=WARPS)
    return logits_CV, sums_C3.sum(0, dtype=torch.float64)


@triton.jit  # type: ignore[untyped-decorator]
def _row(logits, targets, scale, sums, V, IGNORE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    position = tl.program_id(0)
    row = logits + position.to(tl.int64) * V
    target = tl.load(targets + position)
    counts = target != IGNORE
    at_target = tl.load(row + tl.where(counts, target, 0)).to(tl.float32)

    best_B = tl.full((BLOCK,), -1e30, tl.float32)  # not -inf: its difference with itself would be no number
    total_B = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        symbol_B = start + tl.arange(0, BLOCK)
        x_B = tl.load(row + symbol_B, symbol_B < V, other=-float("inf")).to(tl.float32)
        before_B, best_B = best_B, tl.maximum(best_B, x_B)
        total_B = total_B * tl.exp(before_B - best_B) + tl.exp(x_B - best_B)
    best = tl.max(best_B)
    total = tl.sum(total_B * tl.exp(best_B - best))

    log_p = at_target - best - tl.log(total)
    factor = tl.where(counts, tl.load(scale).to(tl.float32), 0.0)
    gradient_at_target = libdevice.expm1(log_p) * factor
    for start in range(0, V, BLOCK):
        symbol_B = start + tl.arange(0, BLOCK)
        x_B = tl.load(row + symbol_B, symbol_B < V, other=-float("inf")).to(tl.float32)
        gradient_B = tl.where(symbol_B == target, gradient_at_target, tl.exp(x_B - best) * (factor / total))
        tl.store(row + symbol_B, gradient_B.to(logits.dtype.element_ty), symbol_B < V)
    tl.store(sums + position * 3, tl.where(counts, -log_p, 0.0))
    tl.store(sums + position * 3 + 1, (counts & (at_target == best)).to(tl.float32))
    tl.store(sums + position * 3 + 2, counts.to(tl.float32))
