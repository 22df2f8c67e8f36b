"""A grid by its command: cells side by side, the page of what there is so far, reuse, one more seed, a kill."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
TINY = (
    "conf=polynomial_small",
    "future_tokens=[1,2,3]",
    "sizes.1m.model.dim=32",
    "sizes.1m.training.steps=8",
    "sizes.1m.training.batch_tokens=256",
    "cluster.training.compile=false",
    "looks=2",
    "test_items=20",
)


def run(workspace: Path, *overrides: str, killed_when: str | None = None) -> tuple[int, str, bool]:
    """Exit code, what it said, and whether the page of what there was so far was seen. The driver is killed as soon as
    it says `killed_when`."""
    command = [sys.executable, str(ROOT / "pipelines" / "synthetic.py"), f"workspace={workspace}", *TINY, *overrides]
    output = workspace.with_name(f"{workspace.name}.txt")
    with output.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        seen = False
        while process.poll() is None:
            page = workspace / "latest" / "so-far" / "index.html"
            with contextlib.suppress(FileNotFoundError):  # not there yet, or no more
                seen = seen or "to come" in page.read_text(encoding="utf-8")
            if killed_when and killed_when in output.read_text():
                process.kill()
                break
            time.sleep(0.05)
    return process.returncode, output.read_text(), seen


def made(said: str) -> set[str]:
    """What was done."""
    return {*re.findall(r"(?m)^(.*): done in ", said)}


def results(workspace: Path) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads((workspace / "latest/report/results.json").read_text())
    return found


def test_a_grid_runs_reuses_and_grows_by_a_seed_though_it_is_killed(tmp_path: Path) -> None:
    workspace = tmp_path / "runs"
    code, said, seen = run(workspace, "seeds=[1]")
    assert code == 0, said
    assert seen, "the page of what there is so far"
    assert not (workspace / "latest" / "so-far").exists()
    first = results(workspace)
    assert [(cell["n_future_tokens"], cell["seed"]) for cell in first["cells"]] == [(1, 1), (2, 1), (3, 1)]
    assert f"So far     {workspace}/latest/so-far/index.html" in said

    code, said, _ = run(workspace, "seeds=[1]")
    assert (code, "Ray dashboard" in said) == (0, False), said
    assert said.count("reused") >= 4

    code, said, _ = run(workspace, "seeds=[1,2]", killed_when="seed 2: done in")
    assert code == -signal.SIGKILL, said
    before = made(said)
    assert 1 <= len(before) < 4

    code, said, _ = run(workspace, "seeds=[1,2]")
    assert code == 0, said
    cells = {f"1m n={n} seed 2" for n in (1, 2, 3)}
    assert {"report"} <= made(said) <= {*cells, "report"} - before
    grown = results(workspace)
    assert [cell for cell in grown["cells"] if cell["seed"] == 1] == first["cells"]
    assert {row["seeds"] for row in grown["summary"]} == {2}
