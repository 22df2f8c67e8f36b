"""A grid by its command: cells side by side, the page of what there is so far, reuse, one more seed."""

import contextlib
import json
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


def run(workspace: Path, *overrides: str) -> tuple[int, str, bool]:
    """Exit code, what it said, and whether the page of what there was so far was seen."""
    command = [sys.executable, str(ROOT / "pipelines" / "synthetic.py"), f"workspace={workspace}", *TINY, *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        seen = False
        while process.poll() is None:
            page = workspace / "latest" / "so-far" / "index.html"
            with contextlib.suppress(FileNotFoundError):  # not there yet, or no more
                seen = seen or "to come" in page.read_text(encoding="utf-8")
            time.sleep(0.05)
        assert process.stdout is not None
        return process.returncode, process.stdout.read(), seen


def results(workspace: Path) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads((workspace / "latest/report/results.json").read_text())
    return found


def test_a_grid_runs_reuses_and_grows_by_a_seed(tmp_path: Path) -> None:
    code, said, seen = run(tmp_path, "seeds=[1]")
    assert code == 0, said
    assert seen, "the page of what there is so far"
    assert not (tmp_path / "latest" / "so-far").exists()
    first = results(tmp_path)
    assert [(cell["n_future_tokens"], cell["seed"]) for cell in first["cells"]] == [(1, 1), (2, 1), (3, 1)]
    assert f"So far     {tmp_path}/latest/so-far/index.html" in said

    code, said, _ = run(tmp_path, "seeds=[1]")
    assert (code, "Ray dashboard" in said) == (0, False), said
    assert said.count("reused") >= 4

    code, said, _ = run(tmp_path, "seeds=[1,2]")
    assert code == 0, said
    made = [line for line in said.splitlines() if ": done in" in line]
    assert sorted(line.split(":")[0] for line in made) == ["1m n=1 seed 2", "1m n=2 seed 2", "1m n=3 seed 2", "report"]
    grown = results(tmp_path)
    assert [cell for cell in grown["cells"] if cell["seed"] == 1] == first["cells"]
    assert {row["seeds"] for row in grown["summary"]} == {2}
