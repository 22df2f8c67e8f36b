"""What is checked and measured without a clock: losslessness, acceptance on given text, repetition.

Shape suffixes: B sequences, T positions, D model width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from components.model.acceptance import accepted_runs, step_histogram
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

    As `model.acceptance` defines it; steps start at `skip` of a window.
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
        accepted = accepted_runs(torch.stack(choices)).tolist()
        for k in counts:
            found = step_histogram(accepted, k, skip)
            counts[k] = [a + b for a, b in zip(counts[k], found, strict=True)]
    return counts


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
