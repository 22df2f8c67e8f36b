"""Tables as sources: the corpus is their rows, however they are packed, cut and shared among tasks."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.artifacts import SPLITS
from components.corpus import jsonl as jsonl_module
from components.corpus import parquet as parquet_module
from components.corpus.blocks import in_process
from components.corpus.collect import Collected, collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.sources import source_identity, source_problems
from components.corpus.stage import collect
from components.flow.cost import Outlook

TEXTS = [f"# Row {i} é\n" + f"value_{i} = function(argument_{i})  # 日本語\n" * (8 + i % 7) for i in range(90)]


def _collect(directory: Path, config: CorpusConfig) -> Collected:
    directory.mkdir()
    return collect_corpus(config, directory, in_process, lambda done, total, text: None)


def _rows(corpus: Path) -> list[dict[str, Any]]:
    return [
        row
        for split in SPLITS
        for part in sorted((corpus / split).glob("*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]


def _dropped(corpus: Path) -> list[tuple[str, str, str]]:
    lines = (corpus / "dropped.jsonl").read_text().splitlines()
    return [(d["id"], d["reason"], d["detail"]) for d in map(json.loads, lines)]


def _jsonl(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": text, "repo": f"r{i % 30}"}) + "\n" for i, text in enumerate(texts))
    data = lines.encode()
    if path.suffix == ".gz":
        half = len(data) // 2
        data = gzip.compress(data[:half]) + gzip.compress(data[half:])  # two members, as bgzip writes them
    if path.suffix == ".zst":
        data = pa.compress(data, "zstd", asbytes=True)
    path.write_bytes(data)
    return path


def _parquet(path: Path, texts: Sequence[str] = TEXTS, kind: Any = None, rows: int = 20, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"repo": [f"r{i % 30}" for i in range(len(texts))], "text": pa.array(texts, kind or pa.string())}
    pq.write_table(pa.table(columns), path, row_group_size=rows, **options)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson.zst", "a.JSONL"])
def test_a_document_is_a_line_of_jsonl_packed_or_not(name: str, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "in" / name)
    result = _collect(tmp_path / "out", CorpusConfig(source="jsonl", path=str(path.parent)))
    rows = _rows(tmp_path / "out")
    assert sorted(row["text"] for row in rows) == sorted(TEXTS)
    assert result.dropped == {}
    assert {row["source"] for row in rows} == {"jsonl"}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_a_document_is_a_row_of_parquet_whatever_its_codec(kind: Any, codec: str, tmp_path: Path) -> None:
    _parquet(tmp_path / "in/a.parquet", kind=kind, compression=codec)
    _collect(tmp_path / "out", CorpusConfig(source="parquet", path=str(tmp_path / "in")))
    rows = {row["id"]: row["text"] for row in _rows(tmp_path / "out")}
    assert rows == {f"a.parquet:{i:09d}": text for i, text in enumerate(TEXTS)}


def test_where_a_jsonl_file_is_cut_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is read once, whichever range it begins in; its id is the byte at which it begins."""
    path = _jsonl(tmp_path / "in/a.jsonl")
    config = CorpusConfig(source="jsonl", path=str(path))
    digests = {_collect(tmp_path / "whole", config).digest}
    lines = path.read_bytes()
    for size in (1, 7, 500, 1009, len(lines) - 1, len(lines)):
        monkeypatch.setattr("components.corpus.tables.RANGE_BYTES", size)
        if size < 500:  # a range a byte: only the first bytes of lines may yield one
            short = path.with_name("short.jsonl")
            short.write_bytes(b"".join(lines.splitlines(keepends=True)[:3]))
            config = replace(config, path=str(short), validation_share=0.3, test_share=0.3)
            _collect(tmp_path / str(size), config)
            assert len(_rows(tmp_path / str(size))) == 3
            config = CorpusConfig(source="jsonl", path=str(path))
        else:
            digests.add(_collect(tmp_path / str(size), config).digest)
    assert len(digests) == 1
    for row in _rows(tmp_path / "whole"):
        offset = int(row["id"].split(":")[1])
        assert json.loads(lines[offset:].split(b"\n")[0])["text"] == row["text"]


def test_neither_batches_nor_row_groups_change_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for rows, batch in ((7, 1), (20, 3000), (90, 4_000_000)):
        monkeypatch.setattr(parquet_module, "BATCH_BYTES", batch)
        _parquet(tmp_path / f"in{rows}/a.parquet", rows=rows)
        config = CorpusConfig(source="parquet", path=str(tmp_path / f"in{rows}"))
        digests.add(_collect(tmp_path / f"out{rows}", config).digest)
    assert len(digests) == 1


