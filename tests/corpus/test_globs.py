"""Globs find what a shell finds, held against Python's own glob, and end where links lead in circles."""

import glob
import os
from pathlib import Path
from typing import Any

import pytest

from components.corpus.listing import list_files

NAMES = (
    "a.py", "b.txt", "ab.py", ".hidden.py", "x/a.py", "x/y/a.py", "x/y/z/b.py", "x/.venv/c.py", "y.py/inner.py",
    "data[1]/a.py", "data1/a.py", "x/line\nbreak.py", "x/.dot/deep/a.py",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        "*", "*.py", "**", "**/*", "**/*.py", "x/**", "x/**/*.py", "x/*", "x/*/*.py", "*/*.py", "*/*/*.py", "?.py",
        "[ab].py", "[!a].txt", "x/**/[ab].py", "data[[]1]/*.py", "data[1]/*", ".*", "x/.*/*.py", "**/.venv/*.py",
        "**/y/**/*.py", "x/y/../*.py", "nothing/*.py",
    ],
)  # fmt: skip
def test_a_glob_finds_what_pythons_own_finds(pattern: str, tree: Path) -> None:
    wanted = {path for path in glob.glob(f"{tree}/{pattern}", recursive=True) if Path(path).is_file()}  # noqa: PTH207
    assert {str(Path(file.path)) for file in list_files(f"{tree}/{pattern}")} == {str(Path(path)) for path in wanted}


def test_a_glob_finds_a_file_once_however_links_lead_to_it(tree: Path) -> None:
    for name in ("loop1", "loop2", "x/up"):
        (tree / name).symlink_to(tree, target_is_directory=True)
    found = sorted(Path(file.path).resolve() for file in list_files(f"{tree}/**/*.py"))
    assert found == sorted(tree / name for name in NAMES if name.endswith(".py") and "/." not in f"/{name}")


def test_a_glob_looks_no_deeper_than_it_is_long(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []
    scan = os.scandir

    def spy(folder: str) -> Any:
        entered.append(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", spy)
    assert len(list(list_files(f"{tree}/x/*.py"))) == 2
    assert entered == [f"{tree}/x"]
    entered.clear()
    list(list_files(f"{tree}/x/*/*.py"))
    assert f"{tree}/x/y" in entered
    assert f"{tree}/x/y/z" not in entered
