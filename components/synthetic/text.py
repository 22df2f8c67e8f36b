"""The test of a training on text: bits per byte of the test split, and induction on its stories."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.artifacts import Shards, Stories
from components.evaluation.heldout import score_windows, window_starts
from components.model.transformer import MultiTokenTransformer
from components.shards.reader import TokenReader
from components.synthetic.config import TextCellConfig
from components.synthetic.examples import Scored
from components.synthetic.score import score
from components.synthetic.stories import read_stories
from components.tokenizer.codec import load_tokenizer

SPLIT = "test"
"""No training reads it."""
WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class TextTest:
    """What is measured of a model, ready."""

    reader: TokenReader
    starts: Sequence[int]
    """First tokens of the windows whose bits per byte are measured."""
    context_length: int
    byte_lengths_V: Tensor
    stories: Sequence[Scored]

    @staticmethod
    def of(config: TextCellConfig, shards: Shards, stories: Sequence[Stories]) -> "TextTest":
        """ValueError when the split is too short."""
        codec, reader = load_tokenizer(shards.path / "tokenizer"), TokenReader(shards.path, SPLIT)
        reader.verify()
        context, wanted = config.training.context_length, config.text.heldout_tokens
        n = config.model.n_future_tokens
        return TextTest(
            reader,
            window_starts(shards.tokens[SPLIT], context, n, wanted) if wanted else (),
            context,
            torch.tensor([codec.byte_length(token) for token in range(codec.vocabulary_size)]),
            [read_stories(of.path, context) for of in stories],
        )

    def taken(self, model: MultiTokenTransformer, precision: torch.dtype) -> dict[str, float]:
        """`bits_per_byte` of the next-token head, and `accuracy` on stories."""
        found = {}
        if self.starts:
            autocast = torch.autocast(model.norm.weight.device.type, precision, enabled=precision != torch.float32)
            with torch.compiler.set_stance("force_eager"), autocast:  # a shape that training does not have
                *_, sums = score_windows(
                    model, self._window, self.starts, self.context_length, WINDOWS_AT_ONCE, self.byte_lengths_V
                )
            found["bits_per_byte"] = sums.bits_per_byte()
        return found | score(model, self.stories, precision)

    @property
    def items(self) -> dict[str, int]:
        """What each metric is of."""
        scored = {"bits_per_byte": len(self.starts) * self.context_length} if self.starts else {}
        return scored | {part.name: part.items for part in self.stories}

    def _window(self, start: int, length: int) -> Tensor:
        return torch.as_tensor(self.reader.window(start, length)).long()
