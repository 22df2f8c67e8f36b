"""Rows of files with one JSON object a line, read in ranges of bytes so that many tasks share a large file."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from components.corpus.config import CorpusConfig
from components.corpus.filters import Refusal
from components.corpus.listing import open_file, unpacked
from components.corpus.pieces import Piece, Raw, Skipped, SourceFault

RANGE_BYTES = 8_000_000
"""Bytes of one piece. A packed file is one piece: it can only be read from its beginning."""
MAX_LINE_BYTES = 64_000_000
"""A longer line is passed over, never held."""
LOOK_AT_LINES = 100
"""Of a file whose columns are asked for before anything is read: a row may lack what others have."""


def jsonl_rows(piece: Piece, config: CorpusConfig, prefix: str) -> Iterator[Raw | Skipped]:
    """The documents of the lines that begin in the piece's range, or in the whole of a packed file.

    A line that is no document is left out by itself, and what follows a break in a packed file is left out as a
    whole.
    """
    start, end = piece.span or (0, None)
    begun = f"line {{}} after byte {start}" if start else "line {}"
    offset, number = start, 0
    with open_file(config.path, piece.path) as file:
        stream = unpacked(file, piece.path)
        if start:
            stream.seek(start - 1)
            offset += _line(stream)[1] - 1  # to the first line that begins here
        try:
            while end is None or offset < end:
                line, size = _line(stream)
                if not size:
                    break
                number += 1
                id, where = f"{piece.id}:{offset:012d}", begun.format(number)
                offset += size
                if line is None:
                    yield Skipped(id, Refusal("too large", f"{where}: {size} bytes"))
                    continue
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield Skipped(id, Refusal("broken row", f"{where}: {error}"))
                    continue
                document = _document(row, id, piece.group, config, prefix)
                if isinstance(document, str):
                    yield Skipped(id, Refusal("broken row", f"{where} {document}"))
                else:
                    yield document
        except OSError as error:
            yield Skipped(f"{piece.id}:{offset:012d}-", Refusal("broken file", f"after line {number}: {error}"))


def check_jsonl(path: str, config: CorpusConfig) -> None:
    """SourceFault when a file begins with rows of which none is of use. One that cannot be read passes: reading it
    will tell, as a counted skip."""
    useless = ""
    with contextlib.suppress(OSError), open_file(config.path, path) as file:
        stream = unpacked(file, path)
        for number in range(1, LOOK_AT_LINES + 1):
            line, size = _line(stream)
            if not size:
                break
            try:
                document = _document(json.loads(line or ""), "", "", config, "")
            except (ValueError, RecursionError):
                continue
            if not isinstance(document, str):
                return
            useless = useless or f"line {number} {document}"
    if useless:
        raise SourceFault(
            f"path {path} has no row of use at its beginning: {useless}. Give another text_column, or name the files "
            "with a glob"
        )


def _line(stream: Any) -> tuple[bytes | None, int]:
    """The next line and its length; None for a line too long to hold, length 0 at the end."""
    line: bytes = stream.readline(MAX_LINE_BYTES)
    size = len(line)
    if size < MAX_LINE_BYTES or line.endswith(b"\n"):
        return line, size
    while line and not line.endswith(b"\n"):
        line = stream.readline(1 << 20)
        size += len(line)
    return None, size


def _document(row: Any, id: str, group: str, config: CorpusConfig, prefix: str) -> Raw | Skipped | str:
    """The document of a row, or what is wrong with it."""
    if not isinstance(row, dict):
        return f"is no JSON object but {type(row).__name__}"
    wanted = [name for name in (config.text_column, config.id_column, config.group_column) if name is not None]
    if lacking := [name for name in wanted if name not in row]:
        return f"has no {' and no '.join(lacking)}; it has {', '.join(map(str, row))}"
    text = row[config.text_column]
    if text is not None and not isinstance(text, str):
        return f"has a {type(text).__name__} as {config.text_column}, not a text"
    if config.id_column is not None and row[config.id_column] is not None:
        id = f"{prefix}{_name(row[config.id_column])}"
    if config.group_column is not None and row[config.group_column] is not None:
        group = _name(row[config.group_column])
    if text is None:
        return Skipped(id, Refusal("no text", "null"))
    try:
        return Raw(id, group, text.encode())
    except UnicodeEncodeError as error:  # half of a surrogate pair
        return Skipped(id, Refusal("not UTF-8", f"U+{ord(text[error.start]):04X} at character {error.start}"))


def _name(value: Any) -> str:
    """A value as valid text: half of a surrogate pair is written out."""
    return str(value).encode("utf-8", errors="backslashreplace").decode()
