"""The full pipeline's graph: what depends on what, and what enters an identity."""

import dataclasses
from pathlib import Path

import pytest

from components.flow.identity import identity_of, machine
from components.flow.node import Several
from pipelines.compose import compose
from pipelines.full import WAY, full
from pipelines.jobs import plan_job
from pipelines.launch import Job
from pipelines.recipe import Recipe


def edges(recipe: Recipe) -> dict[str, list[str]]:
    return {n.name: [i.name for i in n.flat_inputs()] for n in full(recipe).nodes}


def test_the_way_of_the_data() -> None:
    recipe, _ = compose(["conf=demo"])
    found = edges(recipe)
    assert found["tokenizer"] == ["corpus"]
    assert found["pretrain-n4"] == ["shards"]
    assert found["finetune-n4to1"] == ["pretrain-n4", "pairs"]
    assert found["decode-n4"] == ["pretrain-n4", "shards"]
    assert "decode-n1" not in found
    assert {"evaluate-n1", "evaluate-n4", "decode-n4", "finetune-n1to1"} <= {*found["report"]}


def test_a_scaling_study_fans_out_over_sizes_and_n() -> None:
    recipe, _ = compose(["conf=scaling_small", "finetunes=[[4,1]]"])
    found = edges(recipe)
    assert [name for name in found if name.startswith("pretrain")] == [
        f"pretrain-{size}-n{n}" for size in ("1m", "3m", "9m") for n in (1, 4)
    ]
    assert found["decode-3m-n4"] == ["pretrain-3m-n4", "shards"]
    assert found["evaluate-9m-n1"] == ["pretrain-9m-n1", "shards", "corpus"]
    assert found["finetune-1m-n4to1"] == ["pretrain-1m-n4", "pairs"]
    nodes = {n.name: n for n in full(recipe).nodes}
    assert nodes["pretrain-3m-n4"].title == "3m n=4 pretrain"
    for size, sized in recipe.sizes.items():
        for n in (1, 4):
            config = nodes[f"pretrain-{size}-n{n}"].config
            assert config.model == recipe.model_for(n, size)
            assert dataclasses.replace(config.training, seed=sized.training.seed) == sized.training


def test_a_study_of_arrangements_trains_every_n_above_1_in_each() -> None:
    recipe, _ = compose(["conf=heads_small", "future_tokens=[1,2,4]", "finetunes=[[1,1],[4,1]]"])
    found = edges(recipe)
    names = ("linear", "anticausal", "causal", "parallel", "parallel_extra_layers")
    assert [name for name in found if name.startswith("pretrain")] == [
        "pretrain-n1",
        *(f"pretrain-{name}-n{n}" for n in (2, 4) for name in names),
    ]
    assert "decode-n1" not in found
    assert found["decode-causal-n2"] == ["pretrain-causal-n2", "shards"]
    assert found["evaluate-linear-n4"] == ["pretrain-linear-n4", "shards", "corpus"]
    assert found["finetune-n1to1"] == ["pretrain-n1", "pairs"]
    assert found["finetune-anticausal-n4to1"] == ["pretrain-anticausal-n4", "pairs"]
    nodes = {n.name: n for n in full(recipe).nodes}
    assert nodes["pretrain-causal-n4"].title == "causal n=4 pretrain"
    shapes = {name: nodes[f"pretrain-{name}-n4"].config.model for name in names}
    assert [shape.arrangement for shape in shapes.values()] == [*names[:4], "parallel"]
    assert [shape.extra_layers for shape in shapes.values()] == [False] * 4 + [True]
    ordinary = nodes["pretrain-n1"].config
    for name, shape in shapes.items():
        assert (
            dataclasses.replace(shape, n_future_tokens=1, arrangement="parallel", extra_layers=False) == ordinary.model
        )
        assert nodes[f"pretrain-{name}-n4"].config.training == ordinary.training


def test_one_head_is_trained_once_whatever_the_arrangement_of_more() -> None:
    """Sweeps over model.arrangement, studies of arrangements and ordinary recipes share what n = 1 is."""
    asked = [
        ["conf=heads_small"],
        ["conf=heads_small", "arrangements=[]"],
        *(["conf=heads_small", "arrangements=[]", f"model.arrangement={name}"] for name in ("causal", "linear")),
        ["conf=heads_small", "arrangements=[]", "model.extra_layers=true"],
    ]
    keys = [{n.name: identity_of(n) for n in full(compose(overrides)[0]).nodes} for overrides in asked]
    for stage in ("pretrain", "evaluate"):
        assert all(found[f"{stage}-n1"] == keys[0][f"{stage}-n1"] for found in keys)
    four = [keys[0][f"pretrain-{name}-n4"] for name in ("parallel", "causal", "linear", "parallel_extra_layers")]
    assert [found["pretrain-n4"] for found in keys[1:]] == four
    assert len({repr(key) for key in four}) == 4


