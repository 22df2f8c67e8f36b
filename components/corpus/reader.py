"""Reading a corpus from disk without holding it: where its documents are, and their texts one at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path


@dataclass(frozen=True, order=True)
class Place:
    """Where a document stands. Places sort in id order."""

    file: str
    """Relative to the corpus."""
    row_group: int
    row: int
    id: str


def row_groups(directory: Path, split: str) -> list[tuple[str, int]]:
    """(file, row group) of a split, in id order. A row group holds about 2 MB of text."""
    import pyarrow.parquet as pq

    return [
        (str(part.relative_to(directory)), index)
        for part in sorted((directory / split).glob("part-*.parquet"))
        for index in range(pq.read_metadata(part).num_row_groups)
    ]


def read_row_group(directory: Path, file: str, row_group: int, *columns: str) -> tuple[list[str], ...]:
    """The named columns of one row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(directory / file) as part:
        table = part.read_row_group(row_group, columns=list(columns))
    return tuple(table.column(name).to_pylist() for name in columns)


def places(directory: Path, split: str) -> Iterator[Place]:
    """Every document of a split, in id order, without its text."""
    import pyarrow.parquet as pq

    for path in sorted((directory / split).glob("part-*.parquet")):
        file = str(path.relative_to(directory))
        with pq.ParquetFile(path) as part:
            for index in range(part.num_row_groups):
                ids = part.read_row_group(index, columns=["id"]).column("id").to_pylist()
                for row, id in enumerate(ids):
                    yield Place(file, index, row, id)


def fetch(directory: Path, wanted: Iterable[Place]) -> Iterator[tuple[str, str]]:
    """(id, text) of the wanted documents in id order, one row group in memory at a time."""
    for (file, index), group in groupby(sorted(wanted), key=lambda place: (place.file, place.row_group)):
        ids, texts = read_row_group(directory, file, index, "id", "text")
        for place in group:
            assert ids[place.row] == place.id, (place, ids[place.row])
            yield place.id, texts[place.row]
