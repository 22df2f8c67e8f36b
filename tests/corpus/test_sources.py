import json
import os
import sys
import sysconfig
from pathlib import Path

import pytest

import components
from components.corpus.blocks import in_process
from components.corpus.config import CorpusConfig
from components.corpus.pieces import Piece, Skipped
from components.corpus.sources import list_pieces, source_identity

TEXT = "word " * 100


def _files(path: Path | str) -> CorpusConfig:
    return CorpusConfig(source="files", path=str(path))


def _list(config: CorpusConfig) -> tuple[list[Piece], dict[str, str]]:
    """Pieces in id order, and the reason of each that is left out."""
    items = list(list_pieces(config, "", in_process))
    pieces = sorted((i for i in items if isinstance(i, Piece)), key=lambda piece: piece.id)
    return pieces, {i.id: i.refusal.reason for i in items if isinstance(i, Skipped)}


def _write(folder: Path, *names: str, text: str = TEXT) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_files_are_found_in_id_order_with_their_top_folder_as_group(tmp_path: Path) -> None:
    _write(tmp_path, "b/c/deep.txt", "b/a.txt", "top.txt", ".hidden.txt", ".git/objects", "b/__pycache__/x.pyc")
    found, _ = _list(_files(tmp_path))
    assert [(f.id, f.group) for f in found] == [
        (".hidden.txt", ".hidden.txt"),
        ("b/a.txt", "b"),
        ("b/c/deep.txt", "b"),
        ("top.txt", "top.txt"),
    ]


def test_what_cannot_be_a_document_is_refused_unread(tmp_path: Path) -> None:
    _write(tmp_path, "a/third_party/lib.py", "a/_vendor/deep/x.py", "third_party.py")
    _write(tmp_path, "empty.py", text="")
    _write(tmp_path, "small.py", text="x = 1")
    _write(tmp_path, "large.py", text=TEXT * 10_000)
    os.mkfifo(tmp_path / "pipe.py")  # opening it would wait for ever
    (tmp_path / "broken.py").symlink_to(tmp_path / "nothing")
    found, refused = _list(_files(tmp_path))
    assert [f.id for f in found] == ["third_party.py"]
    assert refused == {
        "a/third_party/lib.py": "vendored",
        "a/_vendor/deep/x.py": "vendored",
        "empty.py": "empty",
        "small.py": "too small",
        "large.py": "too large",
        "pipe.py": "not a regular file",
        "broken.py": "unreadable",
    }


def test_a_folder_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    _write(tmp_path, "real/a.txt")
    (tmp_path / "real/loop").symlink_to(tmp_path)
    (tmp_path / "zzz").symlink_to(tmp_path / "real")
    assert [f.id for f in _list(_files(tmp_path))[0]] == ["real/a.txt"]


def test_a_name_that_is_not_utf8_becomes_a_readable_id(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_text(TEXT)
    (found,), _ = _list(_files(tmp_path))
    assert found.id == "caf\\xe9.txt"
    assert Path(found.path).read_text() == TEXT


def test_a_glob_names_documents_from_its_fixed_part(tmp_path: Path) -> None:
    _write(tmp_path, "x/one.py", "x/y/two.py", "x/three.txt")
    found, _ = _list(_files(f"{tmp_path}/**/*.py"))
    assert [(f.id, f.group) for f in found] == [("x/one.py", "x"), ("x/y/two.py", "x")]


def test_a_missing_path_is_refused_by_the_run_but_not_by_the_plan(tmp_path: Path) -> None:
    for config, message in ((CorpusConfig(source="files"), "path is not set"), (_files(tmp_path / "no"), "not exist")):
        with pytest.raises(ValueError, match=message):
            _list(config)
        json.dumps(source_identity(config))


def test_the_identity_of_files_follows_name_size_and_time(tmp_path: Path) -> None:
    _write(tmp_path, "a.txt", "b.txt")
    first = source_identity(_files(tmp_path))
    assert source_identity(_files(tmp_path)) == first
    os.utime(tmp_path / "a.txt", (1, 1))
    second = source_identity(_files(tmp_path))
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert len({json.dumps(i) for i in (first, second, source_identity(_files(tmp_path)))}) == 3


def test_the_python_source_is_the_library_and_the_packages_without_this_project() -> None:
    pieces, refused = _list(CorpusConfig())
    by_id = {found.id: found for found in pieces}
    assert Path(by_id["stdlib/json/decoder.py"].path) == Path(sysconfig.get_path("stdlib"), "json/decoder.py")
    assert (by_id["stdlib/json/decoder.py"].group, by_id["stdlib/bisect.py"].group) == ("json", "bisect")
    assert by_id["site-packages/pytest/__init__.py"].group == "pytest"
    own = Path(components.__file__ or "").resolve().parent
    real = [Path(found.path).resolve() for found in pieces]
    assert not [path for path in real if path.is_relative_to(own)]
    # Debian's library links one of its own files under a second name; no folder is walked twice
    by_folder = [Path(found.path).parent.resolve() / Path(found.path).name for found in pieces]
    assert len(set(by_folder)) == len(by_folder)
    assert all(id.endswith(".py") and "__pycache__" not in id for id in by_id)
    assert not [id for id in by_id if id.startswith("stdlib/site-packages")]
    assert "vendored" in refused.values()


def test_the_python_source_is_known_by_versions() -> None:
    identity = source_identity(CorpusConfig())
    assert identity["python"] == sys.version
    assert f"pytest {pytest.__version__}" in identity["distributions"]
    assert not [name for name in identity["distributions"] if name.startswith("headstart ")]
