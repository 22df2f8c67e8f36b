"""Where documents come from: listing files, without reading them."""

import glob
import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import components
from components.corpus.config import CorpusConfig
from components.corpus.filters import Refusal, size_refusal

OWN_DISTRIBUTION = "headstart"
NEVER_ENTERED = frozenset({"__pycache__", ".git", ".hg", ".svn"})
"""Folders that hold no documents, only what a tool keeps."""


@dataclass(frozen=True)
class Found:
    """A file that may become a document."""

    id: str
    group: str
    path: str
    """Absolute; bytes of the name that are not UTF-8 are surrogates, as os.fsdecode makes them."""
    bytes: int


@dataclass(frozen=True)
class Listing:
    """All candidates of a source."""

    found: list[Found]
    """In id order."""
    refused: dict[str, Refusal]
    """By id: what needs no reading to be refused."""


@dataclass(frozen=True)
class _Root:
    label: str
    """First part of every id below it; empty for none."""
    folder: str
    left_out: frozenset[str] = frozenset()
    """Folders directly below it that are not part of it."""


def list_documents(config: CorpusConfig) -> Listing:
    """All candidates of a source. ValueError for a path that is not given or not there."""
    if config.source == "python":
        own = _own_folders()
        files = [
            (root.label, relative, path)
            for root in python_roots()
            for relative, path in _walk(root.folder, root.left_out, own)
            if path is None or (relative.endswith(".py") and not relative.startswith("__editable__"))
        ]
    else:
        files = [("", relative, path) for relative, path in _files_under(config)]
    found: list[Found] = []
    refused: dict[str, Refusal] = {}
    for label, relative, path in files:
        id = _printable(f"{label}/{relative}" if label else relative)
        outcome = _look_at(path, relative, config)
        if isinstance(outcome, Refusal):
            refused[id] = outcome
        else:
            top = PurePosixPath(_printable(relative)).parts[0]
            group = top.removesuffix(".py") if config.source == "python" else top
            found.append(Found(id, group, path or "", outcome))
    return Listing(sorted(found, key=lambda f: f.id), refused)


def source_identity(config: CorpusConfig) -> Any:
    """What identifies the outside input of `collect`, as JSON values; never an error: a plan must work without."""
    if config.source == "python":
        from importlib.metadata import distributions

        installed = {
            f"{d.metadata['Name']} {d.version}" for d in distributions() if d.metadata["Name"] != OWN_DISTRIBUTION
        }
        return {"python": sys.version, "distributions": sorted(installed)}
    if config.path is None:
        return {"path": None}
    digest, count, total = hashlib.sha256(), 0, 0
    try:
        files = sorted(_files_under(config))
    except ValueError:
        files = []
    for relative, path in files:
        size, modified = -1, -1
        if path is not None:
            try:
                status = Path(path).stat()
                size, modified = status.st_size, status.st_mtime_ns
            except OSError:
                pass
        digest.update(os.fsencode(f"{relative}\0{size}\0{modified}\n"))
        count, total = count + 1, total + max(size, 0)
    return {"path": str(_absolute(config.path)), "files": count, "bytes": total, "sizes_and_times": digest.hexdigest()}


def python_roots() -> list[_Root]:
    """The standard library, then every folder of installed packages on the path, each once."""
    roots = [_Root("stdlib", sysconfig.get_path("stdlib"), frozenset({"site-packages", "dist-packages"}))]
    seen = {os.path.realpath(roots[0].folder)}
    labels: dict[str, int] = {}
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path):
        name = Path(folder).name
        real = os.path.realpath(folder)
        if name not in ("site-packages", "dist-packages") or real in seen or not Path(real).is_dir():
            continue
        seen.add(real)
        labels[name] = labels.get(name, 0) + 1
        label = name if labels[name] == 1 else f"{name}-{labels[name]}"
        roots.append(_Root(label, folder))
    return roots


def _look_at(path: str | None, relative: str, config: CorpusConfig) -> int | Refusal:
    """The size of a file, or what rules it out unread."""
    if path is None:
        return Refusal("unreadable", "folder")
    vendored = set(PurePosixPath(relative).parts[:-1]) & set(config.vendored_folders)
    if vendored:
        return Refusal("vendored", f"in a folder {min(vendored)}")
    try:
        status = Path(path).stat()
    except OSError as error:
        return Refusal("unreadable", error.strerror or type(error).__name__)
    if not stat.S_ISREG(status.st_mode):
        return Refusal("not a regular file", stat.filemode(status.st_mode))
    return size_refusal(status.st_size, config) or status.st_size


def _files_under(config: CorpusConfig) -> Iterator[tuple[str, str | None]]:
    """(relative name, absolute path) of the files of source `files`."""
    if config.path is None:
        raise ValueError(
            "path is not set; the source 'files' needs a folder or a glob, for example corpus.path=/data/code "
            "or 'corpus.path=/data/code/**/*.py'"
        )
    path = _absolute(config.path)
    if os.path.isdir(path):  # noqa: PTH112  (unlike Path.is_dir, it never raises on a folder one may not enter)
        yield from _walk(str(path))
    elif os.path.exists(path):  # noqa: PTH110
        yield path.name, str(path)
    elif glob.has_magic(config.path):
        fixed = list(path.parts)
        while any(glob.has_magic(part) for part in fixed):
            fixed.pop()
        base = Path(*fixed)
        for match in glob.iglob(str(path), recursive=True):  # noqa: PTH207  (Path.glob differs between versions)
            if not os.path.isdir(match):  # noqa: PTH112
                yield os.path.relpath(match, base), match
    else:
        raise ValueError(f"path {path} does not exist or may not be entered; give a folder, a file or a glob")


def source_problems(config: CorpusConfig) -> list[str]:
    """What a run would trip over: a path that is not given or not there."""
    if config.source != "files":
        return []
    try:
        next(_files_under(config), None)
    except ValueError as error:
        return [f"corpus.{error}"]
    return []


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _own_folders() -> frozenset[tuple[int, int]]:
    """This project's own code (device and inode), which is no part of the corpus, linked or copied."""
    home = Path(components.__file__ or "").resolve().parents[1]
    folders = [folder for folder in (home, home / "components", home / "pipelines") if folder.is_dir()]
    return frozenset((folder.stat().st_dev, folder.stat().st_ino) for folder in folders)


def _walk(
    root: str, left_out: frozenset[str] = frozenset(), forbidden: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, str | None]]:
    """(relative name, path) of every file below a folder, each folder once however often links lead to it.
    The path is None for a folder that cannot be opened."""
    visited = set(forbidden)
    pending = [""]
    while pending:
        relative = pending.pop()
        folder = f"{root}/{relative}" if relative else root
        try:
            status = Path(folder).stat()
            if relative and (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            yield relative or ".", None
            continue
        folders = []
        for entry in entries:
            name = f"{relative}/{entry.name}" if relative else entry.name
            if not os.path.isdir(entry.path):  # noqa: PTH112
                yield name, entry.path
            elif entry.name not in NEVER_ENTERED and not (not relative and entry.name in left_out):
                folders.append(name)
        pending.extend(reversed(folders))


def _printable(name: str) -> str:
    """A name as valid text: bytes that are not UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")
