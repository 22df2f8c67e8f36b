"""What a source may hold that it should not: each a clear message or a counted skip, and nothing lost."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.artifacts import SPLITS
from components.corpus import jsonl as jsonl_module
from components.corpus.blocks import in_process
from components.corpus.collect import collect_corpus
from components.corpus.config import CorpusConfig
from components.corpus.filters import REASONS

_random = random.Random(0)


def _noise(characters: int) -> str:
    """Text that does not pack well."""
    return "".join(_random.choices("abcdefghijklm nopq\n rstuvwxyz", k=characters))


TEXTS = [f"# Row {i}\n" + f"value_{i} = function(argument_{i})\n" * 12 for i in range(30)]
LINES = [json.dumps({"text": text}) for text in TEXTS]


def _collect(directory: Path, source: Any, path: Path, **options: Any) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Texts kept, and reason and detail of every id left out."""
    out = directory / "out"
    out.mkdir()
    config = CorpusConfig(source=source, path=str(path), **options)
    result = collect_corpus(config, out, in_process, lambda done, total, text: None)
    texts = []
    for split in SPLITS:
        for part in (out / split).glob("*.parquet"):
            texts += pq.read_table(part)["text"].to_pylist()
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == sum(result.dropped.values())
    assert {d["reason"] for d in dropped} <= set(REASONS)
    return sorted(texts), {d["id"]: (d["reason"], d["detail"]) for d in dropped}


def test_broken_lines_are_left_out_by_themselves(tmp_path: Path) -> None:
    broken = [
        '{"text": "cut',
        "[1, 2]",
        "not json",
        '{"other": 1}',
        '{"text": 5}',
        '{"text": null}',
        '{"text": "\\ud800"}',
        "",
        "{" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_text("\n".join([*LINES[:10], *broken, *LINES[10:]]))
    texts, dropped = _collect(tmp_path, "jsonl", tmp_path / "a.jsonl")
    assert texts == sorted(TEXTS)
    said = sorted(
        dropped.values(), key=lambda value: int(value[1].split()[1].rstrip(":")) if "line" in value[1] else 99
    )
    assert [reason for reason, _ in said] == ["broken row"] * 6 + ["no text", "not UTF-8"]
    assert said[0][1].startswith("line 11: Invalid control character")
    assert said[3][1] == "line 14 has no text; it has other"
    assert said[4][1] == "line 15 has a int as text, not a text"


def test_a_broken_line_far_into_a_file_tells_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.corpus.tables.RANGE_BYTES", 2000)
    (tmp_path / "a.jsonl").write_text("\n".join([*LINES[:20], "broken", *LINES[20:]]))
    texts, dropped = _collect(tmp_path, "jsonl", tmp_path / "a.jsonl")
    assert texts == sorted(TEXTS)
    ((id, (reason, detail)),) = dropped.items()
    assert (tmp_path / "a.jsonl").read_bytes()[int(id.split(":")[1]) :].startswith(b"broken")
    assert reason == "broken row"
    assert "after byte" in detail


def test_a_line_too_long_to_hold_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_module, "MAX_LINE_BYTES", 100_000)
    long = json.dumps({"text": "x" * 3_000_000})
    (tmp_path / "a.jsonl").write_text("\n".join([*LINES[:5], long, *LINES[5:]]))
    texts, dropped = _collect(tmp_path, "jsonl", tmp_path / "a.jsonl")
    assert texts == sorted(TEXTS)
    assert list(dropped.values()) == [("too large", f"line 6: {len(long) + 1} bytes")]


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_of_a_packed_table_cut_short_what_could_be_read_is_kept(packed: str, tmp_path: Path) -> None:
    filler = [json.dumps({"text": f"# {i}\n" + _noise(600) + "\n", "n": i}) for i in range(2000)]
    data = "\n".join([*LINES, *filler]).encode()
    whole = gzip.compress(data) if packed == "gz" else pa.compress(data, "zstd", asbytes=True)
    (tmp_path / f"a.jsonl.{packed}").write_bytes(whole[: len(whole) // 2])
    texts, dropped = _collect(tmp_path, "jsonl", tmp_path / f"a.jsonl.{packed}")
    assert set(TEXTS) <= set(texts)
    assert 500 < len(texts) < 1100
    ((reason, detail),) = dropped.values()
    assert reason == "broken file"
    assert "Truncated" in detail


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_a_packed_text_is_read_and_one_cut_short_is_left_out(packed: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        data = text.encode()
        whole = gzip.compress(data) if packed == "gz" else pa.compress(data, "zstd", asbytes=True)
        (folder / f"{i:02d}.txt.{packed}").write_bytes(whole if i else whole[:-9])
    (folder / f"plain.txt.{packed}").write_text("This is not packed at all.\n" * 20)
    texts, dropped = _collect(tmp_path, "files", folder)
    assert texts == sorted(TEXTS[1:])
    assert {id: reason for id, (reason, _) in dropped.items()} == {
        f"00.txt.{packed}": "broken file",
        f"plain.txt.{packed}": "broken file",
    }


def test_a_packed_text_is_unpacked_no_further_than_a_document_may_be_long(tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i:02d}.txt").write_text(text)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"word " * 20_000_000, 1))
    texts, dropped = _collect(tmp_path, "files", tmp_path / "*.*")
    assert texts == sorted(TEXTS)
    assert dropped["bomb.txt.gz"][0] == "too large"


def test_parquet_that_is_none_cut_short_or_empty_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": TEXTS}), folder / "good.parquet")
    data = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])
    (folder / "none.parquet").write_text("hello " * 100)
    (folder / "zero.parquet").touch()
    (folder / "_SUCCESS").touch()
    (folder / "more.parquet.crc").write_text("x")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "rowless.parquet")
    texts, dropped = _collect(tmp_path, "parquet", folder)
    assert texts == sorted(TEXTS)
    assert {id: reason for id, (reason, _) in dropped.items()} == {
        "cut.parquet": "broken file",
        "none.parquet": "broken file",
        "zero.parquet": "empty",
        "rowless.parquet": "empty",
        "_SUCCESS": "other format",
        "more.parquet.crc": "other format",
    }


