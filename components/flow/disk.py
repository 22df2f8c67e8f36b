"""A disk that takes no more: said so that a person knows which one and what to do."""

import errno
import os
import shutil
from pathlib import Path

from components.flow.quantity import size

WORDS = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EROFS: "Read-only file system",
}
"""In an error of a library that keeps no number."""


def full_disk(error: BaseException, directory: Path) -> str | None:
    """A sentence on an error in writing below `directory` that will come again until a person has made room, or
    None for any other error."""
    said = str(error)
    number = getattr(error, "errno", None)
    found = next((words for known, words in WORDS.items() if known == number or words in said), None)
    if found is None:
        return None
    where = Path(getattr(error, "filename", None) or directory)
    free = size(shutil.disk_usage(nearest(where)).free)
    return f"{found} ({free} free at {where}): mend that, then give the same command again; it goes on from here"


def no_place(workspace: Path) -> str | None:
    """Why a workspace, which need not exist yet, cannot be written; None when nothing speaks against it."""
    there = nearest(workspace)
    why = None
    if not there.is_dir():
        why = f"{there} is a file"
    elif os.statvfs(there).f_flag & os.ST_RDONLY:
        why = WORDS[errno.EROFS]
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"{there} may not be written"
    elif shutil.disk_usage(there).total == 0:
        why = f"{there} keeps no files"
    return f"workspace={workspace} cannot be written: {why}; give another" if why else None


def nearest(path: Path) -> Path:
    """A path, or of the folders above it the first that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
