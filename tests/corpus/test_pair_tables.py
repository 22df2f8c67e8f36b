"""Pairs that are given: what is read from where, and what a person is told when it is not there."""

import dataclasses
import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.artifacts import SPLITS
from components.corpus import pair_tables
from components.corpus.config import PairsConfig
from components.corpus.pair_tables import table_identity, table_problems, write_given_pairs
from components.corpus.pairs import Drawn

Rows = Sequence[tuple[Any, Any]]


def rows_of(split: str, count: int) -> list[tuple[str, str]]:
    return [(f"{split} question {i}\n", f"answer {i}, \u2028 é\r\n\ttwo") for i in range(count)]


def config_for(folder: Path | str, **fields: Any) -> PairsConfig:
    names = {"prompt_column": "article", "completion_column": "highlights"}
    limits = {"max_prompt_characters": None, "max_completion_characters": None, "min_completion_characters": 1}
    return PairsConfig(source="table", path=str(folder), **{**names, **limits, **fields})


def jsonl(path: Path, rows: Rows, opener: Callable[..., Any] = open) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        for prompt, completion in rows:
            file.write(json.dumps({"id": 7, "article": prompt, "highlights": completion}, ensure_ascii=False) + "\n")


def parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"highlights": [c for _, c in rows], "other": list(range(len(rows))), "article": [p for p, _ in rows]}
    pq.write_table(pa.table(columns), path, row_group_size=3)


def three_splits(folder: Path, counts: dict[str, int] | None = None) -> Path:
    for split, count in (counts or {"train": 12, "validation": 3, "test": 4}).items():
        jsonl(folder / f"{split}.jsonl", rows_of(split, count))
    return folder


def write(config: PairsConfig, directory: Path) -> tuple[Drawn, list[str]]:
    directory.mkdir()
    said: list[str] = []
    return write_given_pairs(config, directory, lambda done, total, text: None, said.append), said


def read(directory: Path) -> dict[str, list[tuple[str, str]]]:
    found = {}
    for split in SPLITS:
        rows = pq.read_table(directory / f"{split}.parquet").to_pylist()
        assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
        found[split] = [(row["prompt"], row["completion"]) for row in rows]
    return found


def shards(stem: Path, rows: Rows) -> None:
    half = len(rows) // 2
    parquet(stem.with_name(f"{stem.name}-00000-of-00002.parquet"), rows[:half])
    parquet(stem.with_name(f"{stem.name}-00001-of-00002.parquet"), rows[half:])


