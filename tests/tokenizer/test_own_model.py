"""A sentencepiece model that the user has, made here by the library with settings as other projects use them."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from components.artifacts import Corpus
from components.corpus.reader import fetch, places
from components.flow.identity import identity_of
from components.flow.stage_run import StageRun
from components.tokenizer.codec import SentencePieceCodec, load_tokenizer
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.own import own_model_problems, take_over, vocabulary_size_of
from components.tokenizer.stage import train_tokenizer
from pipelines.compose import Faults, compose

LIKE_LLAMA = {"model_type": "bpe", "byte_fallback": True, "split_digits": True, "normalization_rule_name": "identity",
              "remove_extra_whitespaces": False, "character_coverage": 0.99995}  # fmt: skip
"""What Llama 2's model says of its training; a space goes before every text (the default)."""
DEFAULTS: dict[str, Any] = {}
"""Unigram, NFKC, spaces in a row made one, no bytes to fall back on."""


@pytest.fixture(scope="module")
def texts(small_corpus: Corpus) -> list[str]:
    return [text for _, text in fetch(small_corpus.path, places(small_corpus.path, "validation"))]


def _train(folder: Path, texts: list[str], **options: Any) -> Path:
    model = io.BytesIO()
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=500, minloglevel=2, **options
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def test_a_model_like_llama_s_is_taken_piece_by_piece_and_exact(
    small_corpus: Corpus, texts: list[str], tmp_path: Path
) -> None:
    path = _train(tmp_path, texts, **LIKE_LLAMA)
    config = TokenizerConfig(model_path=str(path), vocabulary_size=500)
    run = StageRun.local(tmp_path / "run")
    result = train_tokenizer(config, small_corpus, run)
    assert result.vocabulary_size == vocabulary_size_of(str(path)) == 500
    assert result.round_trip_failures == 0
    assert not (run.directory / "warnings.jsonl").exists()
    ours, theirs = load_tokenizer(result.path), SentencePieceProcessor(model_file=str(path))
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id(), theirs.eos_id())
    for text in texts:
        # theirs puts a space before the text; with one there already it is theirs but for the extra space
        assert ours.decode(theirs.encode(text)) == " " + text
        assert ours.encode(" " + text) == theirs.encode(text)


def test_a_model_that_cannot_be_exact_says_why(small_corpus: Corpus, texts: list[str], tmp_path: Path) -> None:
    path = _train(tmp_path, texts, **DEFAULTS)
    config = TokenizerConfig(model_path=str(path), vocabulary_size=500)
    run = StageRun.local(tmp_path / "run")
    result = train_tokenizer(config, small_corpus, run)
    assert result.round_trip_failures == result.round_trip_documents > 0  # NFKC turns line ends into spaces
    said = (run.directory / "warnings.jsonl").read_text()
    assert "writes some characters as others (its normalization) and has no bytes to spell" in said
    codec = load_tokenizer(result.path)
    assert codec.decode(codec.encode("    return  x")) == "    return  x"


@pytest.mark.parametrize(("mark", "words"), [("bos_id", "beginning"), ("eos_id", "end")])
def test_a_model_without_marks_is_refused(mark: str, words: str, texts: list[str], tmp_path: Path) -> None:
    path = _train(tmp_path, texts, **{**LIKE_LLAMA, mark: -1})
    (problem,) = own_model_problems(TokenizerConfig(model_path=str(path), vocabulary_size=500))
    assert problem.startswith("tokenizer.model_path ")
    assert f"no mark for the {words}" in problem


def test_the_identity_is_the_file_s_content(texts: list[str], tmp_path: Path) -> None:
    path = _train(tmp_path, texts, **LIKE_LLAMA)
    config = TokenizerConfig(model_path=str(path), vocabulary_size=500)
    recipe, _ = compose(["tokenizer=own", f"tokenizer.model_path={path}"])
    from pipelines.full import full

    def identity() -> Any:
        return next(identity_of(node) for node in full(recipe).nodes if node.name == "tokenizer").external

    first = identity()
    _train(tmp_path, texts[::2], **LIKE_LLAMA)
    assert first is not None
    assert identity() != first
    path.unlink()
    assert identity() is None
    assert own_model_problems(config) == [f"tokenizer.model_path {path} is not there"]


def test_a_plan_knows_the_vocabulary_from_the_file_or_is_told(texts: list[str], tmp_path: Path) -> None:
    path = _train(tmp_path, texts, **LIKE_LLAMA)

    def faults(*overrides: str) -> list[str]:
        with pytest.raises(Faults) as caught:
            compose(["tokenizer=own", *overrides])
        return caught.value.faults

    recipe, _ = compose(["tokenizer=own", f"tokenizer.model_path={path}"])
    assert recipe.tokenizer.size == recipe.model_for(4).vocabulary_size == 500
    missing = tmp_path / "elsewhere.model"
    recipe, _ = compose(["tokenizer=own", f"tokenizer.model_path={missing}", "tokenizer.vocabulary_size=32000"])
    assert recipe.model_for(1).vocabulary_size == 32_000
    (said,) = faults(f"tokenizer.model_path={missing}")
    assert said == f"tokenizer.model_path {missing} is not there; with vocabulary_size=N a plan goes without the file"
    (said,) = faults(f"tokenizer.model_path={path}", "tokenizer.vocabulary_size=1024")
    assert said == f"tokenizer.vocabulary_size is 1024, but {path} has 500 symbols; give null"
    (tmp_path / "text.model").write_text("no model")
    (said,) = faults(f"tokenizer.model_path={tmp_path / 'text.model'}")
    assert "not a readable sentencepiece model" in said
    (said,) = faults()
    assert "or a model_path" in said


def test_the_size_is_held_against_the_file(texts: list[str], tmp_path: Path) -> None:
    path = _train(tmp_path, texts, **LIKE_LLAMA)
    with pytest.raises(ValueError, match=r"vocabulary_size is 501, but .* has 500 symbols"):
        take_over(str(path), 501)
    with pytest.raises(ValueError, match=r"^model_path is .* with kind 'bytes'"):
        replace(TokenizerConfig(kind="bytes", vocabulary_size=None), model_path=str(path))


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"])
def test_normalization_is_noticed(rule: str, texts: list[str], tmp_path: Path) -> None:
    path = _train(tmp_path, texts, **{**LIKE_LLAMA, "normalization_rule_name": rule})
    _, inexact = take_over(str(path), 500)
    assert bool(inexact) == (rule != "identity")


def test_two_texts_encode_to_the_ids_of_the_two(texts: list[str], tmp_path: Path) -> None:
    """So that what is generated from the ids of a cut document goes on where it was cut."""
    model, _ = take_over(str(_train(tmp_path, texts, **LIKE_LLAMA)), 500)
    codec = SentencePieceCodec(model)
    for text in texts[:20]:
        first, second = text[: len(text) // 2], text[len(text) // 2 :]
        assert codec.decode([*codec.encode(first), *codec.encode(second)]) == text
