"""Where results live: `<workspace>/store/<stage>/<content key>/`.

Every attempt writes a directory of its own; `manifest.json`, written last and atomically, names the attempt that
counts. Whoever finds no manifest finds nothing. `work/` beside the attempts is what a stage that can go on keeps.
`store/index/<recipe key>` leads from what a recipe asks for to the content key that answered it.
"""

import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from components.flow.stage_run import write_json, write_text

MANIFEST = "manifest.json"
HISTORY = "history.json"
FORMAT = 1
"""Raised when an older version could no longer read what this one writes."""


class NewerStore(ValueError):
    """The store was made by a newer version of this project."""


@dataclass(frozen=True)
class Manifest:
    """The record of a committed result."""

    stage: str
    name: str
    title: str
    key: str
    recipe_key: str
    attempt: str
    """Directory of the attempt, beside the manifest."""
    identity: Any
    """Stage, version, config, external, machine, as JSON values."""
    inputs: Any
    """Per input: name, stage, key, digest."""
    artifact: Any
    """The artifact's fields; paths are relative to the attempt."""
    started: float
    seconds: float
    machine: Any
    versions: Any
    git_commit: str | None
    command: list[str]
    warnings: list[str]
    tracking_run: str | None = None
    source: Any = None
    """Digest by file of the code that made it (see flow.source)."""
    history: Any = None
    """For a stage that went on from partial work: per attempt the units done before it, its source and commit."""


def encode_artifact(artifact: Any, directory: Path) -> Any:
    """An artifact as JSON values, paths relative to `directory`. ValueError for a path outside it."""

    def encode(value: Any) -> Any:
        if isinstance(value, Path):
            if not value.is_relative_to(directory):
                raise ValueError(f"an artifact's files must be in its run's directory; {value} is not")
            return str(value.relative_to(directory))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {str(key): encode(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [encode(item) for item in value]
        return value

    return encode(artifact)


class Store:
    """The results of a workspace. NewerStore when a newer version of this project wrote it."""

    def __init__(self, workspace: Path) -> None:
        self.root = workspace.absolute() / "store"
        try:
            found = int((self.root / "format").read_text(encoding="ascii"))
        except (OSError, ValueError):
            found = FORMAT
        if found > FORMAT:
            raise NewerStore(
                f"the store {self.root} has format {found}, made by a newer version of this project; this one reads "
                f"formats up to {FORMAT}: update it, or give another workspace=PATH"
            )

    def place(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def find(self, stage: str, key: str) -> Manifest | None:
        """The committed result of a content key; None when there is none or its files are gone."""
        place = self.place(stage, key)
        try:
            manifest = Manifest(**json.loads((place / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return manifest if (place / manifest.attempt).is_dir() else None

    def find_by_recipe(self, recipe_key: str) -> Manifest | None:
        """The committed result that answered a recipe key before."""
        try:
            entry = json.loads((self.root / "index" / recipe_key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return self.find(entry["stage"], entry["key"])

    def manifests(self, stage: str) -> Iterator[Manifest]:
        """All committed results of a stage."""
        for path in sorted((self.root / stage).glob(f"*/{MANIFEST}")):
            if manifest := self.find(stage, path.parent.name):
                yield manifest

    def committed_work(self, stage: str, key: str) -> tuple[int, int] | None:
        """(done, total) of partial work that a stage can go on from."""
        try:
            record = json.loads((self.place(stage, key) / "work" / "committed.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record["done"], record["total"]

    def new_attempt(self, stage: str, key: str, keep_work: bool) -> Path:
        """A fresh directory for one attempt. Earlier attempts that were not committed go; so does partial work
        unless it is to be kept."""
        place = self.place(stage, key)
        if not keep_work:
            shutil.rmtree(place / "work", ignore_errors=True)
        committed = self.find(stage, key)
        for stale in place.glob("attempt-*"):
            if committed is None or stale.name != committed.attempt:
                shutil.rmtree(stale, ignore_errors=True)
        for torn in place.glob(f".{MANIFEST}.*"):  # of a driver that was killed while it wrote
            torn.unlink()
        attempt = place / f"attempt-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 1000:03}"
        attempt.mkdir(parents=True)
        (place / "work").mkdir(exist_ok=True)
        if not (self.root / "format").exists():
            write_text(self.root / "format", f"{FORMAT}\n")
        return attempt

    def begin(self, stage: str, key: str, source: Any, git_commit: str | None) -> None:
        """Note under which source the partial work of a stage goes on from here."""
        path = self.place(stage, key) / "work" / HISTORY
        done, _ = self.committed_work(stage, key) or (0, 0)
        write_json(path, [*self.history(stage, key), {"done": done, "source": source, "git_commit": git_commit}])

    def history(self, stage: str, key: str) -> list[Any]:
        """What `begin` noted of the partial work that is there."""
        try:
            noted: list[Any] = json.loads((self.place(stage, key) / "work" / HISTORY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return noted

    def directory(self, manifest: Manifest) -> Path:
        """Where the files of a committed result are."""
        return self.place(manifest.stage, manifest.key) / manifest.attempt

    def load(self, manifest: Manifest, artifact_type: Any) -> Any:
        """The artifact of a committed result, its paths absolute again."""
        fields = dict(manifest.artifact)
        fields["path"] = self.directory(manifest) / fields["path"]
        return TypeAdapter(artifact_type).validate_python(fields)

    def commit(self, manifest: Manifest) -> None:
        """Make an attempt the result: the manifest first, then the index that leads to it, then partial work goes."""
        place = self.place(manifest.stage, manifest.key)
        write_json(place / MANIFEST, dataclasses.asdict(manifest))
        self.point(manifest.recipe_key, manifest)
        shutil.rmtree(place / "work", ignore_errors=True)

    def settle(self, recipe_key: str, manifest: Manifest) -> None:
        """Do what a kill inside `commit` may have left undone for a result that is there. Partial work that another
        attempt began since is not its own, and stays."""
        if not (self.root / "index" / recipe_key).exists():
            self.point(recipe_key, manifest)
        if self.history(manifest.stage, manifest.key) == (manifest.history or []):
            shutil.rmtree(self.place(manifest.stage, manifest.key) / "work", ignore_errors=True)

    def point(self, recipe_key: str, manifest: Manifest) -> None:
        """Let a recipe key lead to a committed result."""
        (self.root / "index").mkdir(parents=True, exist_ok=True)
        write_json(self.root / "index" / recipe_key, {"stage": manifest.stage, "key": manifest.key})


def provenance() -> dict[str, Any]:
    """Git commit, command line and library versions, for manifests."""
    root = Path(__file__).resolve().parents[2]
    try:
        git = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
        )
        commit = git.stdout.strip() or None if git.returncode == 0 else None
    except OSError:  # no git here
        commit = None
    versions = {name: importlib.metadata.version(name) for name in ("torch", "ray", "pyarrow", "sentencepiece")}
    versions["python"] = sys.version.split()[0]
    return {
        "git_commit": commit,
        "command": list(sys.argv),
        "versions": versions,
    }
