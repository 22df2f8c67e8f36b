"""From pieces of a source to a corpus on disk: read and filter in blocks, choose, split, write in id order.

Every piece is read once. Workers put aside the text of what passes the filters and a record of each; what to keep
and where is decided from the records; then each part is put together from what was put aside. So no more than a
block of text is in memory at a time, the driver holds records alone, and the result depends on neither blocks nor
workers.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts import SPLITS
from components.corpus.blocks import Mapper, Progress, throttled
from components.corpus.config import CorpusConfig
from components.corpus.dropped import Dropped
from components.corpus.near_duplicates import near_duplicates
from components.corpus.pieces import Piece, Skipped, SourceFault
from components.corpus.read import read_block
from components.corpus.records import Rows, duplicates, integers, load_records, lowest_draws, repeated_ids, runs
from components.corpus.sources import list_pieces
from components.corpus.split import assign_splits, hash_number
from components.corpus.write import write_part, write_plan

READ_BYTES = 4_000_000
"""Text read by one task, as far as it is known."""
PART_BYTES = 64_000_000
"""Text in one Parquet file."""


@dataclass(frozen=True)
class Collected:
    """What `collect_corpus` wrote, per split and by reason."""

    digest: str
    documents: dict[str, int]
    text_bytes: dict[str, int]
    dropped: dict[str, int]
    warnings: list[str]
    """What a person should act on."""


def collect_corpus(config: CorpusConfig, directory: Path, mapper: Mapper, progress: Progress) -> Collected:
    """Write a corpus (layout: artifacts.Corpus) into `directory`. ValueError when no document is left."""
    aside = directory / ".aside"
    aside.mkdir()
    report = throttled(progress)
    with contextlib.closing(Dropped(directory / "dropped.jsonl")) as dropped:
        files = _read(config, "", 0, aside, itertools.count(), dropped, mapper, report)
        records = _chosen(_distinct(files, config, aside, dropped), config, dropped)
    if not len(records):
        raise ValueError(_nothing_left(config, dropped))
    split_of, by_group = assign_splits(records, (config.validation_share, config.test_share), config.seed)
    by_split = {split: records.filter(split_of == index) for index, split in enumerate(SPLITS)}
    if not all(map(len, by_split.values())):
        raise ValueError(
            f"{len(records)} documents are left after the filters; training, validation and test need at least one "
            f"each. {dropped.in_words()}"
        )
    del records
    work = list(_parts(by_split, [config.source], directory, aside))
    for done, _ in enumerate(mapper(write_part, work), 1):
        report(done, len(work), "writing")
    shutil.rmtree(aside)
    collected = Collected(
        _digest(by_split),
        {split: len(records) for split, records in by_split.items()},
        {split: int(integers(records, "bytes").sum()) for split, records in by_split.items()},
        dropped.counts(),
        dropped.warnings(sum(map(len, by_split.values())), chosen=config.path is not None),
    )
    _write_summary(config, directory, collected, by_split, by_group)
    return collected


def _read(
    config: CorpusConfig,
    prefix: str,
    source: int,
    aside: Path,
    numbers: Iterator[int],
    dropped: Dropped,
    mapper: Mapper,
    report: Progress,
) -> list[Path]:
    """Read until there is enough; returns the files of records."""
    pieces: list[Piece] = []
    for item in list_pieces(config, prefix, mapper):
        if isinstance(item, Skipped):
            dropped.add(item.id, item.refusal.reason, item.refusal.detail)
        else:
            pieces.append(item)
    if config.max_bytes is not None:
        # in the order of the draw, so that what will not be drawn is not read
        pieces.sort(key=lambda piece: (hash_number(config.seed, "subset", piece.name), piece.name))
    files: list[Path] = []
    taken = 0
    while taken < len(pieces):
        lacking = sum(piece.bytes for piece in pieces)
        if config.max_bytes is not None:
            found = int(integers(_distinct(files, config, aside), "bytes").sum())
            if found >= config.max_bytes:
                break
            lacking = config.max_bytes - found + config.min_bytes
            # some will not pass: as many as so far
            lacking = (
                lacking * 9 // 8 if not found else int(lacking * 1.1 * sum(p.bytes for p in pieces[:taken]) / found)
            )
        batch, size = [], 0
        while taken < len(pieces) and size < lacking:
            size += pieces[taken].bytes
            batch.append(pieces[taken])
            taken += 1
        orders = list(_orders(sorted(batch, key=lambda piece: piece.name), config, prefix, source, aside, numbers))
        done, counts = 0, {}
        for answer in mapper(read_block, orders):
            if answer["fault"]:
                raise SourceFault(answer["fault"])
            done += answer["bytes"]
            counts[answer["order"]] = answer["dropped"]
            report(done, size + 1, "reading")
        for order in orders:
            dropped.take_over(Path(order).with_suffix(".dropped"), counts[order])
            files.append(Path(order).with_suffix(".records"))
    for piece in pieces[taken:]:
        dropped.add(piece.name, "outside the subset", f"{piece.bytes} bytes not read")
    return files


def _orders(
    pieces: list[Piece], config: CorpusConfig, prefix: str, source: int, aside: Path, numbers: Iterator[int]
) -> Iterator[str]:
    """Files that say what a task is to read: orders travel by name, as they may be long."""
    for rows in runs(np.array([piece.bytes for piece in pieces]), READ_BYTES):
        number = next(numbers)
        order = {
            "config": asdict(config),
            "prefix": prefix,
            "source": source,
            "file": number,
            "enough": config.max_bytes,
            "pieces": [[p.id, p.group, p.path, p.bytes, p.span] for p in pieces[rows]],
        }
        target = aside / f"{number:06d}.order"
        target.write_text(json.dumps(order), encoding="utf-8")
        yield str(target)


def _distinct(files: list[Path], config: CorpusConfig, aside: Path, dropped: Dropped | None = None) -> Any:
    """The records of documents that are not there twice, in id order; the others are dropped."""
    records = load_records(files)
    records = _without(records, repeated_ids(records), "repeated id", "an earlier row is {}", dropped)
    records = _without(records, duplicates(records), "duplicate", "of {}", dropped)
    if config.near_duplicates is not None and len(records):
        originals, alike = near_duplicates(records, config.near_duplicates, aside)
        records = _without(records, originals, "near duplicate", "{1:.2f} alike to {0}", dropped, alike)
    return records


def _chosen(records: Any, config: CorpusConfig, dropped: Dropped) -> Any:
    """The records to keep, in id order."""
    if config.max_bytes is not None:
        chosen = lowest_draws(records, config.max_bytes)
        outside = records.select(["id", "bytes"]).filter(~chosen)
        for row in outside.to_pylist():
            dropped.add(row["id"], "outside the subset", f"{row['bytes']} bytes")
        records = records.filter(chosen)
    return records.drop_columns(["draw", "loose"])


def _without(
    records: Any, originals: Rows, reason: str, detail: str, dropped: Dropped | None, alike: Any = None
) -> Any:
    """The records that have no original, those that have one dropped."""
    doubles = np.flatnonzero(originals >= 0)
    if not len(doubles):
        return records
    if dropped is not None:
        ids = records.column("id")
        for row in doubles:
            original = ids[originals[row]].as_py()
            dropped.add(ids[row].as_py(), reason, detail.format(original, 1.0 if alike is None else alike[row]))
    return records.filter(originals < 0)


def _parts(by_split: dict[str, Any], sources: list[str], directory: Path, aside: Path) -> Iterator[dict[str, Any]]:
    """Orders to write the parts of every split."""
    for split, records in by_split.items():
        (directory / split).mkdir()
        for number, rows in enumerate(runs(integers(records, "bytes"), PART_BYTES)):
            plan = aside / f"{split}-{number:05d}.plan"
            write_plan(records.slice(rows.start, rows.stop - rows.start), plan)
            file = f"{split}/part-{number:05d}.parquet"
            yield {
                "directory": str(directory),
                "file": file,
                "sources": sources,
                "plan": str(plan),
                "aside": str(aside),
            }


def _digest(by_split: dict[str, Any]) -> str:
    """A hash over split, id, group and text of every document in id order."""
    digest = hashlib.sha256()
    for split, records in by_split.items():
        for batch in records.select(["id", "group", "content"]).to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                digest.update(json.dumps([split, row["id"], row["group"], row["content"].hex()]).encode() + b"\n")
    return digest.hexdigest()


def _nothing_left(config: CorpusConfig, dropped: Dropped) -> str:
    where = "the installed Python code" if config.source == "python" else f"path {config.path}"
    if not dropped.counts():
        return f"{where} holds no files; give a folder with text files, or a glob that matches some"
    return f"{where} leaves no document. {dropped.in_words()}"


def _write_summary(
    config: CorpusConfig, directory: Path, collected: Collected, by_split: dict[str, Any], by_group: bool
) -> None:
    total = sum(collected.text_bytes.values())
    summary = {
        "source": config.source,
        "path": config.path,
        "documents": collected.documents,
        "text_bytes": collected.text_bytes,
        "shares": {split: round(size / total, 4) for split, size in collected.text_bytes.items()},
        "groups": {split: len(records.column("group").unique()) for split, records in by_split.items()},
        "split_by": "group" if by_group else "document",
        "dropped": collected.dropped,
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
