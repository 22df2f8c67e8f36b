"""Licences from the metadata of packages, real ones and made-up ones."""

import importlib.metadata
from email.message import Message
from pathlib import Path

import pytest

from components.corpus.blocks import in_process
from components.corpus.config import CorpusConfig
from components.corpus.installed import python_roots
from components.corpus.licence_names import CLASSIFIERS, FREE_TEXT, OTHERS, PERMISSIVE
from components.corpus.licences import allows, licence_check, licence_of
from components.corpus.pieces import Piece, Skipped
from components.corpus.sources import list_pieces

MIT = {"mit"}


def _metadata(**fields: str | list[str]) -> Message:
    message = Message()
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("requests", {"Apache-2.0"}),
        ("numpy", {"BSD-3-Clause"}),
        ("torch", {"Apache-2.0", "BSD-3-Clause"}),
        ("pytest", {"MIT"}),
        ("certifi", {"MPL-2.0"}),
        ("rich", {"MIT"}),
        ("scipy", {"BSD"}),  # its License field is the whole text
        ("typing_extensions", {"PSF-2.0"}),
        ("protobuf", {"BSD-3-Clause"}),
    ],
)
def test_real_packages_say_what_they_are_known_to_be_under(package: str, names: set[str]) -> None:
    licence = licence_of(importlib.metadata.metadata(package))  # type: ignore[arg-type]
    assert names <= set(licence.replace("(", " ").replace(")", " ").split())


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "MIT OR Apache-2.0", "License": "GPLv3"}, "MIT OR Apache-2.0"),
        ({"License": "MIT"}, "MIT"),
        ({"License": "Apache License, Version 2.0"}, "Apache-2.0"),
        ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
        ({"License": "Proprietary"}, "Proprietary"),
        ({"License": "all rights reserved\n" * 20}, ""),
        ({"License": "Dual License", "Classifier": ["License :: OSI Approved :: BSD License"]}, "BSD"),
        ({"Classifier": ["License :: OSI Approved"]}, ""),
        ({"Classifier": ["License :: Other/Proprietary License"]}, "Other/Proprietary-License"),
        ({"Classifier": ["Programming Language :: Python"]}, ""),
        ({}, ""),
        (
            {"License": "MIT", "Classifier": ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]},
            "GPL-3.0-only AND MIT",
        ),
        (
            {"License": "MIT OR ISC", "Classifier": ["License :: OSI Approved :: MIT License"]},
            "MIT AND (MIT OR ISC)",
        ),
    ],
)
def test_what_metadata_tells(fields: dict[str, str | list[str]], licence: str) -> None:
    assert licence_of(_metadata(**fields)) == licence


@pytest.mark.parametrize(
    ("expression", "allowed", "met"),
    [
        ("MIT", MIT, True),
        ("mit", MIT, True),
        ("MIT OR GPL-3.0-only", MIT, True),
        ("GPL-3.0-only OR MIT", MIT, True),
        ("MIT AND GPL-3.0-only", MIT, False),
        ("GPL-3.0-only OR MIT AND Zlib", MIT, False),  # AND binds closer
        ("(GPL-3.0-only OR MIT) AND MIT", MIT, True),
        ("MIT AND (GPL-3.0-only OR (MIT AND MIT))", MIT, True),
        ("MIT WITH Some-exception AND MIT", MIT, True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", MIT, False),
        ("", MIT, False),
        ("MIT AND", MIT, False),
        ("MIT MIT", MIT, False),
        ("(MIT", MIT, False),
        ("LicenseRef-Own", MIT, False),
    ],
)
def test_an_expression_is_met_as_spdx_means_it(expression: str, allowed: set[str], met: bool) -> None:
    assert allows(expression, allowed) is met


def test_the_tables_lead_to_names_that_can_be_listed() -> None:
    assert set(FREE_TEXT.values()) <= PERMISSIVE | OTHERS
    assert set(CLASSIFIERS.values()) <= PERMISSIVE | OTHERS
    assert not PERMISSIVE & OTHERS


def _install(folder: Path, name: str, metadata: str, files: list[str], record: bool = True) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"# {file}\n" + "value = 1\n" * 50)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}\n")
    if record:
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    else:
        (info / "top_level.txt").write_text("\n".join({file.split("/")[0].removesuffix(".py") for file in files}))


def test_files_go_by_the_package_that_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    _install(folder, "free", "License-Expression: MIT", ["free/a.py", "shared/free.py", "one.py"])
    _install(folder, "strict", "License-Expression: GPL-3.0-only", ["strict.py", "shared/strict.py"])
    _install(folder, "silent", "", ["silent/a.py"])
    _install(folder, "listless", "License: BSD", ["listless/a.py"], record=False)
    for file in ("free/made_later.py", "shared/made_later.py", "nobody.py"):
        (folder / file).write_text("value = 1\n" * 50)
    monkeypatch.syspath_prepend(str(folder))
    config = CorpusConfig(licences=("permissive",))
    items = [i for i in list_pieces(config, "", in_process) if str(folder) in getattr(i, "path", "") or "-2/" in i.id]
    kept = {Path(i.path).relative_to(folder).as_posix() for i in items if isinstance(i, Piece)}
    refused = {i.id.partition("/")[2]: i.refusal.detail for i in items if isinstance(i, Skipped)}
    assert kept == {"free/a.py", "free/made_later.py", "shared/free.py", "one.py", "listless/a.py"}
    assert refused == {
        "strict.py": "strict: GPL-3.0-only",
        "shared/strict.py": "strict: GPL-3.0-only",
        "shared/made_later.py": "strict: GPL-3.0-only",
        "silent/a.py": "silent: its metadata does not tell",
        "nobody.py": "no package lists it",
    }


def test_the_standard_library_is_under_its_own() -> None:
    library = next(root for root in python_roots() if root.is_library)
    assert licence_check(("permissive",))(library, "json/decoder.py") is None
    assert licence_check(("PSF-2.0",))(library, "json/decoder.py") is None
    refusal = licence_check(("MIT",))(library, "json/decoder.py")
    assert refusal is not None
    assert refusal.detail == "the standard library: PSF-2.0"


@pytest.mark.parametrize("licences", [("Apache2",), ()])
def test_a_name_that_no_package_can_have_is_refused(licences: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^licences is "):
        CorpusConfig(licences=licences)
    with pytest.raises(ValueError, match=r"^licences is .* only installed packages"):
        CorpusConfig(source="files", path="/data", licences=("MIT",))
