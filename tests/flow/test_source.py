"""Source: an edit that changes what code does is seen where it counts, one that does not is not."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.flow import source
from components.flow.source import changed_files, source_of

DOOR = '''"""A door."""
from project.config import Config, Other

FACTOR = 2

def helper(x):
    return x * FACTOR

def make(config: Config, run):
    """Makes."""
    from project.work import work
    return helper(work(config))

def other(config: Other, run):
    return config
'''
CONFIG = '''class Config:
    size: int = 3
    """How large."""

class Other:
    size: int = 4
'''
WORK = """import json
import project.words as words

LIMIT = 5

def work(config):
    # counts
    return json.dumps(config) + words.say()

def unused():
    return LIMIT
"""
WORDS = """from pathlib import Path

def say():
    return Path(__file__).with_name("hello.txt").read_text()
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[..., dict[str, str]]]:
    """Writes the project with some files changed and answers with the source of a stage of it."""
    folder = tmp_path / "project"
    folder.mkdir()
    files = {"__init__.py": "", "door.py": DOOR, "config.py": CONFIG, "work.py": WORK, "words.py": WORDS}

    def read(name: str = "make", **changed: str) -> dict[str, str]:
        for file, text in {**files, "hello.txt": "hello"}.items():
            (folder / file).write_text(changed.get(file.replace(".", "_"), text))
        spec = importlib.util.spec_from_file_location("project.door", folder / "door.py")
        assert spec is not None
        code = compile((folder / "door.py").read_text(), str(folder / "door.py"), "exec")
        scope: dict[str, Any] = {"__name__": "project.door"}
        sys.modules.setdefault("project.config", type(sys)("project.config")).__dict__.update(Config=1, Other=2)
        sys.modules.setdefault("project", type(sys)("project"))
        exec(code, scope)
        source._read.cache_clear()
        source._source.cache_clear()
        return dict(source_of(scope[name]))

    yield read
    for module in ("project", "project.config"):
        sys.modules.pop(module, None)


def test_it_is_the_files_that_the_function_reaches(project: Callable[..., dict[str, str]]) -> None:
    assert {*project()} == {f"project/{name}.py" for name in ("__init__", "door", "config", "work", "words")}
    assert {*project("other")} == {f"project/{name}.py" for name in ("__init__", "door", "config")}


@pytest.mark.parametrize(
    "edit",
    [
        {"work_py": WORK.replace("# counts", "# tells")},
        {"work_py": WORK.replace("    return json", "\n    return (json").replace(".say()", ".say())")},
        {"door_py": DOOR.replace('"""Makes."""', '"""Makes it."""\n')},
        {"config_py": CONFIG.replace("How large.", "How large, in bytes.")},
        {"work_py": WORK.replace("return LIMIT", "return LIMIT + 1")},
        {"door_py": DOOR.replace("return config\n", "return config, 1\n")},
        {"config_py": CONFIG.replace("4", "5")},
    ],
    ids=["comment", "formatting", "docstring", "field docstring", "unreached", "another stage", "another config"],
)
def test_what_changes_no_result_changes_no_source(project: Callable[..., dict[str, str]], edit: dict[str, str]) -> None:
    before = project()
    assert changed_files(before, project(**edit)) == []


@pytest.mark.parametrize(
    ("edit", "file"),
    [
        ({"door_py": DOOR.replace("FACTOR = 2", "FACTOR = 3")}, "door"),
        ({"door_py": DOOR.replace("return x *", "return x +")}, "door"),
        ({"config_py": CONFIG.replace("3", "7")}, "config"),
        ({"work_py": WORK.replace("dumps(config)", "dumps([config])")}, "work"),
        ({"work_py": WORK.replace("LIMIT = 5", "LIMIT = 5\nprint()")}, "work"),
        ({"words_py": WORDS.replace("read_text()", "read_text(encoding='utf-8')")}, "words"),
        ({"hello_txt": "bye"}, "words"),
    ],
    ids=["constant", "called", "config", "imported inside", "run on import", "whole module", "file beside"],
)
def test_what_may_change_the_result_is_named_by_its_file(
    project: Callable[..., dict[str, str]], edit: dict[str, str], file: str
) -> None:
    before = project()
    assert changed_files(before, project(**edit)) == [f"project/{file}.py"]


def test_the_real_rooms_are_apart() -> None:
    from components.corpus.stage import collect, draw_pairs
    from components.training.stage import finetune, pretrain

    def files(stage: Any) -> set[str]:
        return {*source_of(stage.function)}

    assert "components/training/loss.py" in files(pretrain) & files(finetune)
    assert "components/training/pairs.py" in files(finetune) - files(pretrain)
    assert "components/corpus/pairs.py" in files(draw_pairs) - files(collect)
    assert not [f for f in files(pretrain) if f.startswith(("components/flow", "components/decoding", "pipelines"))]
