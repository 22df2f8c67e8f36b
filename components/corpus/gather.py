"""The driver's side of reading: what is there, in which order it is read, and when there is enough."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from components.corpus.blocks import Mapper, Progress
from components.corpus.choose import distinct
from components.corpus.config import CorpusConfig
from components.corpus.dropped import Dropped
from components.corpus.pieces import Piece, Skipped
from components.corpus.read import read_block
from components.corpus.records import integers, runs
from components.corpus.sources import list_pieces
from components.corpus.split import hash_number

READ_BYTES = 4_000_000
"""Text read by one task, as far as it is known."""


@dataclass(frozen=True)
class Place:
    """Where texts are put aside meanwhile, and how work is done there."""

    aside: Path
    dropped: Dropped
    mapper: Mapper
    report: Progress
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of the orders given out."""


def gather(config: CorpusConfig, prefix: str, source: int, place: Place) -> list[Path]:
    """Read a source until there is enough; returns the files of records."""
    pieces: list[Piece] = []
    for item in list_pieces(config, prefix, place.mapper):
        if isinstance(item, Skipped):
            place.dropped.add(item.id, item.refusal.reason, item.refusal.detail)
        else:
            pieces.append(item)
    if config.max_bytes is not None:
        # in the order of the draw, so that what will not be drawn is not read
        pieces.sort(key=lambda piece: (hash_number(config.seed, "subset", piece.name), piece.name))
    files: list[Path] = []
    taken = 0
    while taken < len(pieces) and (lacking := _lacking(config, files, pieces[:taken], place.aside)) > 0:
        batch, size = [], 0
        while taken < len(pieces) and size < lacking:
            size += pieces[taken].bytes
            batch.append(pieces[taken])
            taken += 1
        orders = list(
            _orders(sorted(batch, key=lambda piece: (piece.id, piece.span or (0, 0))), config, prefix, source, place)
        )
        done, counts = 0, {}
        for answer in place.mapper(read_block, orders):
            done += answer["bytes"]
            counts[answer["order"]] = answer["dropped"]
            place.report(done, size + 1, "reading")
        for order in orders:
            place.dropped.take_over(Path(order).with_suffix(".dropped"), counts[order])
            files.append(Path(order).with_suffix(".records"))
    for piece in pieces[taken:]:
        place.dropped.add(piece.name, "outside the subset", f"{piece.bytes} bytes not read")
    return files


def _lacking(config: CorpusConfig, files: list[Path], read: list[Piece], aside: Path) -> float:
    """How many bytes to read next."""
    if config.max_bytes is None:
        return float("inf")
    found = int(integers(distinct(files, config, aside), "bytes").sum())
    if found >= config.max_bytes:
        return 0
    lacking = (config.max_bytes - found) * 9 // 8 + config.min_bytes
    return lacking * sum(piece.bytes for piece in read) / found if found else lacking  # as much will pass as so far


def _orders(pieces: list[Piece], config: CorpusConfig, prefix: str, source: int, place: Place) -> Iterator[str]:
    """Files that say what a task is to read: orders travel by name, as they may be long."""
    for rows in runs(np.array([piece.bytes for piece in pieces]), READ_BYTES):
        number = next(place.numbers)
        order = {
            "config": asdict(config),
            "prefix": prefix,
            "source": source,
            "file": number,
            "enough": config.max_bytes,
            "pieces": [[p.id, p.group, p.path, p.bytes, p.span] for p in pieces[rows]],
        }
        target = place.aside / f"{number:06d}.order"
        target.write_text(json.dumps(order), encoding="utf-8")
        yield str(target)
