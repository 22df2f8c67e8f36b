"""Which of the documents that passed are kept: each once, and of a subset those that are drawn first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.corpus.config import CorpusConfig
from components.corpus.dropped import Dropped
from components.corpus.near_duplicates import near_duplicates
from components.corpus.records import Rows, duplicates, integers, load_records, lowest_draws, repeated_ids


def distinct(files: Sequence[Path], config: CorpusConfig, aside: Path, dropped: Dropped | None = None) -> Any:
    """The records of documents that are not there twice, in id order; the others are dropped."""
    records = load_records(files)
    records = _without(records, repeated_ids(records), "repeated id", "an earlier row is {}", dropped)
    records = _without(records, duplicates(records), "duplicate", "of {}", dropped)
    if config.near_duplicates is not None and len(records):
        originals, alike = near_duplicates(records, config.near_duplicates, aside)
        records = _without(records, originals, "near duplicate", "{1:.2f} alike to {0}", dropped, alike)
    return records


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


def subset(records: Any, max_bytes: Sequence[int | None], dropped: Dropped) -> Any:
    """Of every source the documents drawn first, as many bytes of them as it may have; the others are dropped."""
    chosen = np.ones(len(records), bool)
    for source, limit in enumerate(max_bytes):
        if limit is not None:
            mine = np.flatnonzero(integers(records, "source") == source)
            chosen[mine] = lowest_draws(records.take(mine), limit)
    if chosen.all():
        return records
    for row in records.select(["id", "bytes"]).filter(~chosen).to_pylist():
        dropped.add(row["id"], "outside the subset", f"{row['bytes']} bytes")
    return records.filter(chosen)
