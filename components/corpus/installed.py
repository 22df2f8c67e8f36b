"""The Python that this interpreter has: its standard library and the installed packages, as files on disk."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import components
from components.corpus.listing import Listed, walk

OWN_DISTRIBUTION = "headstart"


@dataclass(frozen=True)
class Root:
    """A folder that Python imports from."""

    label: str
    """First part of every id below it."""
    folder: str
    left_out: frozenset[str] = frozenset()
    """Folders directly below it that are not part of it."""
    is_library: bool = False
    """Whether it is the standard library."""


def installed_files() -> Iterator[tuple[Root, Listed]]:
    """Every file of the library and of the packages but this project's own, and folders that cannot be opened."""
    own = _own_folders()
    for root in python_roots():
        for file in walk(root.folder, root.left_out, own):
            if not file.name.startswith("__editable__"):
                yield root, file


def python_roots() -> list[Root]:
    """The standard library, then every folder of installed packages on the path, each once."""
    roots = [Root("stdlib", sysconfig.get_path("stdlib"), frozenset({"site-packages", "dist-packages"}), True)]
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
        roots.append(Root(label, folder))
    return roots


def installed_versions() -> dict[str, object]:
    """What identifies the installed Python: its version and those of the packages, this project aside."""
    from importlib.metadata import distributions

    installed = {f"{d.metadata['Name']} {d.version}" for d in distributions() if d.metadata["Name"] != OWN_DISTRIBUTION}
    return {"python": sys.version, "distributions": sorted(installed)}


def _own_folders() -> frozenset[tuple[int, int]]:
    """This project's own code (device and inode), which is no part of the corpus, linked or copied."""
    home = Path(components.__file__ or "").resolve().parents[1]
    folders = [folder for folder in (home, home / "components", home / "pipelines") if folder.is_dir()]
    return frozenset((folder.stat().st_dev, folder.stat().st_ino) for folder in folders)
