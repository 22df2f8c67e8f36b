"""From the pieces of some sources to a corpus on disk: read and filter in blocks, choose, split, write in id order.

Every piece is read once. Workers put aside the text of what passes the filters and a record of each; what to keep
and where is decided from the records; then each part is put together from what was put aside. So no more than a
block of text is in memory at a time, the driver holds records alone, and the result depends on neither blocks nor
workers.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.artifacts import SPLITS, CorpusSource
from components.corpus.blocks import Mapper, Progress, throttled
from components.corpus.choose import distinct, subset
from components.corpus.config import CorpusConfig
from components.corpus.dropped import Dropped
from components.corpus.gather import Place, gather
from components.corpus.records import integers, runs
from components.corpus.split import MIN_GROUPS, MIN_NAMED_GROUPS, assign_splits
from components.corpus.write import write_part, write_plan

PART_BYTES = 64_000_000
"""Text in one Parquet file."""


@dataclass(frozen=True)
class Collected:
    """What `collect_corpus` wrote, per split, by reason and by source."""

    digest: str
    documents: dict[str, int]
    text_bytes: dict[str, int]
    dropped: dict[str, int]
    sources: dict[str, CorpusSource]
    warnings: list[str]
    """What a person should act on."""


def collect_corpus(config: CorpusConfig, directory: Path, mapper: Mapper, progress: Progress) -> Collected:
    """Write a corpus (layout: artifacts.Corpus) into `directory`. ValueError when no document is left."""
    parts = config.parts()
    aside = directory / ".aside"
    aside.mkdir()
    report = throttled(progress)
    with contextlib.closing(Dropped(directory / "dropped.jsonl")) as dropped:
        place = Place(aside, dropped, mapper, report)
        files = []
        for source, (name, part) in enumerate(parts.items()):
            files += gather(part, f"{name}/" if config.mixture else "", source, place)
        records = distinct(files, config, aside, dropped)
        records = subset(records, [part.max_bytes for part in parts.values()], dropped)
    for number, part in enumerate(parts.values()):
        if not (integers(records, "source") == number).any():
            raise ValueError(_nothing_left(part, dropped, of_many=bool(config.mixture)))
    records = records.drop_columns(["draw", "loose"])
    least = [MIN_GROUPS if part.group_column is None else MIN_NAMED_GROUPS for part in parts.values()]
    split_of, by_group = assign_splits(records, (config.validation_share, config.test_share), config.seed, least)
    mingled = _mingled(records, parts, by_group)
    by_split = {split: records.filter(split_of == index) for index, split in enumerate(SPLITS)}
    sources = _by_source(by_split, config.weights())
    for name, made in sources.items():
        if not all(made.documents.values()):
            raise ValueError(
                f"{sum(made.documents.values())} documents are left{f' of {name}' if config.mixture else ''} after "
                f"the filters; training, validation and test need at least one each. {dropped.in_words()}"
            )
    del records
    work = list(_orders(by_split, list(parts), directory, aside))
    counts = f"{sum(map(len, by_split.values())):,} documents, {sum(dropped.counts().values()):,} left out"
    for done, _ in enumerate(mapper(write_part, work), 1):
        report(done, len(work), f"writing {counts}")
    shutil.rmtree(aside)
    documents = {split: len(records) for split, records in by_split.items()}
    collected = Collected(
        _digest(by_split, sources),
        documents,
        {split: int(integers(records, "bytes").sum()) for split, records in by_split.items()},
        dropped.counts(),
        sources,
        [*dropped.warnings(sum(documents.values()), chosen=any(part.path for part in parts.values())), *mingled],
    )
    _write_summary(config, directory, collected, by_split, dict(zip(parts, by_group, strict=True)))
    return collected


def _mingled(records: Any, parts: dict[str, CorpusConfig], by_group: list[bool]) -> list[str]:
    """A warning for each source whose groups lie in several splits."""
    said = []
    for number, (name, whole) in enumerate(zip(parts, by_group, strict=True)):
        if whole:
            continue
        mine = records.filter(integers(records, "source") == number)
        groups = mine.column("group").unique()
        if 1 < len(groups) < len(mine):
            said.append(
                f"{name}: {len(groups)} groups ({', '.join(map(str, groups.to_pylist()[:3]))}, …) are too few to keep "
                "each in one split: held-out documents have neighbours in training, and are easier for it"
            )
    return said


def _by_source(by_split: dict[str, Any], weights: dict[str, float]) -> dict[str, CorpusSource]:
    counts: dict[str, CorpusSource] = {}
    for number, (name, weight) in enumerate(weights.items()):
        mine = {split: integers(records, "source") == number for split, records in by_split.items()}
        counts[name] = CorpusSource(
            weight,
            {split: int(mask.sum()) for split, mask in mine.items()},
            {split: int(integers(by_split[split], "bytes")[mask].sum()) for split, mask in mine.items()},
        )
    return counts


def _orders(by_split: dict[str, Any], sources: list[str], directory: Path, aside: Path) -> Iterator[dict[str, Any]]:
    """Orders to write the parts of every split."""
    for split, records in by_split.items():
        (directory / split).mkdir()
        for number, rows in enumerate(runs(integers(records, "bytes"), PART_BYTES)):
            plan = aside / f"{split}-{number:05d}.plan"
            write_plan(records.slice(rows.start, rows.stop - rows.start), plan)
            yield {
                "directory": str(directory),
                "file": f"{split}/part-{number:05d}.parquet",
                "sources": sources,
                "plan": str(plan),
                "aside": str(aside),
            }


def _digest(by_split: dict[str, Any], sources: dict[str, CorpusSource]) -> str:
    """A hash over split, id, group and text of every document in id order, and over the weights of a mixture."""
    digest = hashlib.sha256()
    if len(sources) > 1:
        digest.update(json.dumps({name: source.weight for name, source in sources.items()}).encode() + b"\n")
    for split, records in by_split.items():
        for batch in records.select(["id", "group", "content"]).to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                digest.update(json.dumps([split, row["id"], row["group"], row["content"].hex()]).encode() + b"\n")
    return digest.hexdigest()


def _nothing_left(part: CorpusConfig, dropped: Dropped, of_many: bool) -> str:
    where = f"path {part.path}" if part.path else "the installed Python"
    if not dropped.counts():
        return f"{where} holds no files; give a folder with text files, or a glob that matches some"
    return f"{where} leaves no document. {'In all sources: ' if of_many else ''}{dropped.in_words()}"


def _write_summary(
    config: CorpusConfig,
    directory: Path,
    collected: Collected,
    by_split: dict[str, Any],
    by_group: dict[str, bool],
) -> None:
    total = sum(collected.text_bytes.values())
    summary = {
        "from": {name: {"source": part.source, "path": part.path} for name, part in config.parts().items()},
        "documents": collected.documents,
        "text_bytes": collected.text_bytes,
        "shares": {split: round(size / total, 4) for split, size in collected.text_bytes.items()},
        "groups": {split: len(records.column("group").unique()) for split, records in by_split.items()},
        "split_by": {name: "group" if grouped else "document" for name, grouped in by_group.items()},
        "sources": {name: asdict(source) for name, source in collected.sources.items()},
        "dropped": collected.dropped,
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
