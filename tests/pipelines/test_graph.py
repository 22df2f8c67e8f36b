"""The full pipeline's graph: what depends on what, and what enters an identity."""

import dataclasses

from components.flow.identity import identity_of
from pipelines.compose import compose
from pipelines.full import full
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
