"""`pipelines/store.py` on a store that the full recipe's plan would use: what it says and what it leaves alone."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.flow.folder import RUN_FILE, link
from components.flow.identity import canonical
from components.flow.node import Several
from components.flow.plan import make_plan
from components.flow.run import workspace_lock
from components.flow.store import Manifest, Store
from pipelines.compose import compose
from pipelines.full import full
from pipelines.store import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A result for every node of the demo recipe, as if it had been run; the files themselves are empty."""
    recipe, _ = compose(["conf=demo"])
    store = Store(tmp_path)
    run = tmp_path / "demo-20260101-000000"
    run.mkdir()
    digests: dict[str, str] = {}
    stages = {}
    for row in make_plan(full(recipe, ("conf=demo",)), store).nodes:
        node = row.node
        inputs = [
            [digests[n.name] for n in item.nodes] if isinstance(item, Several) else digests[item.name]
            for item in node.inputs
        ]
        key = row.identity.key(inputs)
        attempt = store.new_attempt(node.stage.name, key, keep_work=False)
        digests[node.name] = f"{node.name} digest"
        manifest = Manifest(
            node.stage.name, node.name, node.title, key, row.recipe_key, attempt.name,
            dataclasses.asdict(row.identity),
            [{"name": i.name, "key": "0" * 20, "digest": digests[i.name]} for i in node.flat_inputs()],
            {"path": ".", "digest": digests[node.name]}, 1e9, 61.0, {"processor": "P", "cores": 2},
            {"torch": "2"}, "abc", ["pipelines/full.py"], [], None, row.source,
        )  # fmt: skip
        store.commit(manifest)
        link(run, node.name, attempt)
        stages[node.name] = {"stage": node.stage.name, "key": key}
    record = {"name": "demo", "recipe": canonical(recipe), "stages": stages, "command": ["full.py", "conf=demo"]}
    (run / RUN_FILE).write_text(json.dumps(record | {"status": "FINISHED", "whole": True}))
    (tmp_path / "latest").symlink_to(run.name)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], workspace: Path, *arguments: str) -> str:
    assert main(["--workspace", str(workspace), *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_list_names_every_result_and_the_run_that_links_to_it(
    capsys: pytest.CaptureFixture[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = said(capsys, workspace, "list")
    for name in ("corpus", "pretrain-n1", "pretrain-n4", "decode-n4", "report"):
        assert f" {name} " in text
    assert text.count("demo (latest)") == 14


def test_why_tells_what_made_it_and_what_would_make_it_stale(
    capsys: pytest.CaptureFixture[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    text = said(capsys, workspace, "why", "pretrain-n4")
    assert "commit abc" in text
    assert "training.learning_rate=0.0008" in text
    assert "components/training/loss.py" in text
    assert "contents shards" in text
    assert "Now reused: made 2001-09-09" in text
    assert "Now reused" in said(capsys, workspace, "why", "latest/report")
    assert main(["why", "latest/report", f"workspace={workspace}"]) == 0  # as a run takes it
    assert "Now reused" in capsys.readouterr().out


def test_why_says_that_changed_code_would_run_again(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    manifest = (workspace / "latest" / "pretrain-n4").resolve().parent / "manifest.json"
    record = json.loads(manifest.read_text())
    record["source"]["components/training/loss.py"] = "0"
    manifest.write_text(json.dumps(record))
    assert "Now run: source changed: components/training/loss.py" in said(capsys, workspace, "why", "pretrain-n4")


def test_diff_names_the_one_field_that_differs(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    text = said(capsys, workspace, "diff", "pretrain-n1", "pretrain-n4")
    assert "identity config.model.n_future_tokens 1 → 4" in text
    assert "code" not in text
    assert "nothing to compare" in said(capsys, workspace, "diff", "corpus", "tokenizer")
    assert "same result" in said(capsys, workspace, "diff", "corpus", "demo-20260101-000000/corpus")


def test_gc_touches_nothing_unless_told_to(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    (Store(workspace).new_attempt("pretrain", "9" * 20, keep_work=True) / "x").write_text("lost")
    before = {*workspace.rglob("*")}
    assert "1 could go" in said(capsys, workspace, "gc")
    assert {*workspace.rglob("*")} - {workspace / "driver.lock"} == before
    assert "Deleted 1" in said(capsys, workspace, "gc", "--delete")
    assert "Nothing to clear" in said(capsys, workspace, "gc")
    assert len([*Store(workspace).root.glob("pretrain/*")]) == 2


def test_gc_waits_for_no_driver_and_disturbs_none(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    program = "import sys,time; from pathlib import Path; from components.flow.run import workspace_lock\n"
    program += "with workspace_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", program, str(workspace)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert main(["--workspace", str(workspace), "gc", "--delete"]) == 2
        assert "another driver works in" in capsys.readouterr().err
    finally:
        other.kill()
        other.communicate()
    with workspace_lock(workspace):
        pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("why", "pretrain-n8"), "has corpus, decode-n4, evaluate-n1"),
        (("diff", "corpus", "nothing"), "leads to no result"),
    ],
)
def test_a_name_that_leads_nowhere_lists_what_there_is(
    capsys: pytest.CaptureFixture[str], workspace: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert main(["--workspace", str(workspace), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_without_a_store_is_said_to_be_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--workspace", str(tmp_path), "list"]) == 2
    assert "has no store" in capsys.readouterr().err
