"""Clearing a workspace: what a recipe's latest run links to stays, whatever else goes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from test_plan import commit
from toy_pipeline import plan

from components.flow.folder import RUN_FILE, link
from components.flow.garbage import delete, latest_runs, unreferenced
from components.flow.store import Store


def record_run(
    workspace: Path,
    folder: str,
    recipe: str,
    age: int,
    begun: dict[str, Any] | None = None,
    status: str = "FINISHED",
    whole: bool = True,
    **parameters: object,
) -> None:
    """A finished run: its record, and a link per result."""
    directory = workspace / folder
    directory.mkdir()
    manifests = {p.node.name: p.manifest for p in plan(workspace, **parameters).nodes}
    stages = {n: {"stage": m.stage, "key": m.key} for n, m in manifests.items() if m is not None}
    (directory / RUN_FILE).write_text(
        json.dumps({"name": recipe, "status": status, "whole": whole, "stages": stages | (begun or {})})
    )  # type: ignore[operator]
    for name, manifest in manifests.items():
        if manifest is not None:
            link(directory, name, Store(workspace).directory(manifest))
    os.utime(directory / RUN_FILE, (1e9 - age, 1e9 - age))


def names(workspace: Path) -> set[tuple[str, str]]:
    return {(item.path.parent.name, item.why) for item in unreferenced(workspace)}


def test_what_latest_runs_link_to_stays_and_the_rest_goes(tmp_path: Path) -> None:
    commit(tmp_path, factor=2)
    record_run(tmp_path, "toy-old", "toy", age=9, factor=2)
    commit(tmp_path, factor=3)
    record_run(tmp_path, "toy-new", "toy", age=1, factor=3)
    assert latest_runs(tmp_path) == {"toy": ["toy-new"]}
    unlinked = {stage for stage, why in names(tmp_path) if why == "no latest run links to it"}
    assert unlinked == {"scale", "total"}

    record_run(tmp_path, "other-old", "other", age=20, factor=2)  # another recipe's latest holds them too
    assert {why for _, why in names(tmp_path)} == {"an attempt that is not the result"}


@pytest.mark.parametrize("later", [{"status": "FAILED"}, {"status": "RUNNING"}, {"whole": False}])
def test_a_run_of_a_part_or_one_that_failed_takes_nothing_from_the_last_whole_one(
    tmp_path: Path, later: dict[str, Any]
) -> None:
    commit(tmp_path, factor=2)
    record_run(tmp_path, "toy-whole", "toy", age=9, factor=2)
    record_run(tmp_path, "toy-later", "toy", age=1, factor=99, **later)
    assert latest_runs(tmp_path) == {"toy": ["toy-later", "toy-whole"]}
    assert names(tmp_path) == set()


def test_deleting_leaves_a_workspace_that_still_reuses_what_was_kept(tmp_path: Path) -> None:
    for factor in (2, 3):
        commit(tmp_path, factor=factor)
        record_run(tmp_path, f"toy-{factor}", "toy", age=9 - factor, factor=factor)
    found = unreferenced(tmp_path)
    assert sum(item.bytes for item in found) > 0
    delete(tmp_path, found)
    assert unreferenced(tmp_path) == []
    assert {p.status for p in plan(tmp_path, factor=3).nodes} == {"reused"}
    assert {p.node.name: p.status for p in plan(tmp_path, factor=2).nodes} == {
        "source": "reused", "count": "reused", "scale": "run", "total": "run",
    }  # fmt: skip
    assert not [p for p in (tmp_path / "toy-2").iterdir() if p.is_symlink() and not p.exists()]


def test_partial_work_of_a_latest_run_stays_and_lost_attempts_go(tmp_path: Path) -> None:
    commit(tmp_path)
    store = Store(tmp_path)
    key = "1" * 20
    (store.new_attempt("count", key, keep_work=True) / "half").write_text("x")
    record_run(tmp_path, "toy-1", "toy", age=1, status="FAILED", begun={"late": {"stage": "count", "key": key}})
    assert names(tmp_path) == {(key, "an attempt that is not the result")}
    delete(tmp_path, unreferenced(tmp_path))
    assert (store.place("count", key) / "work").is_dir()
    record_run(tmp_path, "toy-2", "toy", age=0)
    assert ("count", "begun, never finished, and no latest run's") in names(tmp_path)
