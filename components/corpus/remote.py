"""Files behind URIs (`s3://…`, `gs://…`, `hdfs://…`), on any filesystem that pyarrow opens: listing and opening them.

What does not answer is told in bounded time; what stops answering later ends the run, as a file left out for the
network's sake would change the corpus.
"""

import contextlib
import functools
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from threading import Timer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

ANSWER_SECONDS = 8
"""How long a filesystem may take to say whether a path is there. (S3 gives up on an unknown host after 6.)"""

SILENT_SECONDS = 3
"""After which a person is told what takes so long. (S3 lists about a thousand files a request.)"""

_PROBE = """
import sys
from pyarrow.fs import FileSystem
try:
    filesystem, path = FileSystem.from_uri(sys.stdin.read())
    print(filesystem.get_file_info(path).type.name)
except Exception as error:
    print(f"{type(error).__name__}: {' '.join(str(error).split())}")
"""


class Unreachable(RuntimeError):
    """A file behind a URI could not be read. Not an OSError: it must not be taken for a file that is broken."""


class Remote(NamedTuple):
    """A file as a filesystem lists it."""

    name: str
    """Relative to the URI's fixed part."""
    path: str
    """As the filesystem names it."""
    bytes: int
    modified: int
    """Nanoseconds; 0 where the filesystem does not tell."""


def is_uri(path: str) -> bool:
    """Whether this is a URI with a scheme; everything else is a path of this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def local_path(path: str) -> str | None:
    """The path of this machine that a path or a `file://` URI names; None for other URIs."""
    if not is_uri(path):
        return path
    parts = urlsplit(path)
    return unquote(parts.path) if parts.scheme == "file" else None


def split_uri(uri: str) -> tuple[str, str]:
    """The fixed part of a URI, and the glob below it; `""` when there is none."""
    parts = urlsplit(uri)
    folders = parts.path.split("/")
    magic = next((i for i, folder in enumerate(folders) if re.search(r"[*\[]", folder)), len(folders))
    return urlunsplit(parts._replace(path="/".join(folders[:magic]))), "/".join(folders[magic:])


def fault_of(uri: str) -> str | None:
    """Why nothing can be read there, in a sentence; None when something is there."""
    if urlsplit(uri).password is not None:
        return "path has a password in it; give it to the filesystem by the environment, as in AWS_SECRET_ACCESS_KEY"
    base, _ = split_uri(uri)
    said = _probe(base)
    if said in ("File", "Directory"):
        return None
    if said == "NotFound":
        return f"path {base} does not exist"
    if "Unrecognized filesystem" in said:
        return f"path {base} has a scheme that pyarrow does not know; it knows file, s3, gs, abfs and hdfs"
    return f"path {base} cannot be read: {said}"


@functools.lru_cache
def _probe(base: str) -> str:
    """What the filesystem says of a path: its type or an error. In a process of its own, as the clients of some
    filesystems try for minutes and cannot be stopped."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE],
            input=base,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER_SECONDS} seconds"
    return (result.stdout.strip() or result.stderr.strip() or "no answer").splitlines()[-1]


@functools.lru_cache
def _filesystem(base: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    filesystem, path = FileSystem.from_uri(base)
    return filesystem, path.rstrip("/")


@contextlib.contextmanager
def _said_after(seconds: float, words: str) -> Iterator[None]:
    """Print a line to standard error when what is inside takes longer."""
    timer = Timer(seconds, lambda: print(words, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def list_remote(uri: str) -> list[Remote]:
    """The files under a URI in name order. ValueError when nothing can be read there."""
    from pyarrow.fs import FileSelector, FileType

    if fault := fault_of(uri):
        raise ValueError(fault)
    base, pattern = split_uri(uri)
    wanted = glob_pattern(pattern) if pattern else None
    try:
        filesystem, root = _filesystem(base)
        info = filesystem.get_file_info(root)
        if info.type == FileType.File:
            return [Remote(info.base_name, info.path, info.size, info.mtime_ns or 0)]
        with _said_after(
            SILENT_SECONDS, f"listing {base}: what a run is made from is told by every file's size and time"
        ):
            listed = filesystem.get_file_info(FileSelector(root, recursive=True))
    except OSError as error:
        raise ValueError(f"path {base} cannot be listed: {error}") from error
    found = [
        Remote(info.path.removeprefix(root).lstrip("/"), info.path, info.size, info.mtime_ns or 0)
        for info in listed
        if info.type == FileType.File
    ]
    return sorted(file for file in found if wanted is None or wanted.fullmatch(file.name))


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as a pattern of whole relative paths: `*` and `?` stay within a folder, `**` spans any number of them,
    and as in a shell none of them finds a name that begins with a dot."""
    out = ""
    for token in re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", glob):
        visible = r"(?!\.)" if not out or out.endswith(("/", "/)*")) else ""
        if token == "**/":
            out += r"(?:(?!\.)[^/]+/)*"
        elif token == "**":
            out += rf"{visible}[^/]*(?:/(?!\.)[^/]+)*"
        elif token == "*":
            out += f"{visible}[^/]*"
        elif token == "?":
            out += f"{visible}[^/]"
        elif token.startswith("["):
            inner = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            out += f"{visible}(?!/)[{'^' + inner[1:] if inner[0] == '!' else inner}]"
        else:
            out += re.escape(token)
    return re.compile(out, re.DOTALL)


def open_remote(uri: str, path: str) -> io.BufferedReader:
    """Open a file that `list_remote(uri)` named. Unreachable when it cannot be read, then or later."""
    try:
        filesystem, _ = _filesystem(split_uri(uri)[0])
        return io.BufferedReader(_Raw(filesystem.open_input_file(path), path), 1 << 20)
    except OSError as error:
        raise Unreachable(f"{path} cannot be opened: {error}") from error


class _Raw(io.RawIOBase):
    """A file of pyarrow whose failures cannot be taken for those of its content."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path = file, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except OSError as error:
            raise Unreachable(f"{self._path} stopped answering: {error}") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
