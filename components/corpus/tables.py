"""Tables as sources: which files count, and the pieces that tasks read them in."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from components.corpus.blocks import Mapper
from components.corpus.config import CorpusConfig
from components.corpus.filters import Refusal
from components.corpus.jsonl import RANGE_BYTES, check_jsonl
from components.corpus.listing import Listed, compression, list_files, printable
from components.corpus.parquet import parquet_pieces
from components.corpus.pieces import Piece, Skipped, SourceFault
from components.corpus.remote import is_uri

ENDINGS = {"parquet": (".parquet", ".parq", ".pq"), "jsonl": (".jsonl", ".ndjson")}
LOOK_AT = 32
"""Parquet files whose ends one task looks at."""


def table_pieces(config: CorpusConfig, prefix: str, mapper: Mapper) -> Iterator[Piece | Skipped]:
    """The pieces of a table's files. SourceFault names a file without the columns asked for: any of Parquet, the first
    of JSON lines, of which later ones are left out line by line."""
    waiting: list[Listed] = []
    looked_at = False
    for file in list_files(config.path):
        id = f"{prefix}{printable(file.name)}"
        if file.refusal is not None:
            yield Skipped(id, file.refusal)
        elif not is_table(file, config.source):
            yield Skipped(id, Refusal("other format", f"does not end in {' or '.join(ENDINGS[config.source])}"))
        elif file.bytes == 0:
            yield Skipped(id, Refusal("empty", "0 bytes"))
        elif config.source == "parquet":
            waiting.append(file)
        else:
            if not looked_at:
                check_jsonl(file.path, config)
                looked_at = True
            ranges = range(0, file.bytes, RANGE_BYTES)
            spans = [(start, min(start + RANGE_BYTES, file.bytes)) for start in ranges]
            for span in [None] if compression(file.path) else spans:
                yield Piece(id, id, file.path, span[1] - span[0] if span else file.bytes, span)
    work = [
        {"config": asdict(config), "files": [[printable(f.name), f.path] for f in waiting[i : i + LOOK_AT]]}
        for i in range(0, len(waiting), LOOK_AT)
    ]
    for answer in mapper(look_at_parquet, work):
        if answer["fault"]:
            raise SourceFault(answer["fault"])
        for name, reason, detail in answer["refused"]:
            yield Skipped(f"{prefix}{name}", Refusal(reason, detail))
        for name, path, index, first, size in answer["pieces"]:
            yield Piece(f"{prefix}{name}", f"{prefix}{name}", path, size, (index, first))


def table_problem(config: CorpusConfig) -> str | None:
    """What the first file of a local table tells: that none has the right ending, or that a column is not there.
    Behind a URI a plan does not look, since that may take long."""
    assert config.path is not None
    if is_uri(config.path):
        return None
    first = next((file for file in list_files(config.path) if is_table(file, config.source) and file.bytes), None)
    if first is None:
        return f"path {config.path} has no file that ends in {' or '.join(ENDINGS[config.source])}"
    try:
        if config.source == "jsonl":
            check_jsonl(first.path, config)
        else:
            parquet_pieces(first.path, config)
    except SourceFault as fault:
        return str(fault)
    except (OSError, ValueError):  # a broken file is a counted skip
        return None
    return None


def is_table(file: Listed, source: str) -> bool:
    """Whether a file's name is that of a table of the source's kind."""
    name = file.name.lower()
    if source == "jsonl" and compression(name):
        name = name.rpartition(".")[0]
    return name.endswith(ENDINGS[source])


def look_at_parquet(block: dict[str, Any]) -> dict[str, Any]:
    """What some Parquet files hold, from their ends alone."""
    config = CorpusConfig(**block["config"])
    pieces: list[list[Any]] = []
    refused: list[list[str]] = []
    for name, path in block["files"]:
        try:
            found = parquet_pieces(path, config)
        except SourceFault as fault:
            return {"fault": str(fault), "pieces": [], "refused": []}
        except (OSError, ValueError) as error:
            refused.append([name, "broken file", " ".join(str(error).split())])
            continue
        if not found:
            refused.append([name, "empty", "no rows"])
        pieces += [[name, path, *piece] for piece in found]
    return {"fault": "", "pieces": pieces, "refused": refused}
