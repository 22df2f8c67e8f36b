"""The store: nothing counts before its manifest, and a manifest that is cut in half counts as nothing."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from components.flow.stage_run import StageRun
from components.flow.store import Manifest, Store, encode_artifact


@dataclass(frozen=True)
class Part:
    score: float


@dataclass(frozen=True)
class Thing:
    path: Path
    digest: str
    parts: tuple[Part, ...]


def manifest(attempt: Path, artifact: object) -> Manifest:
    return Manifest(
        "make", "make", "make", "key", "recipe", attempt.name, {}, [], artifact, 0.0, 1.0, {}, {}, None, [], []
    )


def test_nothing_before_the_manifest_everything_after(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = store.new_attempt("make", "key", keep_work=False)
    (attempt / "data.txt").write_text("42")
    thing = Thing(attempt, "d", (Part(0.25), Part(0.5)))
    assert store.find("make", "key") is None
    store.commit(manifest(attempt, encode_artifact(thing, attempt)))
    found = store.find_by_recipe("recipe")
    assert found is not None
    assert store.load(found, Thing) == thing


def test_a_workspace_may_be_moved(tmp_path: Path) -> None:
    store = Store(tmp_path / "old")
    attempt = store.new_attempt("make", "key", keep_work=False)
    (attempt / "data.txt").write_text("42")
    store.commit(manifest(attempt, encode_artifact(Thing(attempt, "d", ()), attempt)))
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Store(tmp_path / "new")
    found = moved.find("make", "key")
    assert found is not None
    assert (moved.load(found, Thing).path / "data.txt").read_text() == "42"


@pytest.mark.parametrize("damage", ["half", "empty", "attempt gone"])
def test_a_damaged_result_is_no_result(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    attempt = store.new_attempt("make", "key", keep_work=False)
    store.commit(manifest(attempt, encode_artifact(Thing(attempt, "d", ()), attempt)))
    path = tmp_path / "store" / "make" / "key" / "manifest.json"
    if damage == "attempt gone":
        attempt.rmdir()
    else:
        text = path.read_text()
        path.write_text(text[: len(text) // 2] if damage == "half" else "")
    assert store.find("make", "key") is None


def test_a_new_attempt_clears_abandoned_ones_and_keeps_partial_work_only_if_asked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.new_attempt("make", "key", keep_work=True)
    work = first.parent / "work"
    (work / "committed.json").write_text('{"done": 3, "total": 5}')
    (first / "half.bin").write_text("x")
    store.new_attempt("make", "key", keep_work=True)
    assert store.committed_work("make", "key") == (3, 5)
    assert not (first / "half.bin").exists()
    store.new_attempt("make", "key", keep_work=False)
    assert store.committed_work("make", "key") is None


def test_files_outside_the_attempt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be in its run's directory"):
        encode_artifact(Thing(tmp_path, "d", ()), tmp_path / "attempt")


def test_rewinding_metrics_drops_later_steps_and_a_torn_last_line(tmp_path: Path) -> None:
    run = StageRun.local(tmp_path)
    for step in (1, 2, 3):
        run.metrics(step, {"loss": 1.0 / step})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 4, "lo')
    run.rewind_metrics(2)
    run.metrics(3, {"loss": 9.0})
    lines = run.metrics_path.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"step": 1', '{"step": 2', '{"step": 3']
    assert "9.0" in lines[-1]
