"""What is checked and measured without a clock: losslessness, acceptance on given text, repetition.

Shape suffixes: B sequences, T positions, D model width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from components.model.transformer import MultiTokenTransformer


@dataclass(frozen=True)
class Mismatch:
    """The first generated token of a sequence that is not what it should be."""

    prompt: int
    position: int
    """Among the new tokens."""
    expected: int
    found: int
    margin: float
    """Logit of the full forward's first choice minus that of `found` (of `expected`'s, against next-token decoding).
    Rounding makes differences of about 1e-6 in float32 and 1e-2 in bfloat16; what is larger is a fault."""


@torch.inference_mode()
def full_forward_mismatches(
    model: MultiTokenTransformer, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
) -> list[Mismatch]:
    """Tokens that are not the argmax of head 0 over everything before them, by forwards without a cache.

    One forward over prompt and new tokens gives the choice at every position, so one per sequence is enough.
    """
    device = model.embedding.weight.device
    found = []
    for row, (prompt, new) in enumerate(zip(prompts, tokens, strict=True)):
        text = torch.tensor([[*prompt, *new[:-1]]], device=device)
        logits_TV = model(text, heads=1)[0, 0, len(prompt) - 1 :].float()
        choices = logits_TV.argmax(-1).tolist()
        for position, (choice, token) in enumerate(zip(choices, new, strict=True)):
            if choice != token:
                margin = float(logits_TV[position, choice] - logits_TV[position, token])
                found.append(Mismatch(row, position, choice, token, margin))
                break
    return found


@torch.inference_mode()
def differences(
    model: MultiTokenTransformer,
    prompts: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
) -> list[Mismatch]:
    """Where `tokens` leave `expected`, per sequence the first place."""
    found = []
    device = model.embedding.weight.device
    for row, (prompt, right, new) in enumerate(zip(prompts, expected, tokens, strict=True)):
        if list(right) == list(new):
            continue
        places = (i for i, (a, b) in enumerate(zip(right, new, strict=False)) if a != b)
        position = next(places, min(len(right), len(new)))
        if position >= min(len(right), len(new)):  # one is the beginning of the other
            found.append(Mismatch(row, position, -1, -1, float("inf")))
            continue
        text = torch.tensor([[*prompt, *right[:position]]], device=device)
        logits_V = model(text, heads=1)[0, 0, -1].float()
        margin = float((logits_V[right[position]] - logits_V[new[position]]).abs())
        found.append(Mismatch(row, position, right[position], new[position], margin))
    return found


@torch.inference_mode()
def heldout_steps(
    model: MultiTokenTransformer, windows: Sequence[Sequence[int]], skip: int, ks: Sequence[int]
) -> dict[int, list[int]]:
    """Per k a histogram of the drafts accepted along given text: entry m counts the steps that accepted m.

    At position t of a window, which has all of the true text up to t before it, head i (from 1) is right when its
    choice is the one that head 0 itself makes at t + i, where it has the true text up to t + i. With k heads in use
    a step accepts the m <= k - 1 heads right before the first wrong one, and the next step is m + 1 tokens on, as
    in decoding: a stretch of blanks counts as the few steps that it takes, not once a blank. Steps start at `skip`;
    the last n - 1 positions of a window start none.
    """
    n = model.config.n_future_tokens
    counts = {k: [0] * k for k in ks}
    device = model.embedding.weight.device
    for window in windows:
        tokens_BT = torch.tensor([list(window)], device=device)
        T = tokens_BT.shape[1]
        rotary = model.rotary(T, device)
        z_BTD = model.forward_trunk(model.embedding(tokens_BT), rotary)
        states = enumerate(model.forward_heads(z_BTD, rotary, n))
        choices = [model.head_unembedding(i)(h_BTD)[0].argmax(-1) for i, h_BTD in states]
        right = torch.ones(T - n + 1, dtype=torch.long, device=device)
        runs = torch.zeros_like(right)
        for i in range(1, n):
            right = right * (choices[i][: T - n + 1] == choices[0][i : T - n + 1 + i])
            runs += right
        accepted = runs.tolist()
        for k, histogram in counts.items():
            t = skip
            while t < len(accepted):
                m = min(accepted[t], k - 1)
                histogram[m] += 1
                t += m + 1
    return counts


def tokens_per_forward_of(histogram: Sequence[int]) -> float:
    """E of a histogram of drafts accepted per step: one token and the accepted drafts, on average. NaN if empty."""
    steps = sum(histogram)
    return sum((m + 1) * count for m, count in enumerate(histogram)) / steps if steps else float("nan")


def repeated_4grams(prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> float:
    """Share of the 4-grams within what was generated that occurred earlier in the sequence, its prompt included."""
    repeated = total = 0
    for prompt, new in zip(prompts, tokens, strict=True):
        text = [*prompt, *new]
        seen: set[tuple[int, ...]] = set()
        for i in range(len(text) - 3):
            gram = tuple(text[i : i + 4])
            if i >= len(prompt):
                total += 1
                repeated += gram in seen
            seen.add(gram)
    return repeated / total if total else 0.0
