"""Timing on random weights with acceptance drawn from given shares: what a step costs, apart from any training.

All the work of drafting, verifying and rolling back is done; only the number of accepted drafts is replaced. The
text is invalid, and nothing is said about losslessness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.decoding.arms import draws_with, measure, timing
from components.decoding.config import DecodingConfig
from components.decoding.engine import Decoder
from components.decoding.limits import step_limits
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer


@dataclass(frozen=True)
class Size:
    """A model to be timed without training, and the shares of steps that accept at least j + 1 drafts."""

    model: ModelConfig
    acceptance: tuple[float, ...]


_THREE_DRAFTS = (0.92, 0.84, 0.74)  # 2.5 of 3, the paper's figure for code
_SEVEN_DRAFTS = (0.96, 0.93, 0.89, 0.86, 0.83, 0.79, 0.74)  # 6 of 7

SIZES = {
    "2M": Size(
        ModelConfig(dim=128, layers=10, n_attention_heads=4, ffn_dim=384, vocabulary_size=2048, n_future_tokens=4),
        _THREE_DRAFTS,
    ),
    "2M-bytes": Size(
        ModelConfig(
            dim=160,
            layers=8,
            n_attention_heads=4,
            ffn_dim=448,
            vocabulary_size=258,
            n_future_tokens=8,
            arrangement="replicated",
        ),
        _SEVEN_DRAFTS,
    ),
    "25M": Size(ModelConfig(dim=256, layers=10, n_attention_heads=4, n_future_tokens=4), _THREE_DRAFTS),
    "110M": Size(ModelConfig(dim=768, layers=9, n_attention_heads=12, n_future_tokens=4), _THREE_DRAFTS),
    "350M": Size(ModelConfig(dim=1024, layers=22, n_attention_heads=16, n_future_tokens=4), _THREE_DRAFTS),
}


def random_model(config: ModelConfig, seed: int, device: torch.device | str) -> MultiTokenTransformer:
    """A model of the given shape with random weights."""
    model = MultiTokenTransformer(config)
    model.init_weights(seed)
    return model.to(device).eval()


def time_synthetic(
    config: DecodingConfig, model: MultiTokenTransformer, heads: Sequence[int], acceptance: Sequence[float], cores: int
) -> list[dict[str, Any]]:
    """The figures of every batch size and k, as `arms.timing` has them, on random prompts."""
    generator = torch.Generator().manual_seed(config.seed)
    shortest, longest = config.prompt_tokens
    prompts: list[list[int]] = []
    for i in range(config.prompts):
        length = shortest + (longest - shortest) * i // max(1, config.prompts - 1)
        prompts.append(torch.randint(model.config.vocabulary_size, (length,), generator=generator).tolist())
    dtype = getattr(torch, config.dtype)
    decoder = Decoder(model, dtype)
    draws = draws_with(acceptance, config.seed)
    rows = []
    for batch in config.batches:
        *_, arms = measure(decoder, prompts, heads, batch, config.new_tokens, config.repeats, cores, draws)
        limits = step_limits(model.config, dtype, batch, arms, cores, model.embedding.weight.device)
        rows += [timing(arm, arms[0], limit) for arm, limit in zip(arms, limits, strict=True)]
    return rows
