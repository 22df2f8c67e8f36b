"""From candidates to a corpus on disk: read and filter in blocks, choose, split, write in id order.

Every file is read once. Workers put aside the text of what passes the filters and answer with hashes and sizes;
what to keep and where is decided from those; then each part is put together from what was put aside. So no more
than a block of text is in memory at a time, and the result depends on neither blocks nor workers.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.artifacts import SPLITS
from components.corpus.blocks import Mapper, Progress, throttled
from components.corpus.config import CorpusConfig
from components.corpus.filters import REASONS, Refusal, read_text
from components.corpus.sources import Found, Listing, list_documents
from components.corpus.split import Kept, assign_splits, choose_subset, deduplicate, hash_fraction

T = TypeVar("T", Found, Kept)

READ_BYTES = 4_000_000
"""Files read by one task."""
PART_BYTES = 64_000_000
"""Text in one Parquet file."""
ROW_GROUP_BYTES = 2_000_000
"""Text in one row group, the piece that a reader takes at a time."""


@dataclass(frozen=True)
class Collected:
    """What `collect_corpus` wrote, per split and by reason."""

    digest: str
    documents: dict[str, int]
    text_bytes: dict[str, int]
    dropped: dict[str, int]


def collect_corpus(config: CorpusConfig, directory: Path, mapper: Mapper, progress: Progress) -> Collected:
    """Write a corpus (layout: artifacts.Corpus) into `directory`. ValueError when no document is left."""
    listing = list_documents(config)
    aside = directory / ".aside"
    aside.mkdir()
    report = throttled(progress)
    kept, refused = _read(config, listing, aside, mapper, report)
    if not kept:
        raise ValueError(_nothing_left(config, refused))
    splits, by_group = assign_splits(kept, config.validation_share, config.test_share, config.seed)
    by_split = {split: [d for d in kept if splits[d.id] == split] for split in SPLITS}
    if not all(by_split.values()):
        raise ValueError(
            f"{len(kept)} documents are left after the filters; training, validation and test need at least one "
            f"each. {_what_to_change(refused)}"
        )
    parts = [part for split in SPLITS for part in _parts(split, by_split[split])]
    for split in SPLITS:
        (directory / split).mkdir()
    work = [
        {"directory": str(directory), "file": file, "documents": [asdict(d) for d in documents]}
        for file, documents in parts
    ]
    for done, _ in enumerate(mapper(write_part, work), 1):
        report(done, len(work), "writing")
    shutil.rmtree(aside)
    dropped = Counter(refusal.reason for refusal in refused.values())
    collected = Collected(
        _digest(by_split),
        {split: len(documents) for split, documents in by_split.items()},
        {split: sum(d.bytes for d in documents) for split, documents in by_split.items()},
        {reason: dropped[reason] for reason in REASONS if dropped[reason]},
    )
    _write_lists(config, directory, collected, refused, by_split, by_group)
    return collected


def _read(
    config: CorpusConfig, listing: Listing, aside: Path, mapper: Mapper, report: Progress
) -> tuple[list[Kept], dict[str, Refusal]]:
    """Read until there is enough: the documents to keep, and why the others are left out."""
    refused = dict(listing.refused)
    waiting = list(listing.found)
    if config.max_bytes is not None:
        # in the order of the draw, so that what will not be drawn is not read
        waiting.sort(key=lambda found: (hash_fraction(config.seed, "subset", found.id), found.id))
    passed: list[Kept] = []
    files = taken = 0
    while taken < len(waiting):
        distinct, _ = deduplicate(passed)
        lacking = sum(found.bytes for found in waiting)
        if config.max_bytes is not None:
            lacking = config.max_bytes - sum(d.bytes for d in distinct)
            if lacking <= 0:
                break
            lacking += lacking // 8 + config.min_bytes  # some will not pass
        batch, size = [], 0
        while taken < len(waiting) and size < lacking:
            size += waiting[taken].bytes
            batch.append(waiting[taken])
            taken += 1
        batch.sort(key=lambda found: found.id)
        groups = {found.id: found.group for found in batch}
        work = []
        for block in _cut(batch, READ_BYTES):
            work.append(
                {
                    "config": asdict(config),
                    "aside": str(aside / f"{files:06d}.text"),
                    "files": [[found.id, found.path] for found in block],
                }
            )
            files += 1
        done = 0
        for answer in mapper(read_block, work):
            for id, reason, detail in answer["refused"]:
                refused[id] = Refusal(reason, detail)
            for id, *facts in answer["passed"]:
                passed.append(Kept(id, groups[id], *facts))
            done += answer["bytes"]
            report(done, size + 1, "reading")
    refused |= {found.id: Refusal("outside the subset", f"{found.bytes} bytes") for found in waiting[taken:]}
    distinct, duplicates = deduplicate(passed)
    refused |= {id: Refusal("duplicate", f"of {kept}") for id, kept in duplicates}
    if config.max_bytes is None:
        return distinct, refused
    chosen = choose_subset(distinct, config.max_bytes, config.seed)
    ids = {document.id for document in chosen}
    refused |= {d.id: Refusal("outside the subset", f"{d.bytes} bytes") for d in distinct if d.id not in ids}
    return chosen, refused


def read_block(block: dict[str, Any]) -> dict[str, Any]:
    """Read some files, put aside the text of those that pass, and answer with what is known of each."""
    config = CorpusConfig(**block["config"])
    passed, refused, offset, seen = [], [], 0, 0
    target = Path(block["aside"])
    partial = target.with_suffix(".partial")  # a task that is run again starts over
    with partial.open("wb") as out:
        for id, path in block["files"]:
            try:
                with Path(path).open("rb") as file:
                    data = file.read(config.max_bytes_per_document + 1)
            except OSError as error:
                refused.append([id, "unreadable", error.strerror or type(error).__name__])
                continue
            seen += len(data)
            text = read_text(data, config)
            if isinstance(text, Refusal):
                refused.append([id, text.reason, text.detail])
                continue
            content = hashlib.sha256(data).hexdigest()
            loose = hashlib.blake2b("".join(text.split()).encode(), digest_size=16).hexdigest()
            passed.append([id, len(data), content, loose, target.name, offset])
            out.write(data)
            offset += len(data)
    partial.replace(target)
    return {"passed": passed, "refused": refused, "bytes": seen}


def write_part(part: dict[str, Any]) -> str:
    """Put one Parquet file together from texts put aside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = Path(part["directory"])
    target = directory / part["file"]
    partial = target.with_suffix(".partial")
    schema = pa.schema([("id", pa.string()), ("group", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for documents in _cut([Kept(**d) for d in part["documents"]], ROW_GROUP_BYTES):
            columns = [[d.id for d in documents], [d.group for d in documents], list(_texts(directory, documents))]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(documents))
    partial.replace(target)
    return str(part["file"])


def _texts(directory: Path, documents: Sequence[Kept]) -> Iterator[str]:
    name, file = "", None
    try:
        for document in documents:
            if document.file != name or file is None:
                if file is not None:
                    file.close()
                name, file = document.file, (directory / ".aside" / document.file).open("rb")
            file.seek(document.offset)
            yield file.read(document.bytes).decode("utf-8")
    finally:
        if file is not None:
            file.close()


def _cut(documents: Sequence[T], n_bytes: int) -> Iterator[list[T]]:
    """Runs of documents of about `n_bytes`: a run ends with the document that fills it."""
    run: list[T] = []
    size = 0
    for document in documents:
        run.append(document)
        size += document.bytes
        if size >= n_bytes:
            yield run
            run, size = [], 0
    if run:
        yield run


def _parts(split: str, documents: Sequence[Kept]) -> Iterator[tuple[str, list[Kept]]]:
    for number, run in enumerate(_cut(documents, PART_BYTES)):
        yield f"{split}/part-{number:05d}.parquet", run


def _digest(by_split: dict[str, list[Kept]]) -> str:
    """A hash over split, id, group and text of every document in id order."""
    digest = hashlib.sha256()
    for split, documents in by_split.items():
        for document in documents:
            digest.update(json.dumps([split, document.id, document.group, document.content]).encode() + b"\n")
    return digest.hexdigest()


def _what_to_change(refused: dict[str, Refusal]) -> str:
    counts = Counter(refusal.reason for refusal in refused.values())
    if not counts:
        return "None was dropped: the source has no more."
    reasons = [f"{count} {reason} ({REASONS[reason]})" for reason, count in counts.most_common()]
    return f"Dropped: {'; '.join(reasons)}."


def _nothing_left(config: CorpusConfig, refused: dict[str, Refusal]) -> str:
    where = "the installed Python code" if config.source == "python" else f"path {config.path}"
    if not refused:
        return f"{where} holds no files; give a folder with text files, or a glob that matches some"
    return f"{where} leaves no document. {_what_to_change(refused)}"


def _write_lists(
    config: CorpusConfig,
    directory: Path,
    collected: Collected,
    refused: dict[str, Refusal],
    by_split: dict[str, list[Kept]],
    by_group: bool,
) -> None:
    with (directory / "dropped.jsonl").open("w", encoding="utf-8") as file:
        for id in sorted(refused):
            record = {"id": id, "reason": refused[id].reason, "detail": refused[id].detail}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    total = sum(collected.text_bytes.values())
    summary = {
        "source": config.source,
        "path": config.path,
        "documents": collected.documents,
        "text_bytes": collected.text_bytes,
        "shares": {split: round(size / total, 4) for split, size in collected.text_bytes.items()},
        "groups": {split: len({d.group for d in documents}) for split, documents in by_split.items()},
        "split_by": "group" if by_group else "document",
        "dropped": collected.dropped,
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
