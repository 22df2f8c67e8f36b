import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.artifacts import SPLITS, Corpus
from components.corpus import gather as gather_module
from components.corpus import write as write_module
from components.corpus.blocks import in_process
from components.corpus.collect import Collected, collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.reader import fetch, places
from components.corpus.split import assign_units

TEXT = "def add(a, b):\n    return a + b\n" * 20


def _collect(directory: Path, config: CorpusConfig, mapper: Any = in_process) -> Collected:
    directory.mkdir()
    return collect_corpus(config, directory, mapper, lambda done, total, text: None)


def _backwards(function: Callable[[Any], Any], work: Sequence[Any], /) -> Iterator[Any]:
    """Answers in the opposite order, as workers that race might give them."""
    yield from reversed(list(in_process(function, work)))


def _documents(corpus: Path) -> dict[str, tuple[str, str]]:
    """Split and text by id."""
    return {id: (split, text) for split in SPLITS for id, text in fetch(corpus, places(corpus, split))}


def _many(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        (folder / f"document{i:03d}.py").write_text(TEXT + f"value_{i} = {i}\n")
    return folder


def test_documents_are_the_files_and_groups_stay_together(small_corpus: Corpus, python_sources: Path) -> None:
    documents = _documents(small_corpus.path)
    for id, (_, text) in documents.items():
        assert text == (python_sources / id).read_bytes().decode()
    for split in SPLITS:
        parts = sorted((small_corpus.path / split).glob("*.parquet"))
        ids = [id for part in parts for id in pq.read_table(part)["id"].to_pylist()]
        assert ids == sorted(ids)
        assert len(ids) == small_corpus.documents[split]
        assert sum(len(documents[id][1].encode()) for id in ids) == small_corpus.text_bytes[split]
    groups: dict[str, set[str]] = {}
    for id, (split, _) in documents.items():
        groups.setdefault(id.split("/")[0], set()).add(split)
    assert all(len(splits) == 1 for splits in groups.values())
    assert len(groups) >= 20
    total = sum(small_corpus.text_bytes.values())
    assert small_corpus.text_bytes["validation"] == pytest.approx(0.05 * total, rel=0.05)
    assert small_corpus.text_bytes["test"] == pytest.approx(0.05 * total, rel=0.05)
    assert sorted(p.name for p in small_corpus.path.iterdir()) == [
        "dropped.jsonl", "summary.json", "test", "train", "validation"
    ]  # fmt: skip


def test_every_dropped_document_is_listed_and_nothing_is_lost(small_corpus: Corpus, python_sources: Path) -> None:
    lines = (small_corpus.path / "dropped.jsonl").read_text().splitlines()
    dropped = [json.loads(line) for line in lines]
    files = {str(p.relative_to(python_sources)) for p in python_sources.rglob("*") if p.is_file()}
    assert files == {d["id"] for d in dropped} | set(_documents(small_corpus.path))
    assert len(dropped) == sum(small_corpus.dropped.values())


def test_neither_blocks_nor_their_order_change_the_result(
    small_corpus: Corpus, python_sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_module, "READ_BYTES", 50_000)
    monkeypatch.setattr(write_module, "ROW_GROUP_BYTES", 30_000)
    config = CorpusConfig(source="files", path=str(python_sources))
    again = _collect(tmp_path / "out", config, _backwards)
    assert again.digest == small_corpus.digest
    assert _documents(tmp_path / "out") == _documents(small_corpus.path)


def test_the_digest_follows_a_changed_character(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in", 30)
    config = CorpusConfig(source="files", path=str(folder))
    first = _collect(tmp_path / "a", config)
    (folder / "document007.py").write_text(TEXT + "value_7 = 8\n")
    assert _collect(tmp_path / "b", config).digest != first.digest


def test_duplicates_are_dropped_white_space_aside_keeping_the_lowest_id(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in", 30)
    (folder / "zz.py").write_text(TEXT.replace("    ", "\t") + "value_3 =\n\n3\n")
    (folder / "aa.py").write_text(TEXT + "\n\n\nvalue_5 = 5\n")
    result = _collect(tmp_path / "out", CorpusConfig(source="files", path=str(folder)))
    dropped = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert dropped == [
        {"id": "document005.py", "reason": "duplicate", "detail": "of aa.py"},
        {"id": "zz.py", "reason": "duplicate", "detail": "of document003.py"},
    ]
    assert result.dropped == {"duplicate": 2}


def test_a_subset_is_about_as_large_as_asked_and_grows_with_the_figure(python_sources: Path, tmp_path: Path) -> None:
    def subset(max_bytes: int, seed: int = 0) -> dict[str, tuple[str, str]]:
        out = tmp_path / f"{max_bytes}-{seed}"
        config = CorpusConfig(source="files", path=str(python_sources), max_bytes=max_bytes, seed=seed)
        result = _collect(out, config)
        assert max_bytes <= sum(result.text_bytes.values()) <= max_bytes + 1_000_000
        files = {str(p.relative_to(python_sources)) for p in python_sources.rglob("*") if p.is_file()}
        documents = _documents(out)
        assert len(documents) + sum(result.dropped.values()) == len(files)
        return documents

    small, large = subset(200_000), subset(800_000)
    assert set(small) < set(large)
    assert set(subset(200_000, seed=1)) != set(small)


def test_few_groups_are_split_by_document(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    _many(folder / "one", 20)
    result = _collect(tmp_path / "out", CorpusConfig(source="files", path=str(folder)))
    assert result.documents == {"train": 18, "validation": 1, "test": 1}
    assert json.loads((tmp_path / "out/summary.json").read_text())["split_by"] == {"files": "document"}


def test_too_few_documents_for_three_splits_is_an_error(tmp_path: Path) -> None:
    folder = _many(tmp_path / "in", 2)
    with pytest.raises(ValueError, match="2 documents are left"):
        _collect(tmp_path / "out", CorpusConfig(source="files", path=str(folder)))


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        _collect(tmp_path / "out", CorpusConfig(source="files", path=str(tmp_path / "in")))


def test_an_empty_result_says_what_was_dropped_and_what_to_change(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        (folder / f"small{i}").write_text("x")
    (folder / "latin").write_bytes("caf\u00e9 ".encode("latin-1") * 100)
    with pytest.raises(ValueError, match=r"3 too small \(lower min_bytes\); 1 not UTF-8"):
        _collect(tmp_path / "out", CorpusConfig(source="files", path=str(folder)))


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Run as a user for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_binary_and_latin1_files_are_counted_skips() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        top = Path(name)
        top.chmod(0o777)
        folder = _many(top / "in", 30)
        (folder / "secret.py").write_text(TEXT + "secret = 1\n")
        (folder / "secret.py").chmod(0)
        (folder / "closed").mkdir(mode=0)
        (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0" * 100)
        (folder / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 100)
        with _as_nobody():
            result = _collect(top / "out", CorpusConfig(source="files", path=str(folder)))
        assert result.dropped == {"unreadable": 2, "binary": 1, "not UTF-8": 1}
        assert sum(result.documents.values()) == 30
        (folder / "closed").chmod(0o700)


def _assign(sizes: list[int], shares: tuple[float, float], seed: int = 0) -> tuple[Any, Any]:
    """Sizes, and the split of each."""
    array = np.array(sizes)
    return array, assign_units(array, np.random.default_rng(seed).random(len(array)), shares)


def test_shares_are_met_as_well_as_whole_units_allow() -> None:
    shares = (0.05, 0.1)
    drawn = set()
    for seed in range(5):
        sizes, assigned = _assign([1000 + 37 * i for i in range(300)] + [200_000], shares, seed)
        for split, share in enumerate(shares, 1):
            assert abs(sizes[assigned == split].sum() - share * sizes.sum()) < 1000
        assert assigned[-1] == 0
        drawn.add(tuple(np.flatnonzero(assigned == 2)))
    assert len(drawn) == 5


def test_no_unit_is_more_than_a_fifth_of_a_held_out_split_where_others_are() -> None:
    for seed in range(20):
        draw = np.random.default_rng(seed)
        sizes, assigned = _assign((10 ** draw.uniform(2, 6, 400)).astype(int).tolist(), (0.05, 0.05), seed)
        for split in (1, 2):
            share = 0.05 * sizes.sum()
            held = sizes[assigned == split]
            assert held.max() <= 0.2 * share
            assert held.sum() == pytest.approx(share, rel=0.05)


def test_where_small_units_are_few_the_smallest_of_the_others_follow() -> None:
    # twenty packages of a twentieth each, and small ones that fill a tenth of a share
    sizes, assigned = _assign([1000] * 20 + [5] * 20, (0.1, 0.1))
    for split in (1, 2):
        assert 1000 <= sizes[assigned == split].sum() <= 2100
    # small ones that fill three quarters: no large one joins them
    sizes, assigned = _assign([4000] * 20 + [100] * 60, (0.05, 0.05))
    for split in (1, 2):
        assert sizes[assigned == split].max() == 100


def test_every_split_gets_something_of_three_units() -> None:
    for sizes in ([1, 1, 1], [1, 1000, 1000], [1, 1, 1000], [1000, 1000, 1001]):
        _, assigned = _assign(sizes, (0.05, 0.05))
        assert sorted(assigned) == [0, 1, 2]
