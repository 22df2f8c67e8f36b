"""Text to token ids and back. Both kinds are exact, decode_bytes(encode(text)) is the text in UTF-8, but for models of
other people that cannot spell every text (`own.py`)."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.tokenizer.config import BYTE_VOCABULARY

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FACTS_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"

SPACE_PIECE = "\u2581"
"""How sentencepiece writes a space. In a text it would come back as one, so it is spelled in bytes instead."""


class Codec(Protocol):
    """A tokenizer, ready to use. Marks are the beginning (`bos_id`) and end (`eos_id`) of a document."""

    @property
    def vocabulary_size(self) -> int:
        """Symbols, marks included."""

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without marks."""

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> "list[npt.NDArray[np.unsignedinteger[Any]]]":
        """The ids of many texts, without marks, in the smallest unsigned type that holds the vocabulary."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids: marks dropped, what is not UTF-8 (a character cut in two) shown as U+FFFD."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of some ids, marks dropped; a concatenation of ids is a concatenation of bytes."""

    def byte_length(self, token: int) -> int:
        """Bytes of text that one id stands for; 0 for a mark."""


def token_dtype(vocabulary_size: int) -> "np.dtype[np.unsignedinteger[Any]]":
    """The smallest unsigned type for ids of a vocabulary: 16 bits up to 65,536 symbols, else 32."""
    import numpy as np

    return np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)


class _Table:
    """Decoding by look-up: every id stands for fixed bytes."""

    def __init__(self, pieces: list[bytes], bos_id: int, eos_id: int) -> None:
        self._pieces = pieces
        self.vocabulary_size = len(pieces)
        self.bos_id = bos_id
        self.eos_id = eos_id

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join([self._piece(token) for token in ids])

    def byte_length(self, token: int) -> int:
        return len(self._piece(token))

    def _piece(self, token: int) -> bytes:
        if not 0 <= token < self.vocabulary_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {self.vocabulary_size} symbols")
        return self._pieces[token]


class BytesCodec(_Table):
    """One token a byte: ids 0..255 are the bytes, 256 and 257 the marks."""

    def __init__(self) -> None:
        super().__init__([bytes([value]) for value in range(256)] + [b"", b""], 256, 257)
        assert self.vocabulary_size == BYTE_VOCABULARY

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> "list[npt.NDArray[np.unsignedinteger[Any]]]":
        import numpy as np

        dtype = token_dtype(self.vocabulary_size)
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(dtype) for text in texts]


class SentencePieceCodec(_Table):
    """Byte-pair encoding by sentencepiece, which spells in bytes what it has no piece for."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_proto=model)
        size: int = self._processor.get_piece_size()
        super().__init__(
            [self._bytes_of(token) for token in range(size)],
            self._processor.bos_id(),
            self._processor.eos_id(),
        )
        self._space_piece_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_PIECE.encode()]

    def _bytes_of(self, token: int) -> bytes:
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        piece: str = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE_PIECE, " ").encode()

    def encode(self, text: str) -> list[int]:
        first, *rest = text.split(SPACE_PIECE)
        ids: list[int] = self._processor.encode(first)
        for part in rest:
            ids += self._space_piece_ids
            ids += self._processor.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> "list[npt.NDArray[np.unsignedinteger[Any]]]":
        import numpy as np

        dtype = token_dtype(self.vocabulary_size)
        plain = [text for text in texts if SPACE_PIECE not in text]
        encoded = iter(self._processor.encode(plain, num_threads=threads))
        return [np.array(self.encode(text) if SPACE_PIECE in text else next(encoded), dtype=dtype) for text in texts]

    def content(self) -> bytes:
        """What distinguishes this vocabulary from another; the model file also has the settings of its training."""
        processor = self._processor
        rows = [(processor.id_to_piece(t), processor.get_score(t)) for t in range(self.vocabulary_size)]
        return json.dumps(rows).encode()


def tokenizer_digest(codec: Codec) -> str:
    """A hash of what the tokenizer does, whatever made it."""
    content = codec.content() if isinstance(codec, SentencePieceCodec) else b"bytes"
    return hashlib.sha256(content).hexdigest()


def load_tokenizer(directory: Path) -> Codec:
    """Read a tokenizer from its directory. FileNotFoundError or ValueError when there is none or it is broken."""
    facts_path = Path(directory) / FACTS_FILE
    if not facts_path.exists():
        raise FileNotFoundError(f"{directory} holds no tokenizer: {FACTS_FILE} is missing")
    facts = json.loads(facts_path.read_text(encoding="utf-8"))
    codec: Codec
    if facts["kind"] == "bytes":
        codec = BytesCodec()
    elif facts["kind"] == "sentencepiece":
        model = Path(directory) / MODEL_FILE
        try:
            codec = SentencePieceCodec(model.read_bytes())
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{model} is not a readable sentencepiece model: {error}") from error
    else:
        raise ValueError(f"{facts_path} has kind {facts['kind']!r}; this version reads 'sentencepiece' and 'bytes'")
    if codec.vocabulary_size != facts["vocabulary_size"]:
        raise ValueError(
            f"{facts_path} says {facts['vocabulary_size']} symbols, the model beside it has {codec.vocabulary_size}"
        )
    return codec
