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
def heldout_runs(model: MultiTokenTransformer, windows: Sequence[Sequence[int]], skip: int) -> list[int]:
    """Histogram of drafts accepted along given text: entry m counts the positions where exactly m were.

    At position t of a window, which has all of the true text up to t before it, head i (from 1) is right when its
    choice is the one that head 0 itself makes at t + i, where it has the true text up to t + i. m is the number of
    heads right before the first wrong one. Every position counts alike, from `skip` on, the last n - 1 of a window
    aside. With k heads in use m is at most k - 1, so `tokens_per_forward_of` serves every k.
    """
    n = model.config.n_future_tokens
    counts = [0] * n
    device = model.embedding.weight.device
    for window in windows:
        tokens_BT = torch.tensor([list(window)], device=device)
        T = tokens_BT.shape[1]
        rotary = model.rotary(T, device)
        z_BTD = model.forward_trunk(tokens_BT, rotary)
        choices = [model.head_unembedding(i)(model.forward_head(i, z_BTD, rotary))[0].argmax(-1) for i in range(n)]
        right = torch.ones(T - n + 1, dtype=torch.long, device=device)
        runs = torch.zeros_like(right)
        for i in range(1, n):
            right = right * (choices[i][: T - n + 1] == choices[0][i : T - n + 1 + i])
            runs += right
        for m in runs[skip:].tolist():
            counts[m] += 1
    return counts


def tokens_per_forward_of(histogram: Sequence[int], k: int) -> float:
    """E with k heads: one token and the accepted drafts, at most k - 1, on average. NaN of an empty histogram."""
    total = sum(histogram)
    accepted = sum(min(m, k - 1) * count for m, count in enumerate(histogram))
    return 1 + accepted / total if total else float("nan")


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
