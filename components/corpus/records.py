"""What the driver holds of every document that passed: an Arrow table of about a hundred bytes a row, no texts.

Decisions are made on it in id order, as arrays: which rows are kept is a mask, what a row duplicates is an index.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RECORDS_AT_A_TIME = 4000

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def schema() -> Any:
    """Columns of a record."""
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.large_string()),
            ("group", pa.large_string()),
            ("source", pa.int16()),  # its place among the parts of the mixture
            ("bytes", pa.int64()),
            ("draw", pa.uint64()),  # by which a subset is chosen, the lowest first
            ("content", pa.binary(32)),  # sha256 of the text
            ("loose", pa.binary(16)),  # of the text without white space
            ("file", pa.int32()),  # number of the file that the text was put aside in
            ("row", pa.int32()),  # its place in that file
            ("offset", pa.int64()),
        ]
    )


class RecordWriter:
    """Writes records, a few thousand in memory at a time."""

    def __init__(self, target: Path) -> None:
        import pyarrow as pa

        self._file = pa.OSFile(str(target), "wb")
        self._writer = pa.ipc.new_file(self._file, schema())
        self._waiting: list[Mapping[str, Any]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        self._waiting.append(record)
        if len(self._waiting) >= RECORDS_AT_A_TIME:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, schema=schema()))
        self._waiting = []


def load_records(files: Sequence[Path]) -> Any:
    """The records that workers wrote, in id order; of equal ids in the order of files and rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = [schema().empty_table()]
    for path in files:
        with pa.memory_map(str(path)) as source:
            tables.append(pa.ipc.open_file(source).read_all())
    records = pa.concat_tables(tables)
    order = pc.sort_indices(records, sort_keys=[("id", "ascending"), ("file", "ascending"), ("row", "ascending")])
    return records.take(order)


def integers(records: Any, column: str) -> npt.NDArray[Any]:
    """A column of numbers."""
    values: npt.NDArray[Any] = records.column(column).to_numpy()
    return values


def repeated_ids(records: Any) -> Rows:
    """Of every row the first row with its id, or -1 where it is the first."""
    import pyarrow.compute as pc

    rows = np.arange(len(records))
    if len(records) < 2:
        return np.full(len(records), -1)
    ids = records.column("id")
    same = np.concatenate([[False], pc.equal(ids.slice(1), ids.slice(0, len(records) - 1)).to_numpy()])
    first = np.maximum.accumulate(np.where(same, 0, rows))
    return np.where(same, first, -1)


def duplicates(records: Any) -> Rows:
    """Of every row the lowest row with the same text, white space aside, or -1 where it is the lowest."""
    halves = _halves(records.column("loose"))
    rows = np.arange(len(records))
    order = np.lexsort((rows, halves[:, 0], halves[:, 1]))
    sorted_halves = halves[order]
    same = np.concatenate([[False], (sorted_halves[1:] == sorted_halves[:-1]).all(axis=1)])[: len(rows)]
    first = np.maximum.accumulate(np.where(same, 0, rows))
    result = np.full(len(rows), -1)
    result[order[same]] = order[first[same]]
    return result


def _halves(column: Any) -> npt.NDArray[np.uint64]:
    """Values of 16 bytes as pairs of numbers."""
    chunks = [
        np.frombuffer(chunk.buffers()[1], "<u8", 2 * len(chunk), 16 * chunk.offset).reshape(-1, 2)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(chunks) if chunks else np.zeros((0, 2), np.uint64)


def lowest_draws(records: Any, max_bytes: int) -> Mask:
    """About `max_bytes` of text, the rows drawn first: the last one drawn may exceed it."""
    draws, sizes = integers(records, "draw"), integers(records, "bytes")
    order = np.argsort(draws, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(records), bool)
    chosen[order[before < max_bytes]] = True
    return chosen


def runs(sizes: npt.NDArray[Any], n_bytes: int) -> Iterator[slice]:
    """Runs of rows of about `n_bytes`: a run ends with the row that fills it."""
    ends = np.cumsum(sizes)
    start, done = 0, 0
    while start < len(sizes):
        stop = min(int(np.searchsorted(ends, done + n_bytes)) + 1, len(sizes))
        yield slice(start, stop)
        start, done = stop, int(ends[stop - 1])
