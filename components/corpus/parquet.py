"""Rows of Parquet files: a look at their ends tells what they hold, then each row group is read by itself."""

from collections.abc import Iterator
from typing import Any

from components.corpus.config import CorpusConfig
from components.corpus.filters import Refusal
from components.corpus.listing import open_file
from components.corpus.pieces import Piece, Raw, Skipped, SourceFault

BATCH_BYTES = 4_000_000
"""About how much of a row group is in memory at a time."""
BUFFER_BYTES = 1 << 20
"""How much of a column is fetched at a time."""


def parquet_pieces(path: str, config: CorpusConfig) -> list[tuple[int, int, int]]:
    """(row group, its first row, bytes of text) of a file's row groups. SourceFault for a column that is not there
    or holds no text; OSError or ValueError for a file that is no Parquet."""
    import pyarrow.parquet as pq

    with open_file(config.path, path) as file, pq.ParquetFile(file) as table:
        _check_columns(path, table.schema_arrow, config)
        pieces, first = [], 0
        for index in range(table.num_row_groups):
            group = table.metadata.row_group(index)
            columns = (group.column(i) for i in range(group.num_columns))
            size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == config.text_column)
            if group.num_rows:
                pieces.append((index, first, size))
            first += group.num_rows
        return pieces


def _check_columns(path: str, schema: Any, config: CorpusConfig) -> None:
    import pyarrow as pa

    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    for field in ("text_column", "id_column", "group_column"):
        name = getattr(config, field)
        if name is not None and name not in schema.names:
            raise SourceFault(f"path {path} has no column {name!r}; it has {there}. Give another {field}")
    kind = schema.field(config.text_column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
    if kind not in text:
        raise SourceFault(f"path {path} has no text in column {config.text_column!r} but {kind}; it has {there}")


def parquet_rows(piece: Piece, config: CorpusConfig, prefix: str) -> Iterator[Raw | Skipped]:
    """The documents of one row group. What follows a damaged page is left out as a whole."""
    import pyarrow.parquet as pq

    assert piece.span is not None
    index, row = piece.span
    wanted = dict.fromkeys((config.text_column, config.id_column, config.group_column))
    columns = [name for name in wanted if name is not None]
    streamed = {"buffer_size": BUFFER_BYTES, "pre_buffer": False}  # else a whole column of the row group is fetched
    with open_file(config.path, piece.path) as file, pq.ParquetFile(file, **streamed) as table:
        group = table.metadata.row_group(index)
        rows = max(1, min(4096, BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1)))
        try:
            for batch in table.iter_batches(rows, row_groups=[index], columns=columns, use_threads=False):
                values = [_cells(batch.column(name), name == config.text_column) for name in columns]
                for cells in zip(*values, strict=True):
                    yield _document(dict(zip(columns, cells, strict=True)), row, piece, config, prefix)
                    row += 1
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            yield Skipped(f"{piece.id}:{row:09d}-", Refusal("broken file", f"row group {index}: {reason}"))


def _cells(column: Any, text: bool) -> list[Any]:
    """Values for Python; of the text its bytes, as what is not UTF-8 is for the filters to say."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return list((column.cast(pa.large_binary()) if text else column).to_pylist())


def _document(cells: dict[str, Any], row: int, piece: Piece, config: CorpusConfig, prefix: str) -> Raw | Skipped:
    id, group = f"{piece.id}:{row:09d}", piece.group
    if config.id_column is not None and cells[config.id_column] is not None:
        id = f"{prefix}{cells[config.id_column]}"
    if config.group_column is not None and cells[config.group_column] is not None:
        group = str(cells[config.group_column])
    text = cells[config.text_column]
    if text is None:
        return Skipped(id, Refusal("no text", "null"))
    return Raw(id, group, text)
