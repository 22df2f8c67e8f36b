"""The exported tokenizer, read by transformers, makes the ids of the codec: of any text, not of usual text alone."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer
from test_codec import HARD
from test_own_model import LIKE_LLAMA
from transformers import AutoTokenizer

from components.artifacts import Corpus
from components.corpus.reader import fetch, places
from components.tokenizer.codec import load_tokenizer
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.huggingface import export_tokenizer
from components.tokenizer.own import take_over
from components.tokenizer.train import train_sentencepiece

PARTS = [*HARD[:9], *" \t\n\r=-#*.()09aeZé日🎉\u2581", "  ", "    ", "return", "self", "<s>", "</s>", "<unk>", "<0x0A>"]


@pytest.fixture(scope="module")
def texts(small_corpus: Corpus) -> list[str]:
    return [text for _, text in fetch(small_corpus.path, places(small_corpus.path, "validation"))]


def _spm(texts: list[str], **options: Any) -> bytes:
    model = io.BytesIO()
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=500, minloglevel=2, **options
    )
    return model.getvalue()


def _saved(folder: Path, model: bytes | None, size: int) -> Path:
    facts = {"kind": "bytes" if model is None else "sentencepiece", "vocabulary_size": size}
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    if model is not None:
        (folder / "tokenizer.model").write_bytes(model)
    return folder


def _read(source: Path, folder: Path, context_length: int | None = None) -> Any:
    """As a user reads it: beside a Llama's config, which alone would choose another class."""
    folder.mkdir()
    assert export_tokenizer(source, folder, context_length) == []
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["trained here", "like Llama's", "bytes"])
def test_transformers_makes_the_same_ids_and_text(kind: str, texts: list[str], tmp_path: Path) -> None:
    model = None
    if kind == "trained here":
        model = train_sentencepiece(TokenizerConfig(vocabulary_size=1000), texts)
    elif kind == "like Llama's":
        (tmp_path / "own.model").write_bytes(_spm(texts, **LIKE_LLAMA))
        model, _ = take_over(str(tmp_path / "own.model"), 500)
    source = _saved(tmp_path, model, {"trained here": 1000, "bytes": 258}.get(kind, 500))
    ours, theirs = load_tokenizer(source), _read(source, tmp_path / "exported")
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (ours.bos_id, ours.eos_id, ours.vocabulary_size)
    draw = random.Random(0)
    mixed = ["".join(draw.choices(PARTS, k=draw.randint(1, 40))) for _ in range(500)]
    anything = ["".join(chr(draw.choice((draw.randrange(0xD800), draw.randrange(256)))) for _ in range(40))]
    for text in [*HARD, *texts, *mixed, *anything]:
        ids = ours.encode(text)
        assert theirs.encode(text) == [ours.bos_id, *ids]
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.decode([ours.bos_id, *ids, ours.eos_id], skip_special_tokens=True) == text
    padded = theirs(["a", "a b c"], padding=True)
    assert padded["attention_mask"][0][0] == 0, "on the left, as generating needs it"
    assert set(padded) == {"input_ids", "attention_mask"}


def test_the_context_is_the_tokenizer_s_limit_where_it_is_known(tmp_path: Path) -> None:
    source = _saved(tmp_path, None, 258)
    assert _read(source, tmp_path / "known", 77).model_max_length == 77
    assert _read(source, tmp_path / "unknown").model_max_length > 10**20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, {"is no byte-pair encoding", "writes some characters as others", "has no bytes to spell"}),
        (LIKE_LLAMA | {"user_defined_symbols": ["<fim>"]}, {"has symbols that are never split"}),
        (LIKE_LLAMA | {"normalization_rule_name": "nfkc"}, {"writes some characters as others"}),
    ],
    ids=["the library's defaults", "user-defined symbols", "normalization"],
)
def test_what_has_no_counterpart_says_why_and_writes_nothing(
    options: dict[str, Any], said: set[str], texts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own.model").write_bytes(_spm(texts, **options))
    model, _ = take_over(str(tmp_path / "own.model"), 500)
    (tmp_path / "exported").mkdir()
    hindrances = export_tokenizer(_saved(tmp_path, model, 500), tmp_path / "exported")
    assert len(hindrances) == len(said)
    assert all(any(hindrance.startswith(start) for start in said) for hindrance in hindrances)
    assert not list((tmp_path / "exported").iterdir())
