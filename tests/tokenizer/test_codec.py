import json
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from components.artifacts import Corpus
from components.corpus.reader import fetch, places
from components.tokenizer.codec import BytesCodec, Codec, SentencePieceCodec, load_tokenizer, token_dtype
from components.tokenizer.config import BYTE_VOCABULARY, TokenizerConfig
from components.tokenizer.train import sample, train_sentencepiece

HARD = [
    "",
    " ",
    "\n\n\n",
    "  leading and trailing  ",
    "\ttab\r\nCRLF\rCR\x0cform feed\x00NUL\x7f",
    "\ufeffbyte order mark",
    "a\u2581b \u2581\u2581 c\u2581",  # how sentencepiece writes a space
    "\u2585 \u2047 <unk> <s> </s> <0x41> ▅",
    "日本語 العربية 🎉👩‍👩‍👧 e\u0301 ﬁ Å \u2028\u00a0",
    "x" * 5000,
    " " * 5000,
]


@pytest.fixture(scope="module")
def model(small_corpus: Corpus) -> bytes:
    texts = sample(small_corpus.path, "train", small_corpus.text_bytes["train"], 10**9, 0)
    return train_sentencepiece(TokenizerConfig(vocabulary_size=1000), texts)


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def codec(request: pytest.FixtureRequest, model: bytes) -> Codec:
    return BytesCodec() if request.param == "bytes" else SentencePieceCodec(model)


@pytest.mark.parametrize("text", HARD)
def test_every_text_comes_back(codec: Codec, text: str) -> None:
    ids = codec.encode(text)
    assert codec.decode(ids) == text
    assert codec.decode_bytes(ids) == text.encode()
    assert sum(map(codec.byte_length, ids)) == len(text.encode())
    assert not {codec.bos_id, codec.eos_id} & set(ids)


def test_real_code_comes_back_and_a_batch_is_its_texts(codec: Codec, small_corpus: Corpus) -> None:
    texts = [text for _, text in fetch(small_corpus.path, places(small_corpus.path, "validation"))] + HARD
    for threads in (1, 2):
        for text, ids in zip(texts, codec.encode_batch(texts, threads), strict=True):
            assert ids.tolist() == codec.encode(text)
            assert codec.decode_bytes(ids.tolist()) == text.encode()
            assert ids.dtype == np.uint16


def test_ordinary_text_is_encoded_and_decoded_as_sentencepiece_does(model: bytes, small_corpus: Corpus) -> None:
    ours, theirs = SentencePieceCodec(model), SentencePieceProcessor(model_proto=model)
    for _, text in fetch(small_corpus.path, places(small_corpus.path, "test")):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids[:200]) == theirs.decode(ids[:200])


def test_marks_are_dropped_and_half_a_character_is_shown_as_such(codec: Codec) -> None:
    ids = codec.encode("né")
    assert codec.decode([codec.bos_id, *ids, codec.eos_id]) == "né"
    halves = codec.encode("日")
    assert len(halves) == 3
    assert codec.decode(halves[:2]) == "\ufffd"
    # streaming: bytes of pieces add up however the ids are cut
    assert codec.decode_bytes(halves[:1]) + codec.decode_bytes(halves[1:]) == "日".encode()


def test_an_id_outside_the_vocabulary_is_an_error(codec: Codec) -> None:
    for token in (-1, codec.vocabulary_size):
        with pytest.raises(ValueError, match=f"token id {token} is outside"):
            codec.decode([token])


def test_the_byte_codec_is_the_bytes() -> None:
    codec = BytesCodec()
    assert codec.vocabulary_size == BYTE_VOCABULARY == TokenizerConfig(kind="bytes", vocabulary_size=None).size
    assert codec.encode("é\n") == list("é\n".encode())


def test_the_smallest_type_that_holds_the_vocabulary() -> None:
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32


def test_a_broken_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"kind": "sentencepiece", "vocabulary_size": 300}))
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 300}))
    with pytest.raises(ValueError, match="300 symbols"):
        load_tokenizer(tmp_path)