def test_many_files_are_groups_and_few_are_not(tmp_path: Path) -> None:
    for i in range(30):
        _jsonl(tmp_path / f"many/{i:02d}.jsonl", TEXTS[3 * i : 3 * i + 3])
    _jsonl(tmp_path / "few/a.jsonl")
    for name, split_by in (("many", "group"), ("few", "document")):
        _collect(tmp_path / f"out-{name}", CorpusConfig(source="jsonl", path=str(tmp_path / name)))
        assert json.loads((tmp_path / f"out-{name}/summary.json").read_text())["split_by"] == {"jsonl": split_by}
    files: dict[str, set[str]] = {}
    for split in SPLITS:
        for part in (tmp_path / "out-many" / split).glob("*.parquet"):
            for row in pq.read_table(part).to_pylist():
                files.setdefault(row["id"].split(":")[0], set()).add(split)
    assert all(len(splits) == 1 for splits in files.values())


@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_columns_name_rows_and_keep_them_together(source: str, tmp_path: Path) -> None:
    names = [f"row-{i * 37 % 90:02d}" for i in range(90)]
    columns = {"body": TEXTS, "key": names, "repo": [f"r{i % 30}" for i in range(90)]}
    if source == "parquet":
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    else:
        rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = CorpusConfig(
        source=source,  # type: ignore[arg-type]
        path=str(tmp_path / f"*.{source}"),
        text_column="body",
        id_column="key",
        group_column="repo",
    )
    _collect(tmp_path / "out", config)
    assert {row["id"]: row["text"] for row in _rows(tmp_path / "out")} == dict(zip(names, TEXTS, strict=True))
    of_group: dict[str, set[str]] = {}
    for split in SPLITS:
        ids = []
        for part in sorted((tmp_path / "out" / split).glob("*.parquet")):
            for row in pq.read_table(part).to_pylist():
                of_group.setdefault(row["group"], set()).add(split)
                ids.append(row["id"])
        assert ids == sorted(ids)
    assert len(of_group) == 30
    assert all(len(splits) == 1 for splits in of_group.values())


def test_a_repeated_id_is_a_counted_skip(tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS[:30], "id": [f"id{i % 29}" for i in range(30)]})
    pq.write_table(table, tmp_path / "a.parquet")
    config = CorpusConfig(source="parquet", path=str(tmp_path / "a.parquet"), id_column="id")
    assert _collect(tmp_path / "out", config).dropped == {"repeated id": 1}
    assert {r["text"] for r in _rows(tmp_path / "out")} == set(TEXTS[:29])


def test_a_subset_reads_no_more_than_it_needs_and_grows_with_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = jsonl_module.open_file

    def spy(source: str | None, path: str) -> Any:
        read.append(path)
        return original(source, path)

    monkeypatch.setattr(jsonl_module, "open_file", spy)
    for i in range(30):
        _jsonl(tmp_path / f"in/{i:02d}.jsonl", TEXTS[3 * i : 3 * i + 3])
    kept = []
    for max_bytes in (4_000, 8_000, 20_000):
        read.clear()
        config = CorpusConfig(
            source="jsonl", path=str(tmp_path / "in"), max_bytes=max_bytes, validation_share=0.2, test_share=0.2
        )
        result = _collect(tmp_path / str(max_bytes), config)
        assert max_bytes <= sum(result.text_bytes.values()) < max_bytes + 2000
        assert len(read) < 30
        kept.append({row["id"] for row in _rows(tmp_path / str(max_bytes))})
    assert kept[0] < kept[1] < kept[2]


def test_of_a_large_piece_a_subset_reads_the_beginning(tmp_path: Path) -> None:
    _jsonl(tmp_path / "a.jsonl.gz", TEXTS)
    config = CorpusConfig(source="jsonl", path=str(tmp_path / "a.jsonl.gz"), max_bytes=5000)
    result = _collect(tmp_path / "out", config)
    assert 5000 <= sum(result.text_bytes.values()) < 7000
    assert _dropped(tmp_path / "out")[-1][1:] == ("outside the subset", "not read")


def test_the_identity_of_a_table_is_that_of_its_files(tmp_path: Path) -> None:
    config = CorpusConfig(source="parquet", path=str(tmp_path / "*.parquet"))
    assert source_identity(config)["files"] == 0
    assert "names no file" in source_problems(config)[0]
    _parquet(tmp_path / "a.parquet")
    first = source_identity(config)
    _parquet(tmp_path / "b.parquet")
    assert source_identity(config) != first
    assert source_problems(config) == []


