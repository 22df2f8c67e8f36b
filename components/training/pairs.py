"""Fine-tuning batches: pairs of prompt and completion, packed into rows (paper section 3.6).

A pair is BOS, prompt, completion, EOS. Rows of `context_length` tokens are filled with whole pairs in an order that
the seed gives, reshuffled every time all pairs have been used; what is left at the end of a row is padding.
A target counts if it belongs to the same pair as its position and, with a masked prompt, to the completion or EOS.

Shape suffixes: G rows (of this worker's share of a batch), T positions, K prediction heads.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.training.config import FinetuneConfig
from components.training.cross_entropy import IGNORE
from components.training.loop import Batch
from components.training.parallel import own_share

if TYPE_CHECKING:
    from components.tokenizer.codec import Codec

PADDING_PAIR = -1


@dataclass(frozen=True)
class EncodedPair:
    """One pair as tokens, marks included."""

    id: str
    tokens: Sequence[int]
    prompt_tokens: int
    """Tokens before the completion, BOS included."""


def encode_pairs(rows: Iterable[Mapping[str, str]], codec: "Codec") -> list[EncodedPair]:
    """Rows with `id`, `prompt` and `completion` as tokens, in their order."""
    pairs = []
    for row in rows:
        prompt, completion = codec.encode(row["prompt"]), codec.encode(row["completion"])
        tokens = [codec.bos_id, *prompt, *completion, codec.eos_id]
        pairs.append(EncodedPair(row["id"], tokens, 1 + len(prompt)))
    return pairs


class PairBatches:
    """Batches of packed pairs as a pure function of the step. ValueError when no pair fits the context."""

    def __init__(
        self, pairs: Sequence[EncodedPair], config: FinetuneConfig, padding: int, device: torch.device
    ) -> None:
        self.pairs = [pair for pair in pairs if len(pair.tokens) <= config.context_length]
        self.skipped = len(pairs) - len(self.pairs)
        """Pairs that are longer than the context."""
        if not self.pairs:
            shortest = min((len(pair.tokens) for pair in pairs), default=0)
            raise ValueError(
                f"none of the {len(pairs)} training pairs fits context_length {config.context_length} "
                f"(the shortest has {shortest} tokens); raise context_length or give shorter pairs"
            )
        self.config, self.padding, self.device = config, padding, device
        self.rows_per_step = config.batch_tokens // config.context_length
        lengths = [len(pair.tokens) for pair in self.pairs]
        rows = pack(lengths, config.context_length, config.seed)
        self.rows = list(islice(rows, config.steps * self.rows_per_step))
        """Per row of the whole training, the pairs in it."""

    def batch(self, step: int) -> Batch:
        """tokens_GT and targets_KGT of this worker's share of a step, counted from 0."""
        rows = self._rows_of(step)[own_share(self.rows_per_step)]
        shape = (len(rows), self.config.context_length)
        tokens_GT = torch.full(shape, self.padding)
        pair_GT = torch.full(shape, PADDING_PAIR)
        counts_GT = torch.zeros(shape, dtype=torch.bool)
        for g, row in enumerate(rows):
            start = 0
            for index in row:
                pair = self.pairs[index]
                end = start + len(pair.tokens)
                tokens_GT[g, start:end] = torch.tensor(pair.tokens)
                pair_GT[g, start:end] = start
                counts_GT[g, start + (pair.prompt_tokens if self.config.mask_prompt else 1) : end] = True
                start = end
        targets_KGT = pair_targets(tokens_GT, pair_GT, counts_GT, self.config.n_future_tokens)
        return tokens_GT.to(self.device), targets_KGT.to(self.device)

    def where(self, step: int) -> str:
        """The ids of the pairs of a step, over all workers."""
        return "pairs " + ", ".join(self.pairs[index].id for row in self._rows_of(step) for index in row)

    def _rows_of(self, step: int) -> list[list[int]]:
        return self.rows[step * self.rows_per_step : (step + 1) * self.rows_per_step]


def pack(lengths: Sequence[int], row_length: int, seed: int) -> Iterator[list[int]]:
    """Rows without end: indices of items of these lengths, all of them once in an order of its own per epoch.

    Every item must fit a row. A row ends where the next item does not fit; a row may span two epochs.
    """
    row: list[int] = []
    free = row_length
    for epoch in count():
        order = list(range(len(lengths)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for index in order:
            if lengths[index] > free:
                yield row
                row, free = [], row_length
            row.append(index)
            free -= lengths[index]


def pair_targets(tokens_GT: Tensor, pair_GT: Tensor, counts_GT: Tensor, n_future_tokens: int) -> Tensor:
    """targets_KGT: head i's target at t is token t + i + 1 if that counts and is of the same pair, else IGNORE."""
    targets = torch.full((n_future_tokens, *tokens_GT.shape), IGNORE)
    for i in range(min(n_future_tokens, tokens_GT.shape[1] - 1)):
        ahead = i + 1
        counts = counts_GT[:, ahead:] & (pair_GT[:, ahead:] == pair_GT[:, :-ahead])
        targets[i, :, :-ahead] = tokens_GT[:, ahead:].masked_fill(~counts, IGNORE)
    return targets
