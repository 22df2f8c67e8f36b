"""Where documents come from: the pieces of a source, what identifies it, and what a run would trip over."""

import hashlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

from components.corpus.blocks import Mapper
from components.corpus.config import CorpusConfig
from components.corpus.filters import Refusal, size_refusal
from components.corpus.installed import installed_files, installed_versions
from components.corpus.licences import licence_check
from components.corpus.listing import Listed, compression, list_files, path_problem, printable
from components.corpus.pieces import Piece, Skipped
from components.corpus.prose import is_documentation
from components.corpus.tables import ENDINGS, is_table, table_pieces, table_problem


def list_pieces(config: CorpusConfig, prefix: str, mapper: Mapper) -> Iterator[Piece | Skipped]:
    """What there is to read, and what needs no reading to be left out; ids begin with `prefix`.

    ValueError for a path that is not given, not there or does not answer, or a column that is not there.
    """
    if config.source in ENDINGS:
        yield from table_pieces(config, prefix, mapper)
    elif config.path is not None or config.source == "files":
        for file in list_files(config.path):
            if file.refusal is not None or config.source == "files" or is_documentation(file.name):
                group = PurePosixPath(printable(file.name)).parts[0]
                yield _file_piece(file, f"{prefix}{printable(file.name)}", group, config)
    else:
        check = licence_check(config.licences) if config.licences is not None else None
        wanted = is_documentation if config.source == "prose" else _is_python
        for root, file in installed_files():
            if file.refusal is not None or wanted(file.name):
                id = f"{prefix}{root.label}/{printable(file.name)}"
                piece = _file_piece(file, id, _package(printable(file.name)), config)
                refusal = check(root, file.name) if check and isinstance(piece, Piece) else None
                yield Skipped(id, refusal) if refusal else piece


def _is_python(name: str) -> bool:
    return name.endswith(".py")


def _package(name: str) -> str:
    """The package that an installed file belongs to, by its name: `numpy` for `numpy/__init__.py` and for
    `numpy-2.4.6.dist-info/METADATA`."""
    top = PurePosixPath(name).parts[0]
    return top.partition("-")[0].lower() if top.endswith((".dist-info", ".egg-info")) else top.removesuffix(".py")


def _file_piece(file: Listed, id: str, group: str, config: CorpusConfig) -> Piece | Skipped:
    """A file as a piece, or what rules it out unread."""
    if file.refusal is not None:
        return Skipped(id, file.refusal)
    vendored = set(PurePosixPath(file.name).parts[:-1]) & set(config.vendored_folders)
    if vendored:
        return Skipped(id, Refusal("vendored", f"in a folder {min(vendored)}"))
    refusal = None if compression(file.name) else size_refusal(file.bytes, config)
    return Skipped(id, refusal) if refusal else Piece(id, group, file.path, file.bytes)


def source_identity(config: CorpusConfig) -> Any:
    """What identifies the outside input of `collect`, as JSON values; never an error: a plan must work without."""
    if config.mixture:
        return {name: source_identity(part) for name, part in config.parts().items()}
    if config.source in ("python", "prose") and config.path is None:
        return installed_versions()
    digest, count, total, packed = hashlib.sha256(), 0, 0, 0
    try:
        for file in list_files(config.path):
            if config.source in ENDINGS and not is_table(file, config.source):
                continue  # left out unread
            digest.update(os.fsencode(f"{file.name}\0{file.bytes}\0{file.modified}\n"))
            count, total = count + 1, total + max(file.bytes, 0)
            if compression(file.name) or config.source == "parquet":
                packed += max(file.bytes, 0)
    except ValueError:
        return {"path": config.path, "files": 0}
    return {
        "path": config.path,
        "files": count,
        "bytes": total,
        "packed_bytes": packed,
        "sizes_and_times": digest.hexdigest(),
    }


def source_problems(config: CorpusConfig) -> list[str]:
    """What a run would trip over, a sentence each with the mend."""
    problems = []
    if config.near_duplicates is not None and find_spec("datasketch") is None:
        problems.append("corpus.near_duplicates needs the package datasketch: pip install 'headstart[dedup]'")
    for name, part in config.parts().items():
        if part.path is not None or part.source not in ("python", "prose"):
            problem = path_problem(part.path)
            if problem is None and part.source in ENDINGS:
                problem = table_problem(part)
            problems += [f"corpus.{f'mixture.{name}.' if config.mixture else ''}{problem}"] if problem else []
    return problems
