"""The plan: what is reused, what runs and why, decided from the store alone."""

import sys
from pathlib import Path

import pytest
from toy_pipeline import Number, graph, plan

from components.flow.node import Graph, several
from components.flow.plan import make_plan, select
from components.flow.store import Manifest, NewerStore, Store, encode_artifact


def commit(workspace: Path, value: int = 3, source: object = None, **parameters: object) -> None:
    """Put a result for every node into the store, as a run would; `source` in place of today's."""
    store = Store(workspace)
    digests: dict[str, str] = {}
    for node_plan in plan(workspace, value=value, **parameters).nodes:
        node = node_plan.node
        inputs = [
            [digests[n.name] for n in item.nodes] if hasattr(item, "nodes") else digests[item.name]
            for item in node.inputs
        ]
        key = node_plan.identity.key(inputs)
        attempt = store.new_attempt(node.stage.name, key, keep_work=False)
        digests[node.name] = f"digest of {key}"
        artifact = encode_artifact(Number(attempt, digests[node.name], value), attempt)
        identity = {"version": 1, "config": node_plan.identity.config, "external": None, "machine": None}
        names = [{"name": i.name, "digest": digests[i.name]} for i in node.flat_inputs()]
        store.commit(
            Manifest(
                node.stage.name, node.name, node.title, key, node_plan.recipe_key, attempt.name,
                identity, names, artifact, 0.0, 1.0, {}, {}, None, [], [], None, source or node_plan.source,
            )
        )  # fmt: skip


def statuses(workspace: Path, **parameters: object) -> dict[str, str]:
    return {p.node.name: p.status for p in plan(workspace, **parameters).nodes}


def test_an_empty_workspace_runs_everything(tmp_path: Path) -> None:
    assert set(statuses(tmp_path).values()) == {"run"}
    assert plan(tmp_path).nodes[0].reason == "first time"


def test_a_finished_recipe_is_reused_whole(tmp_path: Path) -> None:
    commit(tmp_path)
    assert set(statuses(tmp_path).values()) == {"reused"}


def test_one_changed_field_runs_its_stage_and_what_depends_on_it_and_says_why(tmp_path: Path) -> None:
    commit(tmp_path)
    rows = {p.node.name: p for p in plan(tmp_path, steps=6).nodes}
    assert {n: p.status for n, p in rows.items()} == {
        "source": "reused",
        "scale": "reused",
        "count": "run",
        "total": "run",
    }
    assert rows["count"].reason == "steps 5 → 6"
    assert rows["total"].reason == "depends on count"


def test_partial_work_is_continued(tmp_path: Path) -> None:
    commit(tmp_path)
    count = next(p for p in plan(tmp_path, steps=9).nodes if p.node.name == "count")
    source = next(p for p in plan(tmp_path).nodes if p.node.name == "source")
    assert source.manifest is not None
    key = count.identity.key([source.manifest.artifact["digest"]])
    work = Store(tmp_path).place("count", key) / "work"
    work.mkdir(parents=True)
    (work / "committed.json").write_text('{"done": 4, "total": 9}')
    row = next(p for p in plan(tmp_path, steps=9).nodes if p.node.name == "count")
    assert (row.status, row.reason) == ("continue", "from 4 of 9")
    assert row.cost is not None
    assert row.cost.core_seconds == pytest.approx(5.0)  # of nine seconds five are left


def test_inputs_of_a_reused_result_need_not_exist(tmp_path: Path) -> None:
    commit(tmp_path)
    for name in ("source", "count"):
        for path in (tmp_path / "store" / name).glob("*/manifest.json"):
            path.unlink()
    assert statuses(tmp_path) == {
        "source": "not needed",
        "scale": "reused",
        "count": "not needed",
        "total": "reused",
    }


def test_reuse_none_runs_everything(tmp_path: Path) -> None:
    commit(tmp_path)
    rows = make_plan(graph(), Store(tmp_path), reuse="none").nodes
    assert {p.status for p in rows} == {"run"}


def test_reuse_none_of_chosen_stages_reuses_what_they_read(tmp_path: Path) -> None:
    commit(tmp_path)
    chosen = select(graph(), only=["scale"])
    rows = {p.node.name: p for p in make_plan(chosen, Store(tmp_path), reuse="none", only=["scale"]).nodes}
    assert {name: row.status for name, row in rows.items()} == {"source": "reused", "scale": "run"}
    assert rows["scale"].anew
    assert not rows["source"].anew


