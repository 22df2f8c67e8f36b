"""Experiments: what a grid consists of, what it costs to change it, and what is refused."""

import dataclasses
import io
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console

from components.flow.identity import identity_of
from components.flow.plan import make_plan
from components.flow.store import Store
from components.report.grid import EQUAL_FLOPS
from pipelines.compose import Faults, compose
from pipelines.experiment import Experiment
from pipelines.jobs import capacity_of, problems_here
from pipelines.programs import FULL, SYNTHETIC
from pipelines.simulation import simulated_table
from pipelines.synthetic import grid

LAPTOP = ("induction_small", "polynomial_small", "path_star", "curriculum_small")


def composed(*overrides: str) -> Experiment:
    return compose(overrides, SYNTHETIC)[0]


def faults(*overrides: str) -> list[str]:
    with pytest.raises(Faults) as caught:
        compose(overrides, SYNTHETIC)
    return caught.value.faults


@pytest.mark.parametrize("name", sorted(SYNTHETIC.recipes()))
def test_every_experiment_composes_under_its_own_name_and_can_be_planned(name: str, tmp_path: Path) -> None:
    recipe = composed(f"conf={name}")
    assert recipe.name == name
    assert SYNTHETIC.recipes()[name], f"conf/{name}.yaml needs a first comment line for --help"
    plan = make_plan(grid(recipe), Store(tmp_path), capacity=capacity_of(recipe, plan=True))
    cells = [row for row in plan.nodes if row.node.stage.name in ("train_cell", "train_text_cell")]
    assert len(cells) == len(recipe.seeds) * len(recipe.sizes) * len([*recipe.ways()])
    assert all(row.cost and row.cost.flops and capacity_of(recipe, plan=True).fits(row.cost) for row in cells)


def test_the_laptop_s_are_those_for_this_machine() -> None:
    assert SYNTHETIC.for_this_machine() == set(LAPTOP)
    assert not set(LAPTOP) & FULL.recipes().keys()


def test_a_recipe_of_the_other_program_is_sent_there() -> None:
    assert faults("conf=demo") == ["conf=demo is a recipe of another program: python pipelines/full.py conf=demo"]
    with pytest.raises(Faults, match=r"python pipelines/synthetic\.py conf=path_star"):
        compose(["conf=path_star"])


def test_the_grid_is_every_size_n_schedule_and_seed_a_seed_after_the_other() -> None:
    recipe = composed("conf=induction_small", "+schedules.light={n_future_tokens: 2, head_weights: [1.0, 0.5]}")
    names = [node.name for node in grid(recipe).nodes]
    assert names == [
        *(f"{size}-{way}-seed{seed}" for seed, size, way in product(recipe.seeds, recipe.sizes, ("n1", "n2", "light"))),
        "report",
    ]
    light = next(cell for cell in recipe.cells() if cell.schedule == "light")
    assert (light.model.n_future_tokens, light.training.head_weights) == (2, (1.0, 0.5))


@pytest.mark.parametrize("name", LAPTOP)
def test_cells_of_a_size_have_equal_parameters_tokens_and_all_else_but_what_they_compare(name: str) -> None:
    recipe = composed(f"conf={name}")
    for size in recipe.sizes:
        cells = [cell for cell in recipe.cells() if cell.size == size]
        assert len({cell.model.n_parameters() for cell in cells}) == 1
        plain = [cell for cell in cells if not cell.schedule]
        assert len({cell.training.tokens for cell in plain}) == 1
        for cell in cells:
            same = dataclasses.replace(cell.training, seed=1, head_weights=None, curriculum="none", steps=1)
            assert same == dataclasses.replace(plain[0].training, seed=1, steps=1)


def test_one_more_seed_or_n_leaves_every_other_cell_what_it_was() -> None:
    before = {node.name: identity_of(node) for node in grid(composed("conf=polynomial_small")).nodes}
    more = composed("conf=polynomial_small", "seeds=[1,2,3,4]", "future_tokens=[1,2,3,4]")
    after = {node.name: identity_of(node) for node in grid(more).nodes}
    assert {name for name in before if after[name] != before[name]} == {"report"}


def test_how_cells_are_run_is_no_part_of_what_they_are() -> None:
    here = grid(composed("conf=path_star")).nodes
    elsewhere = grid(composed("conf=path_star", "cluster=gpu_each")).nodes
    assert [identity_of(node) for node in here] == [identity_of(node) for node in elsewhere]


def test_a_field_of_a_schedule_can_be_given() -> None:
    recipe = composed("conf=curriculum_small", "schedules.light.head_weights=[1,0.5]")
    assert recipe.schedules["light"].head_weights == (1, 0.5)
    assert faults("conf=curriculum_small", "schedules.light.head_wights=[1]") == [
        "schedules.light.head_wights: no such key; did you mean schedules.light.head_weights?"
    ]


def test_what_belongs_to_every_size_is_named_there() -> None:
    assert faults("conf=path_star", "training.steps=5") == [
        "training.steps: no such key; did you mean sizes.NAME.training.steps?"
    ]


