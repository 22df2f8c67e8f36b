"""Which files a path names, a folder, a file or a glob, without reading them; and how one of them is opened."""

import glob
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.corpus.filters import Refusal
from components.corpus.remote import fault_of, glob_pattern, list_remote, local_path, open_remote, split_uri

NEVER_ENTERED = frozenset({"__pycache__", ".git", ".hg", ".svn"})
"""Folders that hold no documents, only what a tool keeps."""
UNREADABLE_FOLDER = Refusal("unreadable", "folder")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""Files with these endings are read unpacked, one from its beginning to its end."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file by its name."""

    name: str
    """Relative to the folder, or to the fixed part of the glob; bytes that are not UTF-8 are surrogates, as
    os.fsdecode makes them."""
    path: str
    """Absolute, or as its filesystem names it."""
    bytes: int
    """As it lies there, packed or not; -1 when unknown."""
    modified: int
    """Nanoseconds; -1 when unknown."""
    refusal: Refusal | None = None
    """Why it cannot be read."""


def list_files(path: str | None) -> Iterator[Listed]:
    """The files that a path or URI names, in an order of their own. ValueError when there is nothing to look at."""
    if path is None:
        raise ValueError(
            "path is not set; give a folder, a file, a glob or a URI, for example corpus.path=/data/code, "
            "'corpus.path=/data/code/**/*.py' or corpus.path=s3://bucket/folder"
        )
    local = local_path(path)
    if local is None:
        for file in list_remote(path):
            if not NEVER_ENTERED & set(file.name.split("/")[:-1]):
                yield Listed(file.name, file.path, file.bytes, file.modified)
        return
    place = absolute(local)
    if os.path.isdir(place):  # noqa: PTH112  (unlike Path.is_dir, it never raises on a folder one may not enter)
        yield from walk(str(place))
    elif os.path.exists(place):  # noqa: PTH110
        yield _listed(place.name, str(place))
    elif glob.has_magic(str(place)):
        yield from _matches(place)
    else:
        raise ValueError(f"path {place} does not exist or may not be entered; give a folder, a file or a glob")


def path_problem(path: str | None) -> str | None:
    """Why `list_files` would name no file, in a sentence. Of a folder behind a URI only whether it is there is asked:
    to list it may take long."""
    if path is not None and local_path(path) is None and not split_uri(path)[1]:
        return fault_of(path)
    try:
        first = next(list_files(path), None)
    except ValueError as error:
        return str(error)
    if first is None:
        return f"path {path} names no file; give a folder with files, or a glob that matches some"
    return None


def absolute(path: str) -> Path:
    """A path of this machine, home folder and current folder filled in."""
    return Path(path).expanduser().absolute()


def printable(name: str) -> str:
    """A name as valid text: bytes that are not UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _matches(pattern: Path) -> Iterator[Listed]:
    """The files that a glob names, and the folders on the way that cannot be opened. A walk and not the library's
    glob, which follows a loop of links as deep as names may be long."""
    fixed = list(pattern.parts)
    while any(glob.has_magic(part) for part in fixed):
        fixed.pop()
    below = pattern.parts[len(fixed) :]
    if not os.path.isdir(Path(*fixed)):  # noqa: PTH112
        return
    wanted = glob_pattern("/".join(below))
    depth = None if any("**" in part for part in below) else len(below)
    for file in walk(str(Path(*fixed)), depth=depth):
        if wanted.fullmatch(file.name) or file.refusal == UNREADABLE_FOLDER:
            yield file


def walk(
    root: str,
    left_out: frozenset[str] = frozenset(),
    forbidden: frozenset[tuple[int, int]] = frozenset(),
    depth: int | None = None,
) -> Iterator[Listed]:
    """Every file below a folder, at most `depth` names down, each folder once however often links lead to it. A folder
    that cannot be opened is listed in place of what is in it."""
    visited = set(forbidden)
    pending = [("", 0)]
    while pending:
        relative, level = pending.pop()
        folder = f"{root}/{relative}" if relative else root
        try:
            status = Path(folder).stat()
            if relative and (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            yield Listed(relative or ".", folder, -1, -1, UNREADABLE_FOLDER)
            continue
        folders = []
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            if not os.path.isdir(entry.path):  # noqa: PTH112
                yield _listed(name, entry.path)
            elif entry.name not in NEVER_ENTERED and not (not relative and entry.name in left_out):
                folders.append(name)
        if depth is None or level + 1 < depth:
            pending.extend((name, level + 1) for name in reversed(folders))


def _listed(name: str, path: str) -> Listed:
    try:
        status = Path(path).stat()
    except OSError as error:
        return Listed(name, path, -1, -1, Refusal("unreadable", error.strerror or type(error).__name__))
    refusal = None
    if not stat.S_ISREG(status.st_mode):
        refusal = Refusal("not a regular file", stat.filemode(status.st_mode))
    return Listed(name, path, status.st_size, status.st_mtime_ns, refusal)


def compression(path: str) -> str | None:
    """What a file is packed with, by its ending."""
    return next((kind for ending, kind in COMPRESSIONS.items() if path.lower().endswith(ending)), None)


def open_file(source: str | None, path: str) -> io.BufferedReader:
    """Open a file that `list_files(source)` named, as its bytes lie there; `source` None: a path of this machine."""
    if source is not None and local_path(source) is None:
        return open_remote(source, path)
    return Path(path).open("rb")


def unpacked(file: io.BufferedReader, path: str) -> Any:
    """An open file, or a stream of what is packed in it. Reading on raises OSError where it is cut short or broken."""
    kind = compression(path)
    if kind is None:
        return file
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), kind), 1 << 16)