def test_a_stray_file_is_no_part_of_a_tables_identity_nor_of_its_price(tmp_path: Path) -> None:
    _jsonl(tmp_path / "a.jsonl")
    config = CorpusConfig(source="jsonl", path=str(tmp_path))
    before = source_identity(config)
    (tmp_path / "NOTES.txt").write_text("hello")
    assert source_identity(config) == before
    _jsonl(tmp_path / "b.ndjson")
    assert source_identity(config) != before


def test_a_plan_names_a_missing_column_and_a_folder_without_tables(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    (problem,) = source_problems(CorpusConfig(source="parquet", path=str(tmp_path)))
    assert "has no column 'text'; it has content (string)" in problem
    assert source_problems(CorpusConfig(source="parquet", path=str(tmp_path), text_column="content")) == []
    (problem,) = source_problems(CorpusConfig(source="jsonl", path=str(tmp_path)))
    assert "has no file that ends in .jsonl or .ndjson" in problem


def test_a_plan_looks_at_the_first_lines_of_jsonl(tmp_path: Path) -> None:
    rows = [{"content": text, "stars": 1} for text in TEXTS]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (problem,) = source_problems(CorpusConfig(source="jsonl", path=str(tmp_path)))
    assert "a.jsonl.gz has no row of use at its beginning: line 1 has no text; it has content, stars" in problem
    (problem,) = source_problems(CorpusConfig(source="jsonl", path=str(tmp_path), text_column="stars"))
    assert "line 1 has a int as stars, not a text" in problem
    assert source_problems(CorpusConfig(source="jsonl", path=str(tmp_path), text_column="content")) == []
    # rows may lack what others have, and broken lines and files are for the run to count
    (tmp_path / "a.jsonl.gz").write_bytes(b"not packed at all")
    assert source_problems(CorpusConfig(source="jsonl", path=str(tmp_path))) == []
    (tmp_path / "0.jsonl").write_text('{"id": 1}\nbroken\n' + json.dumps({"text": TEXTS[0]}))
    assert source_problems(CorpusConfig(source="jsonl", path=str(tmp_path))) == []


def test_a_stray_jsonl_file_costs_its_lines_alone(tmp_path: Path) -> None:
    _jsonl(tmp_path / "in/a.jsonl")
    (tmp_path / "in/metadata.jsonl").write_text('{"licence": "MIT"}\n' * 5)
    result = _collect(tmp_path / "out", CorpusConfig(source="jsonl", path=str(tmp_path / "in")))
    assert sum(result.documents.values()) == len(TEXTS)
    assert result.dropped == {"broken row": 5}
    assert result.warnings == ["left out as damaged: 5 broken row; dropped.jsonl names each"]
    assert _dropped(tmp_path / "out")[0][2] == "line 1 has no text; it has licence"


def test_a_packed_source_is_priced_at_about_its_text(tmp_path: Path) -> None:
    rows = [json.dumps({"text": path.read_text()}) for path in sorted(Path(json.__file__).parent.glob("*.py"))]
    (tmp_path / "plain.jsonl").write_text("\n".join(rows))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    priced = []
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        config = CorpusConfig(source="jsonl", path=str(tmp_path / name))
        assert collect.cost is not None
        cost = collect.cost(Outlook(config, (), None, source_identity(config)))
        priced.append(sum(cost.expects["text_bytes"].values()))
    assert 0.5 < priced[1] / priced[0] < 2
    assert priced[0] == pytest.approx(sum(map(len, rows)), rel=0.1)


def test_groups_that_a_person_named_stay_whole_however_few_and_others_are_spoken_of(tmp_path: Path) -> None:
    rows = [json.dumps({"text": text, "repo": f"r{i % 10}"}) for i, text in enumerate(TEXTS)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    config = CorpusConfig(source="jsonl", path=str(tmp_path / "a.jsonl"), group_column="repo")
    result = _collect(tmp_path / "out", config)
    splits: dict[str, set[str]] = {}
    for split in SPLITS:
        for part in (tmp_path / "out" / split).glob("*.parquet"):
            for row in pq.read_table(part).to_pylist():
                splits.setdefault(row["group"], set()).add(split)
    assert len(splits) == 10
    assert all(len(found) == 1 for found in splits.values())
    assert result.warnings == []
    for i, text in enumerate(TEXTS):
        path = tmp_path / f"files/folder{i % 4}/{i:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (warning,) = _collect(tmp_path / "few", CorpusConfig(source="files", path=str(tmp_path / "files"))).warnings
    assert warning.startswith("files: 4 groups (folder0, folder1, folder2, …) are too few")
