"""A sentencepiece model that the user has. Its pieces are taken as they are; its habits with white space are not."""

import hashlib
from pathlib import Path
from typing import Any

from components.tokenizer.config import TokenizerConfig

KEEP_WHITE_SPACE = bytes([0x1A, 4, 0x18, 0, 0x20, 0])
"""Field 3 of a ModelProto (normalizer_spec) with add_dummy_prefix (3) and remove_extra_whitespaces (4) false. Appended
to a model it takes the place of what stands there: in Protocol Buffers, messages that are joined are merged."""
OFTEN_NORMALIZED = "A\t\n\u00a0\u00bd\ufb01\uff21e\u0301"
"""Characters that the library's normalizations change, each at least one."""


def own_model_identity(config: TokenizerConfig) -> Any:
    """The content of the model file: what lies at its path may change. None when there is none to read."""
    try:
        return hashlib.sha256(Path(config.model_path).read_bytes()).hexdigest() if config.model_path else None
    except OSError:
        return None


def own_model_problems(config: TokenizerConfig) -> list[str]:
    """What a run would trip over: a file that is not there, or not a model that can be used."""
    if config.model_path is None:
        return []
    try:
        take_over(config.model_path, config.size)
    except ValueError as error:
        return [f"tokenizer.{error}"]
    return []


def vocabulary_size_of(model_path: str) -> int:
    """Symbols of a model file. ValueError when it is none."""
    size: int = _load(model_path).get_piece_size()
    return size


def take_over(model_path: str, vocabulary_size: int) -> tuple[bytes, list[str]]:
    """The model to use, and why it cannot spell every text, if so.

    Every piece and its number stay. The model puts no space before a text and keeps spaces in a row: so that a
    document comes back as it is, and the ids of two pieces of text are those of the two together.
    """
    from sentencepiece import SentencePieceProcessor

    processor = _load(model_path)
    size = processor.get_piece_size()
    if size != vocabulary_size:
        raise ValueError(
            f"vocabulary_size is {vocabulary_size}, but {model_path} has {size} symbols; leave it out (null)"
        )
    for mark, id in (("beginning (bos)", processor.bos_id()), ("end (eos)", processor.eos_id())):
        if id < 0:
            raise ValueError(
                f"model_path {model_path} has no mark for the {mark} of a document, which every document needs; "
                "take a model trained with bos_id and eos_id, or train one here (tokenizer=bpe_32k)"
            )
    model = Path(model_path).read_bytes() + KEEP_WHITE_SPACE
    changed = SentencePieceProcessor(model_proto=model)
    inexact = []
    if changed.normalize(OFTEN_NORMALIZED) != OFTEN_NORMALIZED:
        inexact.append("writes some characters as others (its normalization)")
    if not all(changed.is_byte(changed.piece_to_id(f"<0x{byte:02X}>")) for byte in range(256)):
        inexact.append("has no bytes to spell what it has no piece for (byte_fallback)")
    return model, inexact


def _load(model_path: str) -> Any:
    from sentencepiece import SentencePieceProcessor

    path = Path(model_path)
    if path.is_dir():
        raise ValueError(f"model_path {model_path} is a folder; give the model file in it, such as tokenizer.model")
    if not path.is_file():
        raise ValueError(f"model_path {model_path} is not there")
    try:
        return SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise ValueError(f"model_path {model_path} is not a readable sentencepiece model: {error}") from error