def test_what_cannot_be_is_said_before_anything_runs() -> None:
    assert faults("conf=polynomial_small", "polynomial.p=6", "polynomial.d=0") == [
        "polynomial.d is 0; it must be at least 1",
        "polynomial.p is 6; it must be a prime, at most 251",
    ]
    assert faults("conf=path_star", "path_star.edges=4") == [
        "sizes.700k.training.context_length is 25, less than the longest example of the task, 32 tokens: give at least "
        "that"
    ]
    assert faults("conf=induction_small", "future_tokens=[1,5]")[0] == (
        "sizes.300k with n = 5: n_future_tokens is 5 with 5 layers; each parallel head is one of the layers and at "
        "least one must stay for the trunk: at most 4, raise layers, or set extra_layers"
    )
    assert faults("conf=path_star", "seeds=[1,1]") == ["seeds is [1, 1]; each may stand once"]
    assert faults("conf=path_star", "sizes.1m.training.seed=3") == [
        "sizes.1m.training.seed cannot be given: seeds=[1,2,3] lists them"
    ]


def test_a_setting_that_would_do_nothing_or_something_else_is_refused() -> None:
    assert faults("conf=path_star", "polynomial.p=5") == [
        "polynomial is given, but task is path_star, which does not use it: leave it out"
    ]
    assert faults("conf=curriculum_small", "schedules.light.head_weights=[1.0]") == [
        "sizes.3m with light: head_weights has 1 numbers for 2 prediction heads; give one each"
    ]
    assert faults("conf=curriculum_small", "sizes.3m.training.curriculum=reverse") == [
        "3m reverse is the same training as 3m n=2: change one, or leave it out"
    ]
    assert faults("conf=polynomial_small", "polynomial.test_operations=1") == [
        "polynomial.test_operations is 1; it must be at least 2"
    ]
    assert faults("conf=induction", "tokenizer=bytes", "text.stories_of=books") == [
        "text.stories needs names of two tokens, which a tokenizer of kind bytes has not: take sentencepiece",
        "text.stories_of is 'books'; corpus.mixture has no mixture: give one of its parts",
    ]
    assert faults("conf=path_star", "cluster.training.evaluate_every=5") == [
        "cluster.training.evaluate_every is given; the test of an experiment is taken `looks` times instead"
    ]


def test_every_schedule_of_curriculum_small_has_an_n_of_1_that_takes_as_many_flops(tmp_path: Path) -> None:
    recipe = composed("conf=curriculum_small", "seeds=[1]")
    plan = make_plan(grid(recipe), Store(tmp_path), capacity=capacity_of(recipe, plan=True))
    flops = {
        row.node.name: row.cost.flops for row in plan.nodes if row.node.stage.name == "train_text_cell" and row.cost
    }
    for one, others in {
        "longer": ("n2", "light"),
        "shorter": ("forward", "reverse"),
        "shortest": ("reverse4",),
    }.items():
        for other in others:
            ratio = flops[f"3m-{other}-seed1"] / flops[f"3m-{one}-seed1"]
            assert ratio == pytest.approx(1, abs=EQUAL_FLOPS / 2), (one, other)


def test_a_machine_without_a_compiler_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for override, there in (("true", 1), ("false", 0)):
        recipe = composed("conf=path_star", f"cluster.training.compile={override}")
        plan = make_plan(grid(recipe), Store(tmp_path), capacity=capacity_of(recipe, plan=True))
        assert len(problems_here(plan, recipe)) == there
    elsewhere = composed("conf=path_star", "cluster.address=there:6379")
    assert not problems_here(plan, elsewhere), "another machine's compiler is its own"


def test_sizes_and_schedules_can_be_left_out() -> None:
    left = composed("conf=curriculum_small", "leave_out=[light,reverse4,forward,shorter,shortest]")
    assert {cell.schedule for cell in left.cells()} == {"", "longer", "reverse"}
    assert {cell.size for cell in composed("conf=induction", "leave_out=[1b,300m,100m]").cells()} == {
        *("1m", "3m", "10m", "30m")
    }
    assert faults("conf=path_star", "leave_out=[3m]") == ["leave_out has 3m; there are 700k, anticausal"]
    for nothing in (("leave_out=[700k]",), ("future_tokens=[]", "leave_out=[anticausal]")):
        assert faults("conf=path_star", *nothing) == [
            "nothing is left to train: leave_out names all sizes, or all schedules while future_tokens is empty"
        ]
    short = "sizes.1m.training.context_length=16"  # less than a story
    assert len(faults("conf=induction_small", short)) == 1
    assert composed("conf=induction_small", short, "leave_out=[1m]")


def test_an_experiment_without_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="sizes is empty"):
        grid(Experiment())


def test_a_simulation_has_a_line_for_every_kind_of_cell() -> None:
    """Those that differ by their seed alone are simulated once."""
    recipe = composed("conf=polynomial_small", "future_tokens=[1,4]", "seeds=[1,2]")
    capacity = capacity_of(recipe, plan=True)
    console = Console(width=200, file=io.StringIO())
    console.print(simulated_table([make_plan(grid(recipe), Store(Path("nowhere")), capacity=capacity)], capacity, 200))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("1m")]
    assert [line.split("  ")[0] for line in lines] == [f"1m n={n} seed 1, 1m n={n} seed 2" for n in (1, 4)]
