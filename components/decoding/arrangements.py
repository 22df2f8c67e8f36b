"""Whether self-speculative decoding emits what next-token decoding emits, in every arrangement of the heads.

The models are small and random, with logits close together, so that other bits soon mean other tokens. Two changes
let drafts be right now and then, as of plain random weights almost none are, and what follows an accepted draft would
hardly be looked at: unembeddings lean to the embedding, so that tokens come in runs, and those of further heads
(`replicated`) to head 1's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from components.decoding.checks import equality
from components.decoding.synthetic import SIZES, random_model
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

_FOUR = ModelConfig(dim=64, layers=6, n_attention_heads=2, vocabulary_size=1031, n_future_tokens=4)
CHECKED = (
    _FOUR,
    replace(_FOUR, arrangement="causal"),
    replace(_FOUR, arrangement="anticausal"),
    replace(_FOUR, arrangement="linear"),
    replace(_FOUR, arrangement="replicated", vocabulary_size=258, n_future_tokens=8),
)
"""`parallel` and the paper's Appendix B with four heads, and bytes with eight unembeddings."""
TOWARDS_EMBEDDING, OF_THEIR_OWN = 0.15, 0.2
PROMPTS, NEW_TOKENS = 24, (20, 230)
"""Of each model; over all k and batches and all models some 120,000 tokens."""
WIDE = SIZES["110m"].model
"""Products as wide as real models have them: in bfloat16, row-invariant, with fewer and shorter texts."""
WIDE_PROMPTS, WIDE_NEW_TOKENS = 12, (20, 60)
FAST = 0.25
"""The share of the fast mode."""


def model_with_runs(config: ModelConfig, seed: int, device: torch.device | str) -> MultiTokenTransformer:
    """Random weights with which drafts are right now and then."""
    model = random_model(config, seed, device)
    with torch.no_grad():
        first_VD = model.head_unembedding(0).weight
        first_VD.add_(model.embedding.weight, alpha=TOWARDS_EMBEDDING)
        for i in range(1, len(model.unembedding)):
            model.head_unembedding(i).weight.mul_(OF_THEIR_OWN).add_(first_VD)
    return model


def equality_of_arrangements(
    scale: float,
    seed: int,
    device: torch.device | str,
    say: Callable[[str], None] = lambda text: None,
    wide: bool = False,
) -> list[dict[str, Any]]:
    """`checks.equality` of every model of CHECKED in float32 and bfloat16, row-invariant and fast. scale: share of the
    usual new tokens a prompt has; prompts stay as many, so that batches are full and places are refilled. wide: WIDE
    too."""
    found = []
    for number, config in enumerate(CHECKED):
        model = model_with_runs(config, seed + number, device)
        for dtype in (torch.float32, torch.bfloat16):
            for row_invariant in (True, False):
                say(f"equality of all k and batches: {config.arrangement}, {dtype}, row-invariant: {row_invariant}")
                share = scale if row_invariant else scale * FAST
                least, most = (max(2, round(share * tokens)) for tokens in NEW_TOKENS)
                found.append(equality(model, dtype, row_invariant, PROMPTS / 96, (least, most), seed + number))
    if wide:
        say(f"equality of all k and batches: a model {WIDE.dim} wide")
        model = model_with_runs(WIDE, seed, device)
        least, most = (max(2, round(scale * tokens)) for tokens in WIDE_NEW_TOKENS)
        found.append(equality(model, torch.bfloat16, True, WIDE_PROMPTS / 96, (least, most), seed))
    return found
