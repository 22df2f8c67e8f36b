"""Reading: one task takes some pieces of a source, puts the texts that pass the filters aside, and answers in counts.

Beside the texts (`NNNNNN.text`) lie their records (`NNNNNN.records`), their signatures if near duplicates are looked
for (`NNNNNN.signatures`), and a line for every document left out (`NNNNNN.dropped`).
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.corpus.config import CorpusConfig
from components.corpus.dropped import dropped_line
from components.corpus.filters import Refusal, read_text
from components.corpus.jsonl import jsonl_rows
from components.corpus.listing import compression, open_file, unpacked
from components.corpus.near_duplicates import signature_of
from components.corpus.parquet import parquet_rows
from components.corpus.pieces import Piece, Raw, Skipped
from components.corpus.prose import prose_of
from components.corpus.records import RecordWriter
from components.corpus.split import subset_draw


def read_block(order: str) -> dict[str, Any]:
    """Do what an order (a JSON file) says. Answers with counts.

    A task that is run again writes the same files anew.
    """
    block = json.loads(Path(order).read_text(encoding="utf-8"))
    config = CorpusConfig(**block["config"])
    pieces = [Piece(*fields) for fields in block["pieces"]]
    target = Path(order).with_suffix(".text")
    dropped: Counter[str] = Counter()
    row = offset = 0
    with (
        target.open("wb") as texts,
        target.with_suffix(".dropped").open("w", encoding="utf-8") as lines,
        target.with_suffix(".signatures").open("wb") as signatures,
        contextlib.closing(RecordWriter(target.with_suffix(".records"))) as records,
    ):
        for piece in pieces:
            for item in _passed(piece, config, block["prefix"], block["enough"]):
                if isinstance(item, Skipped):
                    lines.write(dropped_line(item))
                    dropped[item.refusal.reason] += 1
                    continue
                records.add(
                    {
                        "id": item.id,
                        "group": item.group,
                        "source": block["source"],
                        "bytes": len(item.data),
                        "draw": subset_draw(config.seed, piece, item.id),
                        "content": hashlib.sha256(item.data).digest(),
                        "loose": hashlib.blake2b(b"".join(item.data.split()), digest_size=16).digest(),
                        "file": block["file"],
                        "row": row,
                        "offset": offset,
                    }
                )
                texts.write(item.data)
                row, offset = row + 1, offset + len(item.data)
                if config.near_duplicates is not None:
                    signatures.write(signature_of(item.data.decode("utf-8")).tobytes())
    return {"order": order, "bytes": sum(piece.bytes for piece in pieces), "dropped": dropped}


def _passed(piece: Piece, config: CorpusConfig, prefix: str, enough: int | None) -> Iterator[Raw | Skipped]:
    """What is in a piece, the filters applied. Of a large piece no more is read than a subset of `enough` bytes
    can hold."""
    taken = 0
    for item in _documents(piece, config, prefix):
        if isinstance(item, Raw):
            if enough is not None and taken >= enough:
                yield Skipped(f"{item.id} and on", Refusal("outside the subset", "not read"))
                return
            text = read_text(item.data, config)
            if isinstance(text, Refusal):
                yield Skipped(item.id, text)
                continue
            taken += len(item.data)
        yield item


def _documents(piece: Piece, config: CorpusConfig, prefix: str) -> Iterator[Raw | Skipped]:
    """What is in a piece, in its order."""
    read = {"parquet": parquet_rows, "jsonl": jsonl_rows}.get(config.source, _file)
    try:
        yield from read(piece, config, prefix)
    except OSError as error:
        yield Skipped(piece.name, Refusal("unreadable", error.strerror or str(error)))


def _file(piece: Piece, config: CorpusConfig, _: str) -> Iterator[Raw | Skipped]:
    """A file as one document. A packed one that is cut short is none: half a document is not the document."""
    with open_file(config.path, piece.path) as file:
        try:
            data = unpacked(file, piece.path).read(config.max_bytes_per_document + 1)
        except OSError as error:
            if not compression(piece.path):
                raise
            yield Skipped(piece.id, Refusal("broken file", str(error)))
        else:
            yield _prose(piece, data) if config.source == "prose" else Raw(piece.id, piece.group, data)


def _prose(piece: Piece, data: bytes) -> Raw | Skipped:
    """The sentences of a documentation file."""
    try:
        text = prose_of(piece.path, data.decode("utf-8"))
    except UnicodeDecodeError:
        return Raw(piece.id, piece.group, data)  # for the filters to say why not
    return Raw(piece.id, piece.group, text.encode()) if text else Skipped(piece.id, Refusal("no prose", "no sentence"))
