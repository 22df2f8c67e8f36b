"""Which drafts of the further heads the next-token head would accept along a given text (paper section 3.2).

Shape suffixes: K prediction heads, T positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def accepted_runs(choices_KT: Tensor) -> Tensor:
    """Drafts accepted after each position, at most K - 1; shape (T - K + 1,).

    Under teacher forcing: at position t, which has all of the true text up to t before it, head i (from 1) is right
    when its choice is the one that head 0 itself makes at t + i, where it has the true text up to t + i; heads behind
    the first wrong one do not count. The last K - 1 positions have no such run.
    """
    K, T = choices_KT.shape
    right = torch.ones(T - K + 1, dtype=torch.long, device=choices_KT.device)
    runs = torch.zeros_like(right)
    for i in range(1, K):
        right = right * (choices_KT[i, : T - K + 1] == choices_KT[0, i : T - K + 1 + i])
        runs += right
    return runs


def step_histogram(accepted: Sequence[int], k: int, start: int = 0) -> list[int]:
    """Entry m: steps of self-speculative decoding with `k` heads that accept m drafts, along `accepted_runs`.

    The next step is m + 1 tokens on, as in decoding: a stretch of blanks counts as the few steps that it takes, not
    once a blank.
    """
    histogram = [0] * k
    t = start
    while t < len(accepted):
        m = min(accepted[t], k - 1)
        histogram[m] += 1
        t += m + 1
    return histogram


def tokens_per_forward_of(histogram: Sequence[int]) -> float:
    """E of a histogram of drafts accepted per step: one token and the accepted drafts, on average. NaN if empty."""
    steps = sum(histogram)
    return sum((m + 1) * count for m, count in enumerate(histogram)) / steps if steps else float("nan")
