"""Causal self-attention, in the form that is fastest where it is computed.

Shape suffixes: B batch, T positions, H attention heads, E width of one attention head, N = B x H, Q positions of one
block of queries, S positions that they see.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128
"""Queries at a time of attention in blocks."""
LONGEST_IN_BLOCKS = 512
"""Positions up to which attention in blocks is taken: what it keeps for its backward grows with their square."""


def causal_attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v over the positions up to one's own; k and v may have fewer attention heads."""
    grouped = q_BHTE.shape[1] != k_BHTE.shape[1]
    short = q_BHTE.shape[2] <= LONGEST_IN_BLOCKS and not grouped
    if short and q_BHTE.is_cpu and q_BHTE.dtype == torch.bfloat16 and q_BHTE.requires_grad:
        # training on a CPU: forward and backward take less than half the time of the fused kernel's
        out: Tensor = AttentionInBlocks.apply(q_BHTE, k_BHTE, v_BHTE)  # type: ignore[no-untyped-call]
        return out
    return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=True, enable_gqa=grouped)


class AttentionInBlocks(torch.autograd.Function):
    """A block of queries sees the positions up to its end and no product with later ones is computed. In bfloat16
    scores are rounded to it, as in transformers' eager form: at scores of some ten the fused kernel is more exact.

    Kept for the backward pass: q, k, v and the probabilities, in their precision.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        T, E = q_BHTE.shape[2:]
        k_NTE, v_NTE = k_BHTE.reshape(-1, T, E), v_BHTE.reshape(-1, T, E)
        future_TT = torch.full((T, T), -math.inf, dtype=k_NTE.dtype).triu(1)
        queries, probabilities, outs = _blocks(q_BHTE), [], []
        with torch.autocast("cpu", enabled=False):  # it would take the softmax to float32 and back
            for start, q_NQE in zip(range(0, T, BLOCK), queries, strict=True):
                end = min(start + BLOCK, T)
                scores_NQS = torch.baddbmm(future_TT[start:end, :end], q_NQE, k_NTE[:, :end].mT, alpha=E**-0.5)
                p_NQS = scores_NQS.softmax(-1)
                outs.append(p_NQS @ v_NTE[:, :end])
                probabilities.append(p_NQS)
        ctx.save_for_backward(k_NTE, v_NTE, *queries, *probabilities)
        return torch.cat(outs, 1).view(q_BHTE.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (out_BHTE,) = gradients
        k_NTE, v_NTE, *by_block = ctx.saved_tensors
        T, E = k_NTE.shape[1:]
        blocks = len(by_block) // 2
        dq, dk, dv = [], [], []
        for start, q_NQE, p_NQS, out_NQE in zip(
            range(0, T, BLOCK), by_block[:blocks], by_block[blocks:], _blocks(out_BHTE), strict=True
        ):
            end = min(start + BLOCK, T)
            dp_NQS = out_NQE @ v_NTE[:, :end].mT
            ds_NQS = torch._softmax_backward_data(dp_NQS, p_NQS, -1, p_NQS.dtype)
            dq.append(ds_NQS @ k_NTE[:, :end])
            dk.append(ds_NQS.mT @ q_NQE)
            dv.append(p_NQS.mT @ out_NQE)
        parts = torch.cat(dq, 1).mul_(E**-0.5), _summed(dk).mul_(E**-0.5), _summed(dv)
        dq_BHTE, dk_BHTE, dv_BHTE = (x.to(k_NTE.dtype).view(out_BHTE.shape) for x in parts)
        return dq_BHTE, dk_BHTE, dv_BHTE


def _summed(products: list[Tensor]) -> Tensor:
    """Of what each block of queries leaves for the positions that it sees, the sums; of (N, T, E), for each block of
    positions by itself, as a compiler makes one pass of that."""
    exact, sums = torch.promote_types(products[0].dtype, torch.float32), []
    for first in range(len(products)):
        total, *others = (product[:, first * BLOCK : (first + 1) * BLOCK].to(exact) for product in products[first:])
        for other in others:
            total = total + other
        sums.append(total)
    return torch.cat(sums, 1)


def _blocks(x_BHTE: Tensor) -> list[Tensor]:
    """Of (N, Q, E), each in memory of its own: a product would otherwise copy it every time."""
    T, E = x_BHTE.shape[2:]
    return [x_BHTE[:, :, s : s + BLOCK].reshape(-1, min(BLOCK, T - s), E).contiguous() for s in range(0, T, BLOCK)]
