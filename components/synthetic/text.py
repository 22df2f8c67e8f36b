"""The test of a training on text: bits per byte of the test split, and induction on its stories."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from components.artifacts import Corpus, Shards
from components.corpus.reader import read_row_group, row_groups
from components.evaluation.heldout import score_windows, window_starts
from components.model.transformer import MultiTokenTransformer
from components.shards.reader import TokenReader
from components.synthetic.config import TextCellConfig, TextConfig
from components.synthetic.examples import Scored
from components.synthetic.score import score
from components.synthetic.stories import Words, stories_test
from components.tokenizer.codec import load_tokenizer

SPLIT = "test"
"""No training reads it."""
WINDOWS_AT_ONCE = 8
SHOWN_STORIES = 2


@dataclass(frozen=True)
class TextTest:
    """What is measured of a model, ready."""

    reader: TokenReader
    starts: Sequence[int]
    """First tokens of the windows whose bits per byte are measured."""
    context_length: int
    byte_lengths_V: Tensor
    stories: list[Scored] = field(default_factory=list)

    @staticmethod
    def of(config: TextCellConfig, shards: Shards, corpus: Corpus) -> "TextTest":
        """ValueError when the split is too short, or has no story with a name."""
        codec, reader = load_tokenizer(shards.path / "tokenizer"), TokenReader(shards.path, SPLIT)
        reader.verify()
        context, wanted = config.training.context_length, config.text.heldout_tokens
        n = config.model.n_future_tokens
        return TextTest(
            reader,
            window_starts(shards.tokens[SPLIT], context, n, wanted) if wanted else (),
            context,
            torch.tensor([codec.byte_length(token) for token in range(codec.vocabulary_size)]),
            _stories(config.text, context, shards, corpus)[0],
        )

    def taken(self, model: MultiTokenTransformer, precision: torch.dtype) -> dict[str, float]:
        """`bits_per_byte` of the next-token head, and `accuracy` on stories."""
        found = {}
        if self.starts:
            with torch.autocast(model.norm.weight.device.type, precision, enabled=precision != torch.float32):
                *_, sums = score_windows(
                    model, self._window, self.starts, self.context_length, WINDOWS_AT_ONCE, self.byte_lengths_V
                )
            found["bits_per_byte"] = sums.bits_per_byte()
        return found | score(model, self.stories, precision)

    def _window(self, start: int, length: int) -> Tensor:
        return torch.as_tensor(self.reader.window(start, length)).long()


def shown(config: TextConfig, context_length: int, shards: Shards, corpus: Corpus) -> str:
    """Stories of the test as they were made; empty where it has none."""
    return "\n\n".join(_stories(config, context_length, shards, corpus)[1][:SHOWN_STORIES])


def _stories(config: TextConfig, longest: int, shards: Shards, corpus: Corpus) -> tuple[list[Scored], list[str]]:
    if not config.stories:
        return [], []
    codec = load_tokenizer(shards.path / "tokenizer")
    known = Words.of(text for split in ("train", SPLIT) for text in _texts(corpus.path, split))
    if config.stories_of is not None and config.stories_of not in corpus.sources:
        raise ValueError(f"text.stories_of is {config.stories_of!r}; the corpus has {', '.join(corpus.sources)}")
    return stories_test(_texts(corpus.path, SPLIT, config.stories_of), known, codec, config.stories, longest)


def _texts(corpus: Path, split: str, part: str | None = None) -> Iterator[str]:
    """Of a mixture those of a part, whose name the ids begin with."""
    for file, group in row_groups(corpus, split):
        for name, text in zip(*read_row_group(corpus, file, group, "id", "text"), strict=True):
            if part is None or name.startswith(f"{part}/"):
                yield text
