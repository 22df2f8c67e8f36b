"""What of a workspace nothing leads to any more. Looking is one thing, deleting another: `unreferenced` only looks."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.flow.folder import RUN_FILE
from components.flow.store import MANIFEST, Store


@dataclass(frozen=True)
class Garbage:
    """Something that may go."""

    path: Path
    why: str
    bytes: int


def runs(workspace: Path) -> dict[str, Mapping[str, Any]]:
    """The record of every run, by the name of its folder, oldest first."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(workspace.glob(f"*/{RUN_FILE}"), key=lambda p: (p.stat().st_mtime, p)):
        if path.parent.is_symlink():
            continue
        try:
            found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of a run that a full disk ended, say: it leads nowhere
            continue
    return found


def latest_runs(workspace: Path) -> dict[str, list[str]]:
    """Per recipe the folders of its latest whole run that finished, and of all begun since, latest first: a run of a
    part, or one that failed, puts nothing else in the place of what there is."""
    latest: dict[str, list[str]] = {}
    complete: set[str] = set()
    for name, record in reversed(runs(workspace).items()):
        recipe = record.get("name") or name.rsplit("-", 2)[0]
        if recipe not in complete:
            latest.setdefault(recipe, []).append(name)
            if record.get("status") == "FINISHED" and record.get("whole", True):
                complete.add(recipe)
    return latest


def kept_runs(workspace: Path) -> set[str]:
    """Folders of the runs whose results stay: the latest of every recipe, and all that the latest sweep compares."""
    kept = {name for names in latest_runs(workspace).values() for name in names}
    try:
        sweep = json.loads((workspace / "latest-sweep" / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return kept
    reports = (job.get("report") for job in sweep.get("jobs", ()))
    return kept | {Path(report).parts[1] for report in reports if report and report.startswith("../")}


def unreferenced(workspace: Path) -> list[Garbage]:
    """Results that neither a recipe's latest run nor the latest sweep links to, attempts that never became one, and
    partial work of neither.

    What the latest run of a recipe began and did not finish is kept: the same command goes on from it.
    """
    store = Store(workspace)
    records = runs(workspace)
    kept = {
        (stage["stage"], stage["key"])
        for name in kept_runs(workspace) & {*records}
        for stage in records[name].get("stages", {}).values()
    }
    return list(_in_store(store, kept))


def _in_store(store: Store, kept: set[tuple[str, str]]) -> Iterator[Garbage]:
    for place in sorted(store.root.glob("*/*")):
        stage, key = place.parent.name, place.name
        if stage == "index" or not place.is_dir():
            continue
        if (stage, key) not in kept:
            committed = store.find(stage, key)
            why = "no latest run links to it" if committed else "begun, never finished, and no latest run's"
            yield Garbage(place, why, tree_bytes(place))
            continue
        manifest = store.find(stage, key)
        for attempt in sorted(place.glob("attempt-*")):
            if manifest is None or attempt.name != manifest.attempt:
                yield Garbage(attempt, "an attempt that is not the result", tree_bytes(attempt))


def delete(workspace: Path, garbage: list[Garbage]) -> None:
    """Delete it, manifests first so that nothing half-deleted counts; then what leads to nothing."""
    for item in garbage:
        (item.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(item.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is more in it
            item.path.parent.rmdir()
    store = Store(workspace)
    for entry in (store.root / "index").glob("*"):
        if store.find_by_recipe(entry.name) is None:
            entry.unlink(missing_ok=True)
    for link in workspace.glob("*/*"):
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)


def tree_bytes(folder: Path) -> int:
    """Bytes of the files below a folder, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
