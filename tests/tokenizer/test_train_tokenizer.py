import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from components.artifacts import SPLITS, Corpus
from components.corpus.blocks import in_process
from components.corpus.collect import collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.reader import fetch, places
from components.flow.stage_run import StageRun
from components.tokenizer.codec import SentencePieceCodec, load_tokenizer
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.stage import train_tokenizer
from components.tokenizer.train import sample, train_sentencepiece

CONFIG = TokenizerConfig(vocabulary_size=800)


def test_the_stage_reports_what_it_measured(small_corpus: Corpus, tmp_path: Path) -> None:
    run = StageRun.local(tmp_path)
    result = train_tokenizer(CONFIG, small_corpus, run)
    codec = load_tokenizer(result.path)
    texts = [text for _, text in fetch(small_corpus.path, places(small_corpus.path, "validation"))]
    tokens = sum(len(codec.encode(text)) for text in texts)
    assert result.vocabulary_size == codec.vocabulary_size == 800
    assert result.bytes_per_token == pytest.approx(small_corpus.text_bytes["validation"] / tokens)
    assert result.bytes_per_token > 1.5
    assert (result.round_trip_failures, result.round_trip_documents) == (0, len(texts))
    assert "the whole validation split" in (result.path / "tokenizer.json").read_text()


def test_training_is_deterministic_and_silent(
    small_corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = [
        train_tokenizer(CONFIG, small_corpus, StageRun.local(tmp_path / str(cpus), cpus=cpus)) for cpus in (1, 2)
    ]
    assert results[0].digest == results[1].digest
    models = [(result.path / "tokenizer.model").read_bytes() for result in results]
    assert models[0] == models[1]
    assert capfd.readouterr() == ("", "")


def test_only_the_training_split_is_seen(small_corpus: Corpus, tmp_path: Path) -> None:
    """Held-out documents may hold anything: the vocabulary stays the same."""
    import pyarrow.parquet as pq

    before = train_tokenizer(CONFIG, small_corpus, StageRun.local(tmp_path / "before"))
    twisted = replace(small_corpus, path=tmp_path / "corpus")
    for split in SPLITS:
        (twisted.path / split).mkdir(parents=True)
        for part in (small_corpus.path / split).glob("*.parquet"):
            table = pq.read_table(part)
            if split != "train":
                text = ["qqzz" * 10_000] * table.num_rows
                table = table.set_column(2, "text", [text])
            pq.write_table(table, twisted.path / split / part.name)
    after = train_tokenizer(CONFIG, twisted, StageRun.local(tmp_path / "after"))
    assert after.digest == before.digest
    assert after.bytes_per_token != before.bytes_per_token


def test_a_sample_is_about_as_large_as_asked(small_corpus: Corpus) -> None:
    total = small_corpus.text_bytes["train"]
    whole = list(sample(small_corpus.path, "train", total, total, 0))
    assert sum(len(text.encode()) for text in whole) == total
    part = list(sample(small_corpus.path, "train", total, total // 2, 0))
    assert 0.25 * total < sum(len(text.encode()) for text in part) < 0.75 * total
    assert set(part) < set(whole)


def test_no_document_is_left_out_of_training_in_silence() -> None:
    """Long documents, and documents with a character that sentencepiece reserves, count like others."""
    random.seed(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    common = [" ".join(random.choices(words, k=200)) for _ in range(50)]
    config = TokenizerConfig(vocabulary_size=330)
    special = "zyzzyva " * 2000  # 16,000 bytes, far above the library's default limit
    for document in (special, special[:800] + "\u2585" + special[:800]):
        codec = SentencePieceCodec(train_sentencepiece(config, [*common, document]))
        assert len(codec.encode(" zyzzyva")) < 7


def test_a_vocabulary_that_the_text_cannot_fill_names_the_size_that_works(python_sources: Path) -> None:
    text = (python_sources / "bisect.py").read_text()
    with pytest.raises(ValueError, match="allow at most") as error:
        train_sentencepiece(TokenizerConfig(vocabulary_size=30_000), [text])
    largest = int(re.search(r"at most (\d+)", str(error.value))[1])  # type: ignore[index]
    train_sentencepiece(TokenizerConfig(vocabulary_size=largest), [text])


def test_a_vocabulary_too_small_for_the_characters_names_the_size_that_works() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(200)) * 5
    with pytest.raises(ValueError, match="need at least") as error:
        train_sentencepiece(TokenizerConfig(vocabulary_size=300, character_coverage=1.0), [text])
    smallest = int(re.search(r"at least (\d+)", str(error.value))[1])  # type: ignore[index]
    train_sentencepiece(TokenizerConfig(vocabulary_size=smallest, character_coverage=1.0), [text])


def test_bytes_need_no_training(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"{i} été 日本\n" * 50)
    (tmp_path / "corpus").mkdir()
    made = collect_corpus(
        CorpusConfig(source="files", path=str(folder)), tmp_path / "corpus", in_process, lambda *_: None
    )
    corpus = Corpus(tmp_path / "corpus", made.digest, made.documents, made.text_bytes, made.dropped)
    result = train_tokenizer(TokenizerConfig(kind="bytes", vocabulary_size=None), corpus, StageRun.local(tmp_path))
    assert (result.kind, result.vocabulary_size, result.bytes_per_token) == ("bytes", 258, 1.0)
    assert result.round_trip_failures == 0


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"kind": "words"}, "kind"),
        ({"kind": "bytes", "vocabulary_size": 2048}, "vocabulary_size"),
        ({"vocabulary_size": None}, "vocabulary_size"),
        ({"vocabulary_size": 258}, "vocabulary_size"),
        ({"sample_bytes": 0}, "sample_bytes"),
        ({"character_coverage": 0.5}, "character_coverage"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(config: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} is "):
        TokenizerConfig(**config)  # type: ignore[arg-type]
