import filecmp
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.artifacts import SPLITS, Corpus
from components.corpus.blocks import in_process
from components.corpus.reader import fetch, places
from components.shards.config import DataExecution, ShardsConfig
from components.shards.pack import Packed, pack
from components.shards.reader import TokenReader
from components.tokenizer.codec import Codec, load_tokenizer
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.train import sample, train_sentencepiece


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    facts: dict[str, Any] = {"kind": request.param, "vocabulary_size": 258 if request.param == "bytes" else 700}
    if request.param == "sentencepiece":
        texts = sample(small_corpus.path, "train", small_corpus.text_bytes["train"], 300_000, 0)
        model = train_sentencepiece(TokenizerConfig(vocabulary_size=700), texts)
        (directory / "tokenizer.model").write_bytes(model)
    (directory / "tokenizer.json").write_text(json.dumps(facts))
    return directory


def _pack(
    corpus: Corpus, tokenizer: Path, directory: Path, shard_tokens: int = 100_000, backwards: bool = False
) -> Packed:
    directory.mkdir()

    def mapper(function: Callable[[Any], Any], work: Sequence[Any], /) -> Iterator[Any]:
        return in_process(function, work[::-1] if backwards else work)

    return pack(corpus.path, tokenizer, directory, shard_tokens, mapper, lambda done, total, text: None)


def _expected(corpus: Corpus, split: str, codec: Codec) -> list[int]:
    """The stream of a split, put together the plain way."""
    stream: list[int] = []
    for _, text in fetch(corpus.path, places(corpus.path, split)):
        stream += [codec.bos_id, *codec.encode(text), codec.eos_id]
    return stream


def test_the_stream_is_every_document_in_order_between_its_marks(
    small_corpus: Corpus, tokenizer: Path, tmp_path: Path
) -> None:
    result = _pack(small_corpus, tokenizer, tmp_path / "out")
    codec = load_tokenizer(tmp_path / "out/tokenizer")
    for split in SPLITS:
        reader = TokenReader(tmp_path / "out", split)
        expected = _expected(small_corpus, split, codec)
        assert reader.n_tokens == result.tokens[split] == len(expected)
        assert np.array_equal(reader.window(0, reader.n_tokens), expected)
        assert result.documents[split] == reader.documents == small_corpus.documents[split]
        assert result.text_bytes[split] == reader.text_bytes == small_corpus.text_bytes[split]
        reader.verify()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "shards.json", "test", "tokenizer", "train", "validation"
    ]  # fmt: skip


def test_a_shard_ends_with_the_document_that_fills_it(small_corpus: Corpus, tokenizer: Path, tmp_path: Path) -> None:
    _pack(small_corpus, tokenizer, tmp_path / "out")
    manifest = json.loads((tmp_path / "out/shards.json").read_text())
    codec = load_tokenizer(tokenizer)
    train = [shard for shard in manifest["shards"] if shard["split"] == "train"]
    assert len(train) > 3
    for number, shard in enumerate(train):
        with pa.memory_map(str(tmp_path / "out" / shard["file"])) as source:
            file = pa.ipc.open_file(source)
            assert file.num_record_batches == 1
            ids = file.get_batch(0).column("tokens").to_numpy()
            assert ids.dtype == np.uint16
            assert (ids[0], ids[-1]) == (codec.bos_id, codec.eos_id)
            assert (ids == codec.bos_id).sum() == shard["documents"]
            assert len(ids) == shard["tokens"]
            ends = np.flatnonzero(ids == codec.eos_id)
            if number < len(train) - 1:
                assert ends[-2] + 1 < 100_000 <= len(ids)


def test_neither_blocks_nor_their_order_change_a_byte(
    small_corpus: Corpus, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _pack(small_corpus, tokenizer, tmp_path / "a")
    second = _pack(small_corpus, tokenizer, tmp_path / "b", backwards=True)
    assert first == second
    names = [str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(names) > 5
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False) == (names, [], [])


def test_the_digest_follows_layout_and_content(small_corpus: Corpus, tokenizer: Path, tmp_path: Path) -> None:
    digests = {_pack(small_corpus, tokenizer, tmp_path / str(n), n).digest for n in (50_000, 100_000)}
    assert len(digests) == 2


def test_values_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="shard_tokens is 0"):
        ShardsConfig(shard_tokens=0)
    with pytest.raises(ValueError, match="workers is 0"):
        DataExecution(workers=0)