LAYOUTS: dict[str, Callable[[Path, str, Rows], None]] = {
    "jsonl": lambda folder, split, rows: jsonl(folder / f"{split}.jsonl", rows),
    "jsonl.gz": lambda folder, split, rows: jsonl(folder / f"{split}.jsonl.gz", rows, gzip.open),
    "parquet": lambda folder, split, rows: parquet(folder / f"{split}.parquet", rows),
    "folders": lambda folder, split, rows: parquet(folder / split / "part-0.parquet", rows),
    "shards": lambda folder, split, rows: shards(folder / "data" / split, rows),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_rows_as_they_are_in_their_own_splits(layout: str, tmp_path: Path) -> None:
    wanted = {split: rows_of(split, count) for split, count in (("train", 7), ("validation", 2), ("test", 3))}
    for split, rows in wanted.items():
        LAYOUTS[layout](tmp_path / "in", split, rows)
    (tmp_path / "in" / "README.md").write_text("not a table")
    result, said = write(config_for(tmp_path / "in"), tmp_path / "out")
    assert read(tmp_path / "out") == wanted
    assert result.pairs == {"train": 7, "validation": 2, "test": 3}
    assert said == []


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(three_splits(tmp_path / "in"), max_pairs=9)
    first, _ = write(config, tmp_path / "a")
    monkeypatch.setattr(pair_tables, "ROWS_AT_A_TIME", 2)
    second, _ = write(config, tmp_path / "b")
    assert first == second
    assert read(tmp_path / "a") == read(tmp_path / "b")


def test_a_uri_reads_what_a_path_reads(tmp_path: Path) -> None:
    folder = three_splits(tmp_path / "with space")
    by_path, _ = write(config_for(folder), tmp_path / "a")
    by_uri, _ = write(config_for(folder.as_uri()), tmp_path / "b")
    assert by_path.digest == by_uri.digest


def test_fewer_pairs_are_a_subset_that_the_seed_chooses_and_that_grows(tmp_path: Path) -> None:
    folder = three_splits(tmp_path / "in", {"train": 40, "validation": 9, "test": 9})

    def drawn(name: str, **fields: Any) -> dict[str, set[tuple[str, str]]]:
        write(config_for(folder, **fields), tmp_path / name)
        return {split: set(rows) for split, rows in read(tmp_path / name).items()}

    ten = drawn("ten", max_pairs=10, max_pairs_held_out=4)
    assert {split: len(rows) for split, rows in ten.items()} == {"train": 10, "validation": 4, "test": 4}
    assert ten["train"] < drawn("twenty", max_pairs=20)["train"]
    assert ten["train"] != drawn("other", max_pairs=10, seed=1)["train"]


def test_rows_left_out_are_counted_and_shared_ones_named(tmp_path: Path) -> None:
    folder = three_splits(tmp_path / "in")
    train = [("", "x"), ("p", None), ("long" * 9, "y"), ("kept", "z"), ("both", "same")]
    jsonl(folder / "train.jsonl", train)
    jsonl(folder / "validation.jsonl", [("fine", "so")])
    jsonl(folder / "test.jsonl", [("both", "same"), ("test", "own")])
    result, said = write(config_for(folder, max_prompt_characters=20), tmp_path / "out")
    assert result.pairs == {"train": 2, "validation": 1, "test": 2}
    assert said == [
        "train: rows left out: 1 outside the limits (a prompt of at most 20 characters and a completion of 1 or more), "
        "2 without a prompt or completion",
        "test: 1 of 2 pairs stand in the training split too; they are kept as they came",
    ]


def broken_json(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"article": "x", "highl\n')


def cut_short(folder: Path) -> None:
    jsonl(folder / "test.jsonl.gz", rows_of("test", 500), gzip.open)
    whole = (folder / "test.jsonl.gz").read_bytes()
    (folder / "test.jsonl.gz").write_bytes(whole[: len(whole) // 2])


def cut_parquet(folder: Path) -> None:
    parquet(folder / "train-2.parquet", rows_of("train", 50))
    whole = (folder / "train-2.parquet").read_bytes()
    (folder / "train-2.parquet").write_bytes(whole[: len(whole) // 2])


def numbers(folder: Path) -> None:
    parquet(folder / "validation.parquet", [("x", 3)])


def lacking_later(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"article": "x"}\n')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "validation.jsonl").rename(folder / "dev.jsonl"), [
            "no files of validation", "it holds dev.jsonl, test.jsonl, train.jsonl", "train, validation, test",
        ]),
        (lambda folder: [path.unlink() for path in folder.iterdir()], ["no files of train and validation and test",
                                                                       "it holds nothing"]),
        (lambda folder: [path.unlink() for path in folder.iterdir()] + [folder.rmdir()], ["does not exist"]),
        (lambda folder: (folder / "test.jsonl").write_text(""), ["the test split yields no pairs",
                                                                  "test.jsonl has no rows"]),
        (lambda folder: jsonl(folder / "test.jsonl", [("", "")] * 3), ["no rows but 3 without a prompt or completion"]),
        (broken_json, ["train.jsonl line 13 is no JSON"]),
        (lacking_later, ["completion_column is 'highlights'", "train.jsonl line 13", "has the columns article"]),
        (lambda folder: (folder / "test.jsonl").write_text("[1]\n"), ["test.jsonl line 1 is a list"]),
        (lambda folder: (folder / "test.jsonl").write_bytes(b'{"article": "\xe9"}\n'), ["test.jsonl cannot be read"]),
        (cut_short, ["test.jsonl.gz cannot be read"]),
        (cut_parquet, ["train-2.parquet cannot be read"]),
        (numbers, ["the column 'highlights' of validation.parquet is int64; it must be text"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_files_is_said_where_it_is(
    change: Callable[[Path], Any], words: list[str], tmp_path: Path
) -> None:
    folder = three_splits(tmp_path / "in")
    change(folder)
    with pytest.raises(ValueError, match=r"^(path|completion_column) ") as caught:
        write(config_for(folder), tmp_path / "out")
    for word in words:
        assert word in str(caught.value)


def test_a_missing_column_is_known_before_a_run_with_what_there_is(tmp_path: Path) -> None:
    jsonl_folder, parquet_folder = three_splits(tmp_path / "a"), tmp_path / "b"
    for split in SPLITS:
        parquet(parquet_folder / f"{split}.parquet", rows_of(split, 2))
    assert table_problems(config_for(jsonl_folder)) == table_problems(config_for(parquet_folder)) == []
    assert table_problems(config_for(jsonl_folder, prompt_column="document")) == [
        f"pairs.prompt_column is 'document', but train.jsonl line 1 under {jsonl_folder} has the columns "
        "id, article, highlights"
    ]
    assert table_problems(config_for(parquet_folder, completion_column="summary")) == [
        f"pairs.completion_column is 'summary', but train.parquet under {parquet_folder} has the columns "
        "highlights, other, article"
    ]
    assert table_problems(PairsConfig(source="table"))[0].startswith("pairs.path is not set")


def test_identity_follows_a_file_that_changes_and_no_other(tmp_path: Path) -> None:
    folder = three_splits(tmp_path / "in")
    config = config_for(folder)
    first = table_identity(config)
    (folder / "notes.txt").write_text("nothing of it")
    assert table_identity(config) == first
    assert first["files"] == 3
    os.utime(folder / "test.jsonl", ns=(1, 1))
    assert table_identity(config) != first
    assert table_identity(dataclasses.replace(config, path="/nowhere")) == {"path": "/nowhere", "files": 0}
    assert table_identity(PairsConfig(source="table")) == {"path": None, "files": 0}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": "web"}, "source"),
        ({"path": "/data"}, "path"),
        ({"prompt_column": ""}, "prompt_column"),
        ({"completion_column": "prompt"}, "completion_column"),
        ({"max_prompt_characters": 0}, "max_prompt_characters"),
        ({"max_completion_characters": 3}, "max_completion_characters"),
        ({"min_completion_characters": 0}, "min_completion_characters"),
        ({"max_pairs": 0}, "max_pairs"),
    ],
)
def test_a_pairs_value_out_of_range_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} is "):
        PairsConfig(**fields)
