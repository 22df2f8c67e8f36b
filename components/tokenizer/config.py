"""Which tokenizer. Needs the standard library alone."""

import math
from dataclasses import dataclass
from typing import Literal

BYTE_VOCABULARY = 258
"""256 bytes, then the marks for the beginning and the end of a document."""
SMALLEST_SENTENCEPIECE_VOCABULARY = 300
"""3 marks, 256 bytes of the fallback, and a few characters."""


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer and what it is trained on."""

    kind: Literal["sentencepiece", "bytes"] = "sentencepiece"
    """`sentencepiece`: byte-pair encoding with byte fallback. `bytes`: one token a byte."""
    vocabulary_size: int | None = 2048
    """Symbols, marks included. None with kind `bytes`, where it is always 258, and with a `model_path`, where it is
    read from the file."""
    model_path: str | None = None
    """For `sentencepiece`: a model file to use as it is, such as Llama 2's `tokenizer.model`. None: train one."""
    sample_bytes: int = 20_000_000
    """Train on about this many bytes of the training split, documents chosen by hash."""
    character_coverage: float = 0.9995
    """Share of the characters of the sample that get symbols of their own; the rest is spelled in bytes."""
    seed: int = 0
    """Chooses the sample."""

    def __post_init__(self) -> None:
        faults = []
        if self.kind not in ("sentencepiece", "bytes"):
            faults.append(f"kind is {self.kind!r}; it must be 'sentencepiece' or 'bytes'")
        if self.kind == "bytes" and self.vocabulary_size not in (None, BYTE_VOCABULARY):
            faults.append(
                f"vocabulary_size is {self.vocabulary_size}; kind 'bytes' has {BYTE_VOCABULARY}: leave it out (null)"
            )
        if self.kind == "bytes" and self.model_path is not None:
            faults.append(f"model_path is {self.model_path!r} with kind 'bytes'; a model needs kind: sentencepiece")
        if self.model_path is not None and self.kind == "sentencepiece" and self.vocabulary_size is None:
            faults.append(
                f"vocabulary_size is None and {self.model_path} was not read; give the number of the model's symbols"
            )
        elif (
            self.kind == "sentencepiece"
            and self.model_path is None
            and (self.vocabulary_size is None or self.vocabulary_size < SMALLEST_SENTENCEPIECE_VOCABULARY)
        ):
            faults.append(
                f"vocabulary_size is {self.vocabulary_size}; kind 'sentencepiece' needs at least "
                f"{SMALLEST_SENTENCEPIECE_VOCABULARY} (3 marks, 256 bytes, and characters), or a model_path"
            )
        if self.sample_bytes < 1:
            faults.append(f"sample_bytes is {self.sample_bytes}; it must be at least 1")
        if not 0.9 <= self.character_coverage <= 1:
            faults.append(f"character_coverage is {self.character_coverage}; it must lie between 0.9 and 1")
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def size(self) -> int:
        """The number of symbols, known without running anything."""
        return BYTE_VOCABULARY if self.vocabulary_size is None else self.vocabulary_size


def bytes_per_token_guess(config: TokenizerConfig) -> float:
    """Bytes a token holds on source code or prose, for a plan: about 2.4 at 1,024 symbols and 3.6 at 32,000."""
    return 1.0 if config.kind == "bytes" else 0.24 * math.log2(config.size)
