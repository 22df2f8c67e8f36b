"""A program whose driver stands still inside a commit.

python held_commit.py WINDOW NODE MARKER PROGRAM [argument …]: runs PROGRAM; in the commit of NODE's result it writes
the file MARKER and waits until it is removed. WINDOW says what the store looks like then: `half a manifest`, `no index`
or `work not cleared`.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from components.flow import store
from components.flow.store import MANIFEST, Manifest, Store

WINDOWS = ("half a manifest", "no index", "work not cleared")


def hold_commit(window: str, node: str, marker: Path) -> None:
    """Make the commit of a node stand still in a window."""
    assert window in WINDOWS, window
    write_json, point = store.write_json, Store.point

    def stand_still() -> None:
        marker.touch()
        while marker.exists():
            time.sleep(0.02)

    def write_json_slowly(path: Path, value: Any) -> None:
        ours = path.name == MANIFEST and value["name"] == node
        if ours and window == "half a manifest":
            text = json.dumps(value)
            path.with_name(f".{path.name}.{os.getpid()}").write_text(text[: len(text) // 2])
            stand_still()
        write_json(path, value)
        if ours and window == "no index":
            stand_still()

    def point_slowly(self: Store, recipe_key: str, manifest: Manifest) -> None:
        point(self, recipe_key, manifest)
        if manifest.name == node and window == "work not cleared":
            stand_still()

    store.write_json, Store.point = write_json_slowly, point_slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    hold_commit(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    del sys.argv[:4]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