def test_reuse_none_makes_anew_once_what_an_earlier_job_of_the_invocation_made(tmp_path: Path) -> None:
    commit(tmp_path)
    made = {p.recipe_key for p in make_plan(graph(), Store(tmp_path), reuse="none").nodes}
    rows = make_plan(graph(factor=3), Store(tmp_path), reuse="none", made=made).nodes
    assert {p.node.name: p.status for p in rows} == {
        "source": "reused", "scale": "run", "count": "reused", "total": "run",
    }  # fmt: skip


def test_only_refuses_to_run_anything_else(tmp_path: Path) -> None:
    chosen = select(graph(), only=["scale"])
    assert [n.name for n in chosen.nodes] == ["source", "scale"]
    with pytest.raises(ValueError, match="needs source"):
        make_plan(chosen, Store(tmp_path), only=["scale"])


def test_selection_up_to_a_stage_and_of_one_that_does_not_exist() -> None:
    assert [n.name for n in select(graph(), until="count").nodes] == ["source", "count"]
    with pytest.raises(
        ValueError, match=r"no stage is called cuont; did you mean count\? there are count, scale, source, total"
    ):
        select(graph(), until="cuont")


def test_two_nodes_of_one_name_are_refused() -> None:
    from toy_pipeline import Scale, Source, scale, source, total

    start = source.bind(Source())
    twins = [scale.bind(Scale(2), start), scale.bind(Scale(3), start)]
    with pytest.raises(ValueError, match="two nodes are called 'scale'"):
        Graph.of(total.bind(None, several(twins)))


def test_planning_imports_no_heavy_library(tmp_path: Path) -> None:
    import subprocess

    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from toy_pipeline import plan; "
        "plan(Path(sys.argv[2])); print([m for m in ('ray', 'torch', 'mlflow') if m in sys.modules])"
    )
    here = str(Path(__file__).parent)
    printed = subprocess.run(
        [sys.executable, "-c", program, here, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


OTHER_SOURCE = {"elsewhere.py": "0"}


def test_results_of_other_source_run_again_and_what_depends_on_them_waits_to_see(tmp_path: Path) -> None:
    commit(tmp_path)
    edited = {p.node.name: p for p in plan(tmp_path).nodes}["scale"]
    path = tmp_path / "store" / "scale" / edited.manifest.key / "manifest.json"  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(edited.source["toy_pipeline.py"], "0" * 12))
    rows = {p.node.name: p for p in plan(tmp_path).nodes}
    assert {n: p.status for n, p in rows.items()} == {
        "source": "reused", "scale": "run", "count": "reused", "total": "run",
    }  # fmt: skip
    assert rows["scale"].reason == "source changed: toy_pipeline.py"
    assert rows["total"].reason == "depends on scale"


def test_what_is_two_steps_below_other_source_waits_to_see_as_well(tmp_path: Path) -> None:
    commit(tmp_path)
    edited = {p.node.name: p for p in plan(tmp_path).nodes}["source"]
    path = tmp_path / "store" / "source" / edited.manifest.key / "manifest.json"  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(edited.source["toy_pipeline.py"], "0" * 12))
    assert set(statuses(tmp_path).values()) == {"run"}


def test_reuse_config_takes_results_of_other_source_and_says_so(tmp_path: Path) -> None:
    commit(tmp_path, source=OTHER_SOURCE)
    assert set(statuses(tmp_path).values()) == {"run"}
    rows = make_plan(graph(), Store(tmp_path), reuse="config").nodes
    assert {p.status for p in rows} == {"reused"}
    assert all("source changed since: elsewhere.py" in p.reason for p in rows)


def test_partial_work_goes_on_under_other_source_and_says_so(tmp_path: Path) -> None:
    commit(tmp_path)
    rows = {p.node.name: p for p in plan(tmp_path, steps=9).nodes}
    key = rows["count"].identity.key([rows["source"].manifest.artifact["digest"]])  # type: ignore[union-attr]
    store = Store(tmp_path)
    store.new_attempt("count", key, keep_work=True)
    store.begin("count", key, OTHER_SOURCE, "abc")
    (store.place("count", key) / "work" / "committed.json").write_text('{"done": 4, "total": 9}')
    row = next(p for p in plan(tmp_path, steps=9).nodes if p.node.name == "count")
    assert row.status == "continue"
    assert row.reason.startswith("from 4 of 9, begun under other source: elsewhere.py")


def test_a_store_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    commit(tmp_path)
    assert (tmp_path / "store" / "format").read_text() == "1\n"
    (tmp_path / "store" / "format").write_text("2\n")
    with pytest.raises(NewerStore, match="format 2, made by a newer version"):
        Store(tmp_path)
