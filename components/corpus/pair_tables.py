"""Pairs that are given: rows of parquet or jsonl files named by their split, under a folder or any pyarrow URI.

The makers' splits are kept as they are, so that scores compare with others'. Rows pass through one batch at a time.
"""

import hashlib
import heapq
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from components.artifacts import SPLITS
from components.corpus.blocks import Progress, throttled
from components.corpus.config import PairsConfig
from components.corpus.listing import Listed, list_files, open_file, printable, unpacked
from components.corpus.pairs import Drawn
from components.corpus.remote import Unreachable
from components.corpus.split import hash_fraction

ROWS_AT_A_TIME = 1000
KIND = re.compile(r"\.(parquet|jsonl(\.gz|\.zst)?)$")
SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?![A-Za-z0-9])")


Row = tuple[str, str, str]
"""Id, prompt, completion."""


def write_given_pairs(config: PairsConfig, directory: Path, progress: Progress, warn: Callable[[str], None]) -> Drawn:
    """Write the pairs of every split (layout: artifacts.Pairs), a line of `warn` for what is left out or worth a look.

    ValueError names what is missing: the path, a split, a column, every row; or the file and line that cannot be read.
    """
    tables = find_tables(config)
    report = throttled(progress)
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    training: set[bytes] = set()
    for part, split in enumerate(SPLITS):
        limit = config.max_pairs if split == "train" else config.max_pairs_held_out
        chosen = None if limit is None else _first_by_hash(config, tables[split], limit)
        left_out: Counter[str] = Counter()
        written = known = 0
        rows = _fitting(config, tables[split], left_out)
        for row in _written(directory / f"{split}.parquet", (r for r in rows if chosen is None or r[0] in chosen)):
            digest.update(json.dumps([split, *row]).encode() + b"\n")
            content = hashlib.blake2b(json.dumps(row[1:]).encode(), digest_size=16).digest()
            if split == "train":
                training.add(content)
            elif content in training:
                known += 1
            written += 1
            report(part, len(SPLITS), f"{split}: {written} pairs")
        if not written:
            raise ValueError(
                f"path {config.path}: the {split} split yields no pairs; {_listed(f.name for f in tables[split])} has "
                f"no rows{f' but {_told(left_out)}' if left_out else ''}"
            )
        if left_out:
            warn(f"{split}: rows left out: {_told(left_out)}")
        if known:
            warn(f"{split}: {known} of {written} pairs stand in the training split too; they are kept as they came")
        counts[split] = written
    return Drawn(digest.hexdigest(), counts)


def _written(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, each after it was written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in ("id", "prompt", "completion")])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, ROWS_AT_A_TIME)):
            columns = [list(column) for column in zip(*batch, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))
            yield from batch


def find_tables(config: PairsConfig) -> dict[str, list[Listed]]:
    """Every split's files, in the order of their rows' ids. ValueError says what is missing."""
    if config.path is None:
        raise ValueError("path is not set; the source 'table' needs a folder or URI, for example pairs.path=/data/xsum")
    files = list(list_files(config.path))
    tables: dict[str, list[Listed]] = {split: [] for split in SPLITS}
    for file in files:
        split = _split_of(file.name)
        if split and KIND.search(file.name):
            if file.refusal is not None:
                raise ValueError(f"path {config.path}: {file.name} cannot be read: {file.refusal.detail}")
            tables[split].append(file)
    lacking = [split for split in SPLITS if not tables[split]]
    if lacking:
        raise ValueError(
            f"path {config.path} has no files of {' and '.join(lacking)}: it holds "
            f"{_listed(sorted(f.name for f in files))}; name parquet or jsonl files, or folders of them, by their "
            "split: train, validation, test"
        )
    return {split: sorted(found, key=lambda file: f"{file.name}:") for split, found in tables.items()}


def _split_of(name: str) -> str | None:
    """The first part of a path that begins with a split's name decides."""
    matches = (SPLIT.match(part) for part in PurePosixPath(name).parts)
    return next((match[1] for match in matches if match), None)


