"""Near duplicates against the exact Jaccard similarity of all pairs, and against the library's own comparison."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasketch import MinHash

from components.corpus import gather as gather_module
from components.corpus import near_duplicates as module
from components.corpus import sources as sources_module
from components.corpus.blocks import in_process
from components.corpus.collect import Collected, collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.near_duplicates import rows_per_band, signature_of
from components.corpus.sources import source_problems

THRESHOLD = 0.8


def _variants(n: int, seed: int = 0) -> list[str]:
    """Texts of which many are others with some words changed: few words or most of them."""
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(3, 8))) for _ in range(3000)]
    texts: list[list[str]] = []
    for i in range(n):
        words = draw.choices(vocabulary, k=draw.randint(150, 400))
        if i % 3:
            words = list(draw.choice(texts))
            for _ in range(int(len(words) * draw.choice([0.0, 0.002, 0.004, 0.01, 0.02, 0.05, 0.2]))):
                words[draw.randrange(len(words))] = draw.choice(vocabulary)
            if draw.random() < 0.3:
                words += draw.choices(vocabulary, k=1)
        texts.append(words)
    return [" ".join(words) for words in texts]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def _collect(directory: Path, folder: Path, **options: Any) -> tuple[Collected, dict[str, str]]:
    """What was collected, and the detail of every near duplicate."""
    directory.mkdir()
    config = CorpusConfig(source="files", path=str(folder), max_mean_line_length=1e6, max_line_length=10**6, **options)
    result = collect_corpus(config, directory, in_process, lambda done, total, text: None)
    dropped = [json.loads(line) for line in (directory / "dropped.jsonl").read_text().splitlines()]
    return result, {d["id"]: d["detail"] for d in dropped if d["reason"] == "near duplicate"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    for i, text in enumerate(_variants(240)):
        (folder / f"{i:03d}.txt").write_text(text)
    return folder


def test_what_is_well_above_is_found_and_what_is_well_below_is_kept(folder: Path, tmp_path: Path) -> None:
    _, near = _collect(tmp_path / "out", folder, near_duplicates=THRESHOLD)
    runs = {path.name: _runs(path.read_text()) for path in folder.iterdir()}

    def jaccard(a: str, b: str) -> float:
        return len(runs[a] & runs[b]) / len(runs[a] | runs[b])

    texts = {"".join(path.read_text().split()): path.name for path in sorted(folder.iterdir(), reverse=True)}
    distinct = sorted(texts.values())
    kept: list[str] = []
    found = below = 0
    for name in distinct:
        likest = max((jaccard(name, other) for other in kept), default=0.0)
        if name in near:
            original = near[name].rsplit(" ", 1)[1]
            assert original in kept
            assert jaccard(name, original) > THRESHOLD - 0.12
            assert float(near[name].split()[0]) == pytest.approx(jaccard(name, original), abs=0.12)
            found += 1
        else:
            assert likest < THRESHOLD + 0.12, (name, likest)
            below += likest > 0.3
            kept.append(name)
    assert found > 40  # the case is there,
    assert below > 5  # and so is that of documents that are somewhat alike


def test_the_estimate_is_the_library_s(folder: Path) -> None:
    texts = [path.read_text() for path in sorted(folder.iterdir())[:12]]
    minhashes = []
    for text in texts:
        minhash = MinHash(128, seed=1)
        minhash.update_batch([" ".join(run).encode() for run in _runs(text)])
        minhashes.append(minhash)
    for text, minhash in zip(texts, minhashes, strict=True):
        assert np.array_equal(signature_of(text), minhash.hashvalues)
        for other_text, other in zip(texts, minhashes, strict=True):
            assert np.mean(signature_of(text) == signature_of(other_text)) == minhash.jaccard(other)


def test_neither_blocks_nor_batches_change_what_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, near = _collect(tmp_path / "a", folder, near_duplicates=THRESHOLD)
    monkeypatch.setattr(gather_module, "READ_BYTES", 10_000)
    monkeypatch.setattr(module, "AT_A_TIME", 7)
    second, again = _collect(tmp_path / "b", folder, near_duplicates=THRESHOLD)
    assert first.digest == second.digest
    assert near == again
    assert first.dropped["near duplicate"] == len(near)


def test_the_figure_decides_how_much_goes(folder: Path, tmp_path: Path) -> None:
    counts = [len(_collect(tmp_path / str(t), folder, near_duplicates=t)[1]) for t in (0.5, 0.8, 0.99)]
    assert counts[0] > counts[1] > counts[2]
    result, near = _collect(tmp_path / "none", folder)
    assert near == {}
    assert "near duplicate" not in result.dropped


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_two_documents_as_alike_as_asked_are_compared(threshold: float) -> None:
    """By chance, counted: signatures that agree in each place with the probability asked for share a band."""
    draw = np.random.default_rng(0)
    agree = draw.random((4000, 128)) < threshold
    width = rows_per_band(threshold)
    bands = agree[:, : 128 // width * width].reshape(4000, -1, width)
    assert bands.all(axis=2).any(axis=1).mean() > 0.98


def test_texts_of_few_or_no_words_are_compared_too() -> None:
    assert np.array_equal(signature_of("one two"), signature_of("One, two!"))
    assert not np.array_equal(signature_of("one two"), signature_of("two one"))
    assert signature_of("§§§").shape == (128,)


def test_a_missing_package_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CorpusConfig(source="files", path=str(folder), near_duplicates=0.8)
    assert source_problems(config) == []
    monkeypatch.setattr(sources_module, "find_spec", lambda name: None)
    (problem,) = source_problems(config)
    assert "pip install 'headstart[dedup]'" in problem
    with pytest.raises(ValueError, match=r"^near_duplicates is 1.5"):
        CorpusConfig(near_duplicates=1.5)