def test_of_parquet_with_a_damaged_page_the_rest_is_kept(tmp_path: Path) -> None:
    noise = [text + _noise(800) + "\n" for text in TEXTS]
    pq.write_table(
        pa.table({"text": noise}), tmp_path / "a.parquet", row_group_size=10, use_dictionary=False,
        compression="zstd", write_statistics=False,
    )  # fmt: skip
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[group.data_page_offset : group.data_page_offset + 32] = b"\xff" * 32
    (tmp_path / "a.parquet").write_bytes(data)
    texts, dropped = _collect(tmp_path, "parquet", tmp_path / "a.parquet")
    assert texts == sorted(noise[:10] + noise[20:])
    assert list(dropped) == ["a.parquet:000000010-"]
    assert dropped["a.parquet:000000010-"][0] == "broken file"


def test_null_texts_and_bytes_that_are_no_text_are_left_out_by_row(tmp_path: Path) -> None:
    values = [*(text.encode() for text in TEXTS), None, b"caf\xe9 " * 100, b"bin\0ary" * 100]
    pq.write_table(pa.table({"text": pa.array(values, pa.binary())}), tmp_path / "a.parquet")
    texts, dropped = _collect(tmp_path, "parquet", tmp_path / "a.parquet")
    assert texts == sorted(TEXTS)
    assert [reason for reason, _ in dropped.values()] == ["no text", "not UTF-8", "binary"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text_column": "body"}, r"a.parquet has no column 'body'; it has text \(string\), stars \(int64\)"),
        ({"text_column": "stars"}, "no text in column 'stars' but int64"),
        ({"id_column": "key"}, "no column 'key'.*id_column"),
        ({"group_column": "repo"}, "no column 'repo'.*group_column"),
    ],
)
def test_a_column_that_is_not_there_is_an_error_that_names_those_that_are(
    options: dict[str, str], words: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": TEXTS, "stars": list(range(30))}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=words):
        _collect(tmp_path, "parquet", tmp_path / "a.parquet", **options)


def test_a_jsonl_without_the_column_is_an_error_that_names_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"content": text, "stars": 1}) for text in TEXTS))
    with pytest.raises(ValueError, match=r"a.jsonl has no row .*: line 1 has no text; it has content, stars"):
        _collect(tmp_path, "jsonl", tmp_path / "a.jsonl")


def test_a_source_that_holds_nothing_of_its_kind_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("text\n" + TEXTS[0])
    with pytest.raises(ValueError, match=r"leaves no document. Dropped: 1 other format \(parquet reads .parquet"):
        _collect(tmp_path, "parquet", folder)


def test_links_to_nowhere_and_in_circles_and_one_long_line_are_counted_skips(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i:02d}.txt").write_text(text)
    (folder / "nowhere.txt").symlink_to(folder / "gone")
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    with (folder / "line.txt").open("wb") as file:
        file.truncate(50_000_000)
    texts, dropped = _collect(tmp_path, "files", folder)
    assert texts == sorted(TEXTS)
    assert {id: reason for id, (reason, _) in dropped.items()} == {
        "nowhere.txt": "unreadable",
        "a": "unreadable",
        "b": "unreadable",
        "line.txt": "too large",
    }


def test_what_a_person_should_act_on_is_a_warning(tmp_path: Path) -> None:
    def warnings(name: str, lines: list[str]) -> list[str]:
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        (tmp_path / name).mkdir()
        config = CorpusConfig(source="jsonl", path=str(tmp_path / f"{name}.jsonl"))
        return collect_corpus(config, tmp_path / name, in_process, lambda done, total, text: None).warnings

    small = ['{"text": "x"}']
    assert warnings("fine", LINES + small * 3) == []
    assert warnings("broken", [*LINES, "x", "y"]) == ["left out as damaged: 2 broken row; dropped.jsonl names each"]
    (said,) = warnings("small", LINES + small * 31)
    assert said.startswith("more was left out than kept (31 against 30 documents). Dropped: 31 too small")