def table_identity(config: PairsConfig) -> Any:
    """What identifies the files, as JSON values; never an error: a plan must work without."""
    try:
        tables = find_tables(config)
    except ValueError:
        return {"path": config.path, "files": 0}
    files = [file for found in tables.values() for file in found]
    facts = "".join(f"{file.name}\0{file.bytes}\0{file.modified}\n" for file in files)
    return {
        "path": config.path,
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "sizes_and_times": hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest(),
    }


def table_problems(config: PairsConfig) -> list[str]:
    """What a run would trip over: a path, a split or a column that is not there."""
    try:
        for found in find_tables(config).values():
            next(_rows(config, found[0]), None)
    except (ValueError, Unreachable) as error:
        return [f"pairs.{error}"]
    return []


def _fitting(config: PairsConfig, files: Sequence[Listed], left_out: Counter[str]) -> Iterator[Row]:
    """The rows that are pairs within the limits; what is left out is counted."""
    for file in files:
        for id, prompt, completion in _rows(config, file):
            if not prompt or not completion:
                left_out["without a prompt or completion"] += 1
            elif not config.fits(prompt, completion):
                left_out[f"outside the limits ({config.limits()})"] += 1
            else:
                yield id, prompt, completion


def _first_by_hash(config: PairsConfig, files: Sequence[Listed], limit: int) -> frozenset[str]:
    ids = (id for id, _, _ in _fitting(config, files, Counter()))
    return frozenset(heapq.nsmallest(limit, ids, key=lambda id: (hash_fraction(config.seed, "pairs", id), id)))


def _rows(config: PairsConfig, file: Listed) -> Iterator[tuple[str, str | None, str | None]]:
    """Id, prompt and completion of every row of a file. ValueError names the file and what is wrong with it."""
    from pyarrow import ArrowException

    read = _parquet_rows if file.name.endswith(".parquet") else _jsonl_rows
    try:
        for number, prompt, completion in read(config, file):
            yield f"{printable(file.name)}:{number:09d}", prompt, completion
    except (ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"path {config.path}: {file.name} cannot be read: {_line(error)}") from error


def _parquet_rows(config: PairsConfig, file: Listed) -> Iterator[tuple[int, str | None, str | None]]:
    import pyarrow.parquet as pq
    from pyarrow import types

    wanted = [config.prompt_column, config.completion_column]
    with open_file(config.path, file.path) as source, pq.ParquetFile(source) as table:
        schema = table.schema_arrow
        _check_columns(config, file, schema.names)
        for name in wanted:
            kind = schema.field(name).type
            if not (types.is_string(kind) or types.is_large_string(kind)):
                raise ValueError(_no_text(config, file, name, str(kind)))
        number = 0
        for batch in table.iter_batches(ROWS_AT_A_TIME, columns=wanted):
            for prompt, completion in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                number += 1
                yield number, prompt, completion


def _jsonl_rows(config: PairsConfig, file: Listed) -> Iterator[tuple[int, str | None, str | None]]:
    source = unpacked(open_file(config.path, file.path), file.path)
    with io.TextIOWrapper(source, "utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file.name} line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"path {config.path}: {where} is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"path {config.path}: {where} is a {type(row).__name__}; a row is a JSON object")
            _check_columns(config, file, list(row), number)
            values = [row[config.prompt_column], row[config.completion_column]]
            for name, value in zip((config.prompt_column, config.completion_column), values, strict=True):
                if not isinstance(value, str | None):
                    raise ValueError(_no_text(config, file, name, type(value).__name__, number))
            yield number, values[0], values[1]


def _check_columns(config: PairsConfig, file: Listed, names: Sequence[str], line: int | None = None) -> None:
    for field in ("prompt_column", "completion_column"):
        if getattr(config, field) not in names:
            where = file.name if line is None else f"{file.name} line {line}"
            raise ValueError(
                f"{field} is {getattr(config, field)!r}, but {where} under {config.path} has the columns "
                f"{_listed(names)}"
            )


def _no_text(config: PairsConfig, file: Listed, column: str, kind: str, line: int | None = None) -> str:
    where = file.name if line is None else f"{file.name} line {line}"
    return f"path {config.path}: the column {column!r} of {where} is {kind}; it must be text"


def _told(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))


def _listed(names: Any, shown: int = 8) -> str:
    every = list(names)
    more = f" and {len(every) - shown} more" if len(every) > shown else ""
    return (", ".join(every[:shown]) or "nothing") + more


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
