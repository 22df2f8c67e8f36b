"""A mixture weighted by tokens: shares, order and what is left out, by counting."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.artifacts import SPLITS, Corpus
from components.corpus.blocks import in_process
from components.corpus.collect import collect_corpus
from components.corpus.config import CorpusConfig, PartConfig
from components.corpus.reader import fetch, places
from components.shards.mixture import FACTS, chosen
from components.shards.pack import Packed, pack
from components.shards.reader import TokenReader
from components.tokenizer.codec import BytesCodec
from components.tokenizer.train import sample_mixture


def _facts(tokens: list[list[int]], seed: int = 0) -> Any:
    """Documents of some sources, mixed up."""
    draw = np.random.default_rng(seed)
    facts = np.zeros(sum(map(len, tokens)), FACTS)
    facts["tokens"] = np.concatenate(tokens)
    facts["source"] = np.concatenate([[i] * len(t) for i, t in enumerate(tokens)])
    facts["draw"] = draw.integers(0, 2**63, len(facts))
    return draw.permutation(facts)


def test_shares_are_those_of_the_weights_to_a_document() -> None:
    draw = np.random.default_rng(1)
    sizes = [draw.integers(10, 500, n).tolist() for n in (3000, 400, 900)]
    weights = {"a": 0.5, "b": 0.2, "c": 0.3}
    facts = _facts(sizes)
    mask = chosen(facts, weights)
    got = [int(facts["tokens"][mask & (facts["source"] == i)].sum()) for i in range(3)]
    scarcest = min(range(3), key=lambda i: sum(sizes[i]) / list(weights.values())[i])
    assert got[scarcest] == sum(sizes[scarcest])
    whole = got[scarcest] / list(weights.values())[scarcest]
    for i, weight in enumerate(weights.values()):
        assert weight * whole - 500 < got[i] <= weight * whole + 1e-6


def test_what_is_left_out_are_the_documents_drawn_last() -> None:
    facts = _facts([[10] * 100, [10] * 30])
    mask = chosen(facts, {"a": 0.5, "b": 0.5})
    mine = facts["source"] == 0
    assert mask[~mine].all()
    assert mask[mine].sum() == 30
    assert facts["draw"][mine & mask].max() < facts["draw"][mine & ~mask].min()


def test_all_of_it_where_the_weights_are_as_the_sizes() -> None:
    facts = _facts([[7] * 70, [7] * 30])
    assert chosen(facts, {"a": 0.7, "b": 0.3}).all()


def test_a_source_without_documents_is_named() -> None:
    with pytest.raises(ValueError, match="no document of b, c"):
        chosen(_facts([[10] * 3, [], []]), {"a": 0.5, "b": 0.25, "c": 0.25})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two sources with packages of the same names: much code, less prose."""
    folder = tmp_path_factory.mktemp("mixture")
    for i in range(60):
        for part, files in (("code", 8), ("prose", 2)):
            (folder / part / f"package{i:02d}").mkdir(parents=True)
            for j in range(files):
                line = f"{part} {i} {j} and what there is to say of it in this line, with some words\n"
                (folder / part / f"package{i:02d}/{j}.txt").write_text(line * (5 + (i + j) % 9))
    return _collect(folder, tmp_path_factory.mktemp("corpus"), 3, 1)


def _collect(folder: Path, out: Path, code: float, prose: float) -> Corpus:
    config = CorpusConfig(
        mixture={
            "code": PartConfig(source="files", path=str(folder / "code"), weight=code),
            "prose": PartConfig(source="files", path=str(folder / "prose"), weight=prose),
        },
        validation_share=0.2,
        test_share=0.2,
    )
    made = collect_corpus(config, out, in_process, lambda done, total, text: None)
    return Corpus(out, made.digest, made.documents, made.text_bytes, made.dropped, made.sources)