@pytest.mark.parametrize(("conf", "study"), [("scaling_small", "sizes"), ("heads_small", "arrangements")])
def test_the_report_is_told_what_every_input_is_of(conf: str, study: str) -> None:
    report = full(compose([f"conf={conf}", "finetunes=[[1,1],[4,1]]"])[0]).nodes[-1]
    groups = [[n.name for n in item.nodes] for item in report.inputs if isinstance(item, Several)]
    of = getattr(report.config, study)
    for names, labels in zip(groups, (of.checkpoints, of.evaluations, of.benchmarks), strict=True):
        assert ["-".join(name.split("-")[1:-1]) for name in names] == list(labels)
    others = {"sizes", "arrangements"} - {study}
    assert [getattr(report.config, other) for other in others] == [None]


def test_a_size_has_the_identity_of_the_same_model_in_a_recipe_of_its_own() -> None:
    """A study reuses what was made outside it, and the other way round."""
    study, alone = (full(compose([f"conf={conf}"])[0]).nodes for conf in ("scaling", "code_13b"))
    keys = [{n.name: identity_of(n) for n in nodes} for nodes in (study, alone)]
    for stage, numbers in {"pretrain": (1, 2, 4), "evaluate": (1, 2, 4), "decode": (2, 4)}.items():
        for n in numbers:
            assert keys[0][f"{stage}-13b-n{n}"] == keys[1][f"{stage}-n{n}"]


def test_given_pairs_need_no_corpus(tmp_path: Path) -> None:
    recipe, _ = compose(["conf=codecontests_7b", f"pairs.path={tmp_path}"])
    found = edges(recipe)
    assert found["pairs"] == []
    assert found["finetune-n4to4"] == ["pretrain-n4", "pairs"]


def test_how_it_runs_is_no_part_of_what_it_is() -> None:
    recipe, _ = compose(["conf=demo"])
    other = dataclasses.replace(
        recipe.cluster.training, workers=2, micro_batch_sequences=4, checkpoint_every=7, log_every=3
    )
    moved = dataclasses.replace(recipe, cluster=dataclasses.replace(recipe.cluster, training=other))
    for before, after in zip(full(recipe).nodes, full(moved).nodes, strict=True):
        assert identity_of(before) == identity_of(after)


def test_models_of_one_recipe_differ_in_n_alone() -> None:
    recipe, _ = compose(["conf=demo"])
    configs = {n.name: n.config for n in full(recipe).nodes if n.stage.name == "pretrain"}
    one, four = configs["pretrain-n1"], configs["pretrain-n4"]
    assert dataclasses.replace(four.model, n_future_tokens=1) == one.model
    assert one.training == four.training
    assert one.model.n_parameters() == four.model.n_parameters()


def test_a_seed_changes_training_and_not_the_data() -> None:
    nodes = [{n.name: identity_of(n) for n in full(compose([f"seed={s}"])[0]).nodes} for s in (1, 2)]
    changed = {name for name in nodes[0] if nodes[0][name] != nodes[1][name]}
    assert changed == {"pretrain-n1", "pretrain-n4", "finetune-n1to1", "finetune-n4to1"}


def test_a_time_measured_on_one_kind_of_gpu_is_not_reused_on_another(tmp_path: Path) -> None:
    """The driver of a cluster may have no GPU: its own machine says nothing of what the nodes measure."""
    machines = {}
    for overrides in (["gpu=h100"], ["gpu=a100"], ["cluster=laptop"]):
        recipe, options = compose(["conf=code_300m", f"workspace={tmp_path}", "plan=true", *overrides])
        plan, _ = plan_job(WAY, Job(recipe, options, ()))
        rows = {row.node.name: row for row in plan.nodes}
        machines[overrides[0]] = rows["decode-n4"].identity.machine
        assert rows["pretrain-n4"].identity.machine is None
    assert [machines[f"gpu={kind}"]["device"] for kind in ("h100", "a100")] == ["H100", "A100"]
    assert "processor" not in machines["gpu=h100"]
    assert machines["cluster=laptop"] == machine()
