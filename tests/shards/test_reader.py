import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.artifacts import Corpus
from components.corpus.blocks import in_process
from components.shards import reader as reader_module
from components.shards.pack import pack
from components.shards.reader import TokenReader


@pytest.fixture(scope="module")
def packed(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tmp_path_factory.mktemp("bytes")
    (tokenizer / "tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 258}))
    directory = tmp_path_factory.mktemp("shards")
    pack(
        small_corpus.path,
        tokenizer,
        directory,
        50_000,
        in_process,
        lambda done, total, text: None,
    )
    return directory


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(packed, tmp_path / "shards")


def test_windows_agree_with_the_whole_also_across_shards(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_OPEN_SHARDS", 2)  # maps are closed and opened again
    reader = TokenReader(packed, "train")
    whole = reader.window(0, reader.n_tokens)
    assert whole.dtype == np.int64
    generator = np.random.default_rng(0)
    for _ in range(300):
        length = int(generator.integers(0, 150_000))
        start = int(generator.integers(0, reader.n_tokens - length + 1))
        assert np.array_equal(reader.window(start, length), whole[start : start + length])
    window = reader.window(5, 10)
    window[:] = 0  # a copy: the map underneath stays
    assert np.array_equal(reader.window(5, 10), whole[5:15])


def test_a_position_is_located_in_its_shard(packed: Path) -> None:
    reader = TokenReader(packed, "train")
    position = 0
    for shard in json.loads((packed / "shards.json").read_text())["shards"]:
        if shard["split"] != "train":
            continue
        assert reader.locate(position) == (packed / shard["file"], 0)
        position += shard["tokens"]
        assert reader.locate(position - 1) == (packed / shard["file"], shard["tokens"] - 1)
    assert position == reader.n_tokens


def test_outside_the_split_is_an_error(packed: Path) -> None:
    reader = TokenReader(packed, "test")
    for start, length in ((-1, 5), (reader.n_tokens - 4, 5), (0, reader.n_tokens + 1)):
        with pytest.raises(ValueError, match=f"{reader.n_tokens} tokens of test"):
            reader.window(start, length)
    with pytest.raises(ValueError, match="outside"):
        reader.locate(reader.n_tokens)
    with pytest.raises(ValueError, match="it has train, validation, test"):
        TokenReader(packed, "dev")


def test_a_truncated_shard_is_named(copy: Path) -> None:
    path = copy / "train/shard-00002.arrow"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"train/shard-00002.arrow has \d+ bytes instead of"):
        TokenReader(copy, "train")
    TokenReader(copy, "test").verify()


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "train/shard-00001.arrow").unlink()
    with pytest.raises(ValueError, match=r"train/shard-00001.arrow is missing"):
        TokenReader(copy, "train")


def test_a_flipped_bit_is_found_and_named(copy: Path) -> None:
    path = copy / "train/shard-00003.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    reader = TokenReader(copy, "train")
    with pytest.raises(ValueError, match=r"sha256 in shards.json.*: shard .*train/shard-00003.arrow; delete"):
        reader.verify()
    reader.verify(slice(0, 3))
    reader.verify(slice(4, reader.n_shards))


def test_an_impossible_token_is_named_with_its_place(copy: Path) -> None:
    path = copy / "train/shard-00001.arrow"
    data = bytearray(path.read_bytes())
    middle = len(data) // 4 * 2
    data[middle : middle + 2] = b"\xff\xff"
    path.write_bytes(data)
    reader = TokenReader(copy, "train")
    with pytest.raises(ValueError, match=r"train/shard-00001.arrow holds token 65535 at offset \d+"):
        reader.window(0, reader.n_tokens)


def test_a_foreign_file_of_the_right_size_is_named(copy: Path) -> None:
    path = copy / "test/shard-00000.arrow"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"test/shard-00000.arrow is damaged"):
        TokenReader(copy, "test").window(0, 10)
