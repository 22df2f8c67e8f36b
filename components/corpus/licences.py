"""Under which licence an installed file is, by the metadata of its package, and whether that is allowed.

By metadata and not by headers, as hardly a tenth of all files carry one. Copies of other people's code inside a
package are left out before, as vendored.
"""

import csv
import os
import re
from collections.abc import Callable, Collection
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import PurePosixPath
from typing import Any

from components.corpus.filters import Refusal
from components.corpus.installed import Root
from components.corpus.licence_names import CLASSIFIERS, FREE_TEXT, OTHERS, PERMISSIVE

STANDARD_LIBRARY_LICENCE = "PSF-2.0"
LONGEST_NAME = 80
"""A License field that is longer, in characters, is the text of a licence, and is not read."""
_KNOWN = frozenset(name.lower() for name in PERMISSIVE | OTHERS)


def licence_of(metadata: Message | Any) -> str:
    """The licence of a package as an SPDX expression; empty when the metadata does not tell.

    License-Expression is final. Else classifiers tell, and all of them count: whether several are a choice is not
    said. The License field counts beside them where it is understood, and stands for itself where they are missing.
    """
    if expression := str(metadata.get("License-Expression") or "").strip():
        return expression
    said = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or [] if c.startswith("License :: ")]
    parts = [CLASSIFIERS.get(name, name.replace(" ", "-")) for name in said if name != "OSI Approved"]
    field = " ".join(str(metadata.get("License") or "").split())
    if field and len(field) <= LONGEST_NAME:
        field = FREE_TEXT.get(field.lower(), field)
        if _names(field) <= _KNOWN:
            parts.append(f"({field})" if " OR " in field.upper() else field)
        elif not parts:
            parts.append(field.replace(" ", "-"))
    return " AND ".join(dict.fromkeys(parts))


def _names(expression: str) -> set[str]:
    """The licences that an expression names, in small letters, exceptions aside."""
    words = re.findall(r"[^\s()]+", re.sub(r"(?i)\sWITH\s+[^\s()]+", " ", expression))
    return {word.lower() for word in words if word.upper() not in ("AND", "OR")}


def allows(expression: str, allowed: Collection[str]) -> bool:
    """Whether an SPDX expression can be met with the licences in `allowed` (names in small letters). An exception
    (WITH …) only permits more, so it is passed over. What is no expression is not allowed."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)

    def either() -> bool:
        met = both()
        while tokens and tokens[0].upper() == "OR":
            tokens.pop(0)
            met = both() or met
        return met

    def both() -> bool:
        met = one()
        while tokens and tokens[0].upper() == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one() -> bool:
        token = tokens.pop(0)
        if token == "(":
            met = either()
            if tokens.pop(0) != ")":
                raise IndexError
            return met
        if len(tokens) > 1 and tokens[0].upper() == "WITH":
            del tokens[:2]
        return token.lower() in allowed

    try:
        return either() and not tokens
    except IndexError:
        return False


def licence_check(licences: Collection[str]) -> Callable[[Root, str], Refusal | None]:
    """A function that tells of a file below a root of installed Python why its licence keeps it out, if it does.

    A file belongs to the package that lists it, else to those that own its top folder, of which all must allow it.
    """
    allowed = {name.lower() for name in licences}
    if "permissive" in allowed:
        allowed |= {name.lower() for name in PERMISSIVE}
    refusals: dict[str, Refusal | None] = {}
    of_file: dict[tuple[str, str], str] = {}
    of_top: dict[tuple[str, str], set[str]] = {}
    for distribution in distributions():
        name, folder = distribution.metadata["Name"], os.path.realpath(str(distribution.locate_file("")))
        licence = licence_of(distribution.metadata)
        ok = allows(licence, allowed)
        refusals[name] = None if ok else Refusal("licence", f"{name}: {licence or 'its metadata does not tell'}")
        for file in _files(distribution):
            of_file[folder, file] = name
            of_top.setdefault((folder, PurePosixPath(file).parts[0].removesuffix(".py")), set()).add(name)
    library = None if STANDARD_LIBRARY_LICENCE.lower() in allowed else STANDARD_LIBRARY_LICENCE

    def check(root: Root, file: str) -> Refusal | None:
        if root.is_library:
            return Refusal("licence", f"the standard library: {library}") if library else None
        folder = os.path.realpath(root.folder)
        if owner := of_file.get((folder, file)):
            return refusals[owner]
        owners = of_top.get((folder, PurePosixPath(file).parts[0].removesuffix(".py")), set())
        if not owners:
            return Refusal("licence", "no package lists it")
        return next((refusal for owner in sorted(owners) if (refusal := refusals[owner])), None)

    return check


def _files(distribution: Distribution) -> list[str]:
    """What a package has installed, relative to its folder; its top folders where it has no list."""
    if record := distribution.read_text("RECORD"):
        return [row[0] for row in csv.reader(record.splitlines()) if row]
    return (distribution.read_text("top_level.txt") or "").split()