def test_the_weights_are_part_of_a_corpus_but_not_their_sum(tmp_path: Path) -> None:
    for part in ("code", "prose"):
        (tmp_path / part).mkdir()
        for i in range(10):
            (tmp_path / part / f"{i}.txt").write_text(f"{part} {i} and some words of it in a line\n" * 10)
    digests = []
    for weights in ((1, 1), (2, 2), (2, 1)):
        out = tmp_path / f"{weights}"
        out.mkdir()
        digests.append(_collect(tmp_path, out, *weights).digest)
    assert digests[0] == digests[1] != digests[2]


def _pack(corpus: Corpus, directory: Path, weights: dict[str, float]) -> Packed:
    directory.mkdir()
    (directory / "t").mkdir()
    (directory / "t/tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 258}))
    (directory / "out").mkdir()
    return pack(
        corpus.path, directory / "t", directory / "out", 20_000,
        in_process, lambda *_: None, weights,
    )  # fmt: skip


def test_a_package_is_in_the_same_split_in_both_sources_and_each_has_its_shares(corpus: Corpus) -> None:
    splits: dict[str, set[str]] = {}
    for split in SPLITS:
        for place in places(corpus.path, split):
            splits.setdefault(place.id.split("/")[1], set()).add(split)
    assert len(splits) == 60
    assert all(len(found) == 1 for found in splits.values())
    for source in corpus.sources.values():
        total = sum(source.text_bytes.values())
        for split in ("validation", "test"):
            assert source.text_bytes[split] / total == pytest.approx(0.2, abs=0.05)
    assert sum(source.weight for source in corpus.sources.values()) == 1


def test_the_shards_hold_the_mixture_and_tell_what_was_left_out(corpus: Corpus, tmp_path: Path) -> None:
    weights = {name: source.weight for name, source in corpus.sources.items()}
    result = _pack(corpus, tmp_path / "a", weights)
    codec = BytesCodec()
    for split in SPLITS:
        reader = TokenReader(tmp_path / "a/out", split)
        stream = codec.decode_bytes(reader.window(0, reader.n_tokens).tolist()).decode()
        texts = dict(fetch(corpus.path, places(corpus.path, split)))
        kept = {id: text for id, text in texts.items() if text in stream}
        for name, source in result.sources.items():
            mine = {id: text for id, text in kept.items() if id.startswith(f"{name}/")}
            assert source.documents[split] == len(mine)
            assert source.text_bytes[split] == sum(len(text.encode()) for text in mine.values())
            assert source.tokens[split] == source.text_bytes[split] + 2 * len(mine)
            of_corpus = corpus.sources[name]
            assert source.documents[split] + source.documents_left_out[split] == of_corpus.documents[split]
            assert source.text_bytes[split] + source.text_bytes_left_out[split] == of_corpus.text_bytes[split]
            assert source.tokens[split] / result.tokens[split] == pytest.approx(weights[name], abs=0.03)
        assert "".join(kept.values()) == stream  # in id order, each once
        assert result.documents[split] == reader.documents == len(kept)
        assert result.tokens[split] == reader.n_tokens
    assert sum(result.sources["code"].documents_left_out.values()) > 0
    assert sum(result.sources["prose"].documents_left_out.values()) == 0


def test_other_weights_are_other_shards(corpus: Corpus, tmp_path: Path) -> None:
    one = _pack(corpus, tmp_path / "a", {"code": 0.5, "prose": 0.5})
    two = _pack(corpus, tmp_path / "b", {"code": 0.75, "prose": 0.25})
    assert one.digest != two.digest
    assert sum(one.tokens.values()) < sum(two.tokens.values())


def test_a_tokenizer_s_sample_follows_the_weights(corpus: Corpus) -> None:
    total = 30_000
    texts = list(sample_mixture(corpus, total, 0))
    of = {name: sum(len(t.encode()) for t in texts if t.startswith(name)) for name in corpus.sources}
    assert of["code"] / sum(of.values()) == pytest.approx(0.75, abs=0.12)
    assert sum(of.values()) == pytest.approx(total, rel=0.35)
