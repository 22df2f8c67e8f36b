"""How much of a test the next-token head gets right, by its first choice under teacher forcing.

Shape suffixes: E examples, B rows of one pass, L tokens of the longest, D model width, V vocabulary, P positions that
are scored.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from components.model.transformer import MultiTokenTransformer
from components.synthetic.examples import Scored

PASS_TOKENS = 16_384
"""Tokens taken through the model at a time."""


@torch.no_grad()
def score(model: MultiTokenTransformer, test: Sequence[Scored], precision: torch.dtype) -> dict[str, float]:
    """By metric the share that is right: of examples where they are scored whole, of counted tokens elsewhere.

    For a whole example it is what greedy decoding reaches: as long as it has been right, what it has written is what
    teacher forcing feeds. ValueError where nothing of a part counts.
    """
    if empty := [part.name for part in test if not part.items]:
        raise ValueError(f"the test has nothing to score for {', '.join(empty)}: give more test_items")
    with torch.compiler.set_stance("force_eager"):  # every part has a shape of its own, to compile which takes longer
        return {part.name: _share(model, part, precision) for part in test}


def _share(model: MultiTokenTransformer, part: Scored, precision: torch.dtype) -> float:
    of, device = part.examples, model.norm.weight.device
    order = np.argsort(of.length_E, kind="stable")  # alike ones together: what is behind the longest is not computed
    per_pass = max(1, PASS_TOKENS // of.tokens_EL.shape[1])
    right = total = 0
    for start in range(0, len(of), per_pass):
        some = of.take(order[start : start + per_pass])
        tokens_BL = torch.from_numpy(some.tokens_EL).to(device)
        counted_BL = torch.from_numpy(some.counted_EL).to(device)
        counted_BL[:, 0] = False  # nothing comes before it
        right_BL = _right(model, tokens_BL, counted_BL, precision)
        if part.whole:
            right += int((right_BL | ~counted_BL).all(1).sum())
            total += len(some)
        else:
            right += int(right_BL.sum())
            total += int(counted_BL.sum())
    return right / total


def _right(model: MultiTokenTransformer, tokens_BL: Tensor, counted_BL: Tensor, precision: torch.dtype) -> Tensor:
    """Which counted tokens are the first choice of the position before them."""
    with torch.autocast(tokens_BL.device.type, precision, enabled=precision != torch.float32):
        rotary = model.rotary(tokens_BL.shape[1] - 1, tokens_BL.device)
        z_BLD = model.forward_trunk(model.embedding(tokens_BL[:, :-1]), rotary)
        (h_BLD,) = model.forward_heads(z_BLD, rotary, 1)
        wanted_BL = counted_BL[:, 1:]
        choice_P = model.head_unembedding(0)(h_BLD[wanted_BL]).argmax(-1)
    right_BL = torch.zeros_like(counted_BL)
    right_BL[:, 1:][wanted_BL] = choice_P == tokens_BL[:, 1:][wanted_BL]
    return right_BL
