"""What is checked and measured without a clock: losslessness, acceptance on given text, repetition.

Shape suffixes: B sequences, T positions, D model width, V vocabulary.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.decoding.engine import Decoder
from components.decoding.live import Live
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


def ids_hash(tokens: Sequence[Sequence[int]]) -> str:
    """A short hash of token ids: equal outputs have equal ones."""
    return hashlib.sha256(json.dumps([list(row) for row in tokens]).encode()).hexdigest()[:16]


@torch.inference_mode()
def row_noise(decoder: Decoder, prompts: Sequence[Sequence[int]], most_rows: int) -> float:
    """The largest difference of a logit by the number of rows it is computed with: each prompt fed token by token, and
    in groups of up to `most_rows`, by the decoder's own passes."""
    network = decoder.network
    network.prepare(max(map(len, prompts)) + 1, drafting=False)
    largest = 0.0
    for prompt in prompts:
        passes = []
        for rows in (1, 2, 4, most_rows):
            live = Live(network, 1, len(prompt) + 1, 0)
            live.join(prompt[:1])
            logits = []
            for start in range(1, len(prompt), rows):
                fed = torch.tensor([prompt[start : start + rows]], device=network.device)
                logits.append(live.verify(fed)[0][0].float())
                live.keep(torch.tensor([fed.shape[1] - 1], device=network.device))
            passes.append(torch.cat(logits))
        largest = max(largest, *(float((other - passes[0]).abs().max()) for other in passes[1:]))
    return largest


def equality(
    model: MultiTokenTransformer,
    dtype: torch.dtype,
    row_invariant: bool,
    scale: float = 1.0,
    new_tokens: tuple[int, int] = (150, 270),
    seed: int = 0,
) -> dict[str, Any]:
    """Greedy self-speculative decoding with every k, and adaptive, of batches 1, 4 and 16 of ragged prompts, against
    next-token decoding of one prompt at a time. scale: share of the usual number of prompts (100,000 tokens, with the
    usual range of new tokens a prompt)."""
    decoder = Decoder(model, dtype, row_invariant)
    generator = random.Random(seed)
    count = max(1, round(96 * scale))
    prompts = [
        [generator.randrange(model.config.vocabulary_size) for _ in range(generator.randint(1, 90))]
        for _ in range(count)
    ]
    limits = [generator.randint(*new_tokens) for _ in prompts]
    expected = [decoder.generate([prompt], limit).tokens[0] for prompt, limit in zip(prompts, limits, strict=True)]
    hashes = {"next-token": ids_hash(expected)}
    compared, found, forward = 0, [], 1.0
    for batch, share in ((1, 12), (4, 4), (16, 1)):
        some = range(max(1, count // share))
        ks: tuple[Any, ...] = (*range(1, model.config.n_future_tokens + 1), "adaptive")
        for k in ks:
            if batch == k == 1:
                continue
            generation = decoder.generate([prompts[i] for i in some], [limits[i] for i in some], k=k, batch=batch)
            made = generation.tokens
            compared += sum(map(len, made))
            if k == model.config.n_future_tokens:
                forward = generation.tokens_per_forward
            hashes[f"k {k}, batch {batch}, {len(some)} prompts"] = ids_hash(made)
            for i in some:
                if made[i] != expected[i]:
                    place = next(p for p, pair in enumerate(zip(made[i], expected[i], strict=True)) if len({*pair}) > 1)
                    margin = _margin(decoder, prompts[i], expected[i], place, made[i][place])
                    found.append({"k": k, "batch": batch, "prompt": i, "position": place, "margin": margin})
    noise = row_noise(decoder, prompts[:4], 16)
    return {
        "arrangement": model.config.arrangement,
        "width": model.config.dim,
        "n_future_tokens": model.config.n_future_tokens,
        "dtype": str(dtype).removeprefix("torch."),
        "mode": "row-invariant" if row_invariant else "fast",
        "tokens": compared,
        "tokens_per_forward": forward,
        "differences": found,
        "row_noise": noise,
        "explained": all(difference["margin"] <= noise for difference in found),
        "hashes": hashes,
    }


@torch.inference_mode()
def _margin(decoder: Decoder, prompt: Sequence[int], expected: Sequence[int], place: int, found: int) -> float:
    """By how much next-token decoding, going as it went, preferred its choice at this place of the new tokens."""
    live = Live(decoder.network, 1, len(prompt) + place + 1, 0)
    logits_V = live.join(prompt)[0]
    for token in expected[:place]:
        logits_V = live.verify(torch.tensor([[token]], device=decoder.device))[0][0, -1]
        live.keep(torch.zeros(1, dtype=torch.long, device=decoder.device))
    return float(logits_V[expected[place]].float() - logits_V[found].float())
