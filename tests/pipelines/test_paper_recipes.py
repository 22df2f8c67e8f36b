"""Recipes and groups against the paper's Tables S13 and S14 (Appendix M), copied here by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from components.flow.fit import misfits
from components.flow.plan import make_plan
from components.flow.store import Store
from components.model.config import ModelConfig
from components.synthetic.config import PolynomialConfig, TextConfig
from components.training.config import TrainingConfig
from pipelines.compose import compose
from pipelines.full import full
from pipelines.jobs import capacity_of
from pipelines.keys import groups
from pipelines.programs import FULL, SYNTHETIC
from pipelines.recipe import Recipe

VOCABULARY = 32_000

# Table S14: dim, layers, heads. Then by counting Llama layers: parameters without embeddings, and all, to the digits
# given; the synthetic sizes are named by the former, the others by the latter.
SIZES = {
    "synthetic_1m": (128, 5, 4, 1.3e6, 9.5e6),
    "synthetic_3m": (256, 4, 8, 3.4e6, 19.8e6),
    "synthetic_10m": (384, 6, 8, 10.6e6, 35.2e6),
    "synthetic_30m": (512, 10, 8, 34.1e6, 66.9e6),
    "synthetic_100m": (768, 14, 12, 99.1e6, 148e6),
    "synthetic_300m": (1024, 25, 16, 321e6, 387e6),
    "synthetic_1b": (1536, 36, 24, 1.02e9, 1.12e9),
    "300m": (1024, 18, 16, 231e6, 297e6),
    "600m": (1280, 27, 20, 549e6, 631e6),
    "1b": (2048, 24, 16, 1.23e9, 1.36e9),
    "3b": (2560, 36, 20, 2.85e9, 3.02e9),
    "7b": (4096, 32, 32, 6.48e9, 6.74e9),
    "13b": (5120, 40, 40, 12.69e9, 13.02e9),
}

# Table S13: batch in 2^20 tokens, steps, billions of tokens as printed, warm-up, peak rate, context, decay ratio.
TRAININGS = {
    "scaling_300m_to_3b": (8, 10_850, 91.0, 1000, 3e-4, 4096, 0.03),
    "scaling_7b": (8, 25_000, 209.7, 2000, 3e-4, 4096, 0.03),
    "scaling_13b": (8, 25_000, 209.7, 1000, 3e-4, 4096, 0.03),
    "code_7b_200b": (8, 25_000, 209.7, 2000, 3e-4, 4096, 0.03),
    "code_7b_500b": (7, 68_570, 503.3, 2000, 3e-4, 4096, 0.03),
    "code_7b_1t": (7, 136_240, 1000.0, 2000, 3e-4, 4096, 0.03),
    "bytes_7b": (12, 25_000, 314.6, 2000, 3e-4, 8192, 0.03),
    "language_7b_200b": (8, 25_000, 209.7, 2000, 3e-4, 4096, 0.10),
    "language_7b_500b": (8, 60_000, 503.3, 2000, 3e-4, 4096, 0.10),
    "induction": (0.25, 100_000, 26.2, 2000, 1e-4, 2048, 0.03),
    "induction_books": (0.5, 50_000, 26.2, 2000, 1e-4, 2048, 0.03),
    "arithmetic_30m": (0.25, 100_000, 26.2, 2000, 1e-4, 1024, 0.03),
    "arithmetic_100m": (0.25, 100_000, 26.2, 2000, 1e-4, 2048, 0.03),
}
FINETUNES = {
    "bigpatent": (0.125, 76_680, 10.1, 100, 3e-5, 4096, 0.03),
    "cnn_dailymail": (0.125, 7_140, 0.9, 100, 3e-5, 4096, 0.03),
    "multi_news": (0.125, 3_330, 0.4, 100, 3e-5, 4096, 0.03),
    "orangesum": (0.125, 360, 0.0, 100, 3e-5, 4096, 0.03),
    "pn_summary": (0.125, 3_450, 0.5, 100, 3e-5, 4096, 0.03),
    "samsum": (0.125, 60, 0.0, 100, 3e-5, 4096, 0.03),
    "thaisum": (0.125, 23_640, 3.1, 100, 3e-5, 4096, 0.03),
    "wikisummary": (0.125, 2_550, 0.3, 100, 3e-5, 4096, 0.03),
    "xsum": (0.125, 2_760, 0.4, 100, 3e-5, 4096, 0.03),
    "codecontests": (0.25, 13_000, 3.6, 400, 5e-5, 4096, 0.004),
}

# Model, training, n; arrangement and tokenizer where they are not `parallel` and 32,000 symbols.
RECIPES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "code_300m": ("300m", "scaling_300m_to_3b", (1, 2, 4)),
    "code_600m": ("600m", "scaling_300m_to_3b", (1, 2, 4)),
    "code_1b": ("1b", "scaling_300m_to_3b", (1, 2, 4)),
    "code_3b": ("3b", "scaling_300m_to_3b", (1, 2, 4)),
    "code_7b": ("7b", "code_7b_200b", (1, 2, 4, 6, 8)),
    "code_7b_500b": ("7b", "code_7b_500b", (1, 2, 4, 6, 8)),
    "code_7b_1t": ("7b", "code_7b_1t", (1, 2, 4, 6, 8)),
    "code_13b": ("13b", "scaling_13b", (1, 2, 4)),
    "bytes_7b": ("7b", "bytes_7b", (1, 8, 16, 32)),
    "language_7b": ("7b", "language_7b_200b", (1, 2, 4)),
    "language_7b_500b": ("7b", "language_7b_500b", (1, 2, 4)),
    "codecontests_7b": ("7b", "code_7b_200b", (1, 4)),
    "summarization_7b": ("7b", "language_7b_200b", (1, 2, 4)),
}
# Table S4: layers in all, trunk, and parameters more than n = 1 ("+Layers 3"; linear heads are d x d).
ARRANGEMENTS = {
    "linear": (32, 32, 3 * 4096**2),
    "anticausal": (32, 28, 0),
    "causal": (32, 28, 0),
    "parallel": (32, 28, 0),
    "parallel_extra_layers": (35, 31, 3 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)),
}
STUDY = {
    "300m": "scaling_300m_to_3b",
    "600m": "scaling_300m_to_3b",
    "1b": "scaling_300m_to_3b",
    "3b": "scaling_300m_to_3b",
    "7b": "scaling_7b",
    "13b": "scaling_13b",
}
# Sections 4.1, 4.2 and Appendix J: training, sizes, n; of polynomials p, d, most operations in training and in test.
EXPERIMENTS: dict[str, tuple[str, tuple[str, ...], tuple[int, ...], tuple[int, ...]]] = {
    "induction": ("induction", ("1m", "3m", "10m", "30m", "100m", "300m", "1b"), (1, 2), ()),
    "induction_books": ("induction_books", ("1m", "3m", "10m", "30m", "100m", "300m", "1b"), (1, 2), ()),
    "polynomial_30m": ("arithmetic_30m", ("30m",), (1, 2, 4), (7, 5, 5, 10)),
    "polynomial_100m": ("arithmetic_100m", ("100m",), (1, 2, 4), (7, 5, 5, 10)),
}


def check_training(training: TrainingConfig, row: tuple[Any, ...], clip: float = 1.0) -> None:
    batch, steps, billions, warmup, rate, context, decay = row
    assert training.batch_tokens == batch * 2**20
    assert training.steps == steps
    assert training.warmup_steps == warmup
    assert training.learning_rate == rate
    assert training.context_length == context
    assert training.decay_ratio == decay
    assert (training.beta1, training.beta2, training.weight_decay, training.clip_norm) == (0.9, 0.95, 0.1, clip)
    if row is FINETUNES["codecontests"]:
        assert round(training.tokens / 1e9, 1) == 3.4  # the table prints 3.6, which its batch and steps do not give
    else:
        assert round(training.tokens / 1e9, 1) == billions


def check_model(model: ModelConfig, name: str) -> None:
    dim, layers, heads, without_embeddings, everything = SIZES[name]
    assert (model.dim, model.layers, model.n_attention_heads) == (dim, layers, heads)
    assert model.kv_heads == heads
    assert not model.tied_embeddings
    tables = (1 + model.n_unembeddings) * model.vocabulary_size * dim
    assert model.n_parameters() - tables == pytest.approx(without_embeddings, rel=0.01)
    if model.vocabulary_size == VOCABULARY:
        assert model.n_parameters() == pytest.approx(everything, rel=0.005)


def with_group(*overrides: str) -> Recipe:
    return compose(["conf=code_13b", *overrides])[0]


def test_every_row_of_the_tables_is_a_group() -> None:
    there = groups()
    assert set(there["model"]) >= {*SIZES}
    assert set(there["training"]) >= {*TRAININGS}
    assert set(there["finetune"]) >= {*FINETUNES}


@pytest.mark.parametrize("name", SIZES)
def test_a_model_group_has_the_shape_of_its_row(name: str) -> None:
    recipe = with_group(f"model={name}", "future_tokens=[1,2]")
    for n in (1, 2):
        check_model(recipe.model_for(n), name)
    assert recipe.model_for(1).n_parameters() == recipe.model_for(2).n_parameters()


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_group_has_the_numbers_of_its_row(name: str) -> None:
    recipe = with_group(f"training={name}", "evaluation.context_length=1024")
    check_training(recipe.training, TRAININGS[name])


@pytest.mark.parametrize("name", FINETUNES)
def test_a_finetuning_group_has_the_numbers_of_its_row(name: str) -> None:
    recipe, _ = compose(["conf=summarization_7b", f"finetune={name}"])
    check_training(recipe.finetune, FINETUNES[name], clip=0.1 if name == "codecontests" else 1.0)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_rows_with_its_n(name: str) -> None:
    size, training, numbers = RECIPES[name]
    recipe, _ = compose([f"conf={name}"])
    on_bytes = name == "bytes_7b"
    assert recipe.future_tokens == numbers
    assert recipe.tokenizer.kind == ("bytes" if on_bytes else "sentencepiece")
    assert recipe.tokenizer.size == (258 if on_bytes else VOCABULARY)
    assert not recipe.sizes
    check_training(recipe.training, TRAININGS[training])
    for n in numbers:
        check_model(recipe.model_for(n), size)
        assert recipe.model_for(n).arrangement == ("replicated" if on_bytes else "parallel")
    counts = {recipe.model_for(n).n_parameters() for n in numbers}
    assert len(counts) == (len(numbers) if on_bytes else 1)  # equal parameters across n (section 2), bytes aside
    assert max(counts) / min(counts) < 1.006


def test_the_scaling_study_is_six_sizes_of_three_n() -> None:
    recipe, _ = compose(["conf=scaling"])
    assert recipe.future_tokens == (1, 2, 4)
    assert list(recipe.sizes) == list(STUDY)
    for size, training in STUDY.items():
        check_training(recipe.sizes[size].training, TRAININGS[training])
        for n in recipe.future_tokens:
            check_model(recipe.model_for(n, size), size)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_its_sizes_and_n_with_its_row_and_two_seeds(name: str) -> None:
    training, sizes, numbers, ring = EXPERIMENTS[name]
    recipe, _ = compose([f"conf={name}"], SYNTHETIC)
    assert (recipe.future_tokens, len(recipe.seeds), recipe.schedules) == (numbers, 2, {})
    assert tuple(recipe.sizes) == sizes
    cells = list(recipe.cells())
    assert len(cells) == len(sizes) * len(numbers) * 2
    for cell in cells:
        check_training(cell.training, TRAININGS[training])
        check_model(cell.model, f"synthetic_{cell.size}")
    task = recipe.definition
    if isinstance(task, PolynomialConfig):
        assert (task.p, task.d, task.operations, task.test_operations) == ring
        assert recipe.test_items == 2000
    else:
        assert isinstance(task, TextConfig)
        assert task.stories == 100
        assert recipe.tokenizer.size == VOCABULARY


@pytest.mark.parametrize("name", ["heads_7b", "heads_small"])
def test_the_study_of_arrangements_has_the_six_rows_of_table_s4(name: str) -> None:
    recipe, _ = compose([f"conf={name}"])
    assert list(recipe.models()) == [("", "", 1), *(("", arrangement, 4) for arrangement in ARRANGEMENTS)]


def test_the_study_of_arrangements_is_of_7b_and_200b_tokens() -> None:
    """Table S4: equal parameters but for linear heads' matrices and the row "+Layers 3"."""
    recipe, _ = compose(["conf=heads_7b"])
    check_training(recipe.training, TRAININGS["code_7b_200b"])
    assert recipe.tokenizer.size == VOCABULARY
    one = recipe.model_for(1)
    check_model(one, "7b")
    assert (one.arrangement, one.n_trunk_layers) == ("parallel", 31)
    for arrangement, (layers, trunk, more) in ARRANGEMENTS.items():
        model = recipe.model_for(4, arrangement=arrangement)
        assert (model.dim, model.n_attention_heads, model.n_future_tokens) == (4096, 32, 4)
        assert (model.n_layers, model.n_trunk_layers) == (layers, trunk)
        assert model.n_parameters() == one.n_parameters() + more
        assert arrangement.startswith(model.arrangement)


def test_codecontests_is_finetuned_with_all_heads_and_with_one() -> None:
    """Section 3.6: n = 1 to 1, 4 to 4, 4 to 1, clipped at 0.1."""
    recipe, _ = compose(["conf=codecontests_7b"])
    assert recipe.finetunes == ((1, 1), (4, 4), (4, 1))
    check_training(recipe.finetune, FINETUNES["codecontests"], clip=0.1)
    assert recipe.pairs.source == "table"
    assert recipe.pairs.max_pairs is None


def test_a_summarization_set_brings_its_steps_and_its_columns() -> None:
    recipe, _ = compose(["conf=summarization_7b"])
    check_training(recipe.finetune, FINETUNES["cnn_dailymail"])
    assert (recipe.pairs.prompt_column, recipe.pairs.completion_column) == ("article", "highlights")
    other, _ = compose(["conf=summarization_7b", "finetune=bigpatent"])
    assert (other.pairs.prompt_column, other.pairs.completion_column) == ("description", "abstract")
    assert dataclasses.replace(other, pairs=recipe.pairs, finetune=recipe.finetune) == recipe


@pytest.mark.parametrize("name", sorted(FULL.recipes()))
def test_the_graph_of_every_recipe_builds_and_fits_what_it_is_for(name: str, tmp_path: Path) -> None:
    recipe, _ = compose([f"conf={name}"])
    names = [node.name for node in full(recipe).nodes]
    of_size = sum(len(recipe.arrangements) if n > 1 and recipe.arrangements else 1 for n in recipe.future_tokens)
    models = len(recipe.by_size()) * of_size
    assert sum(n.startswith("pretrain-") for n in names) == models
    assert sum(n.startswith("finetune-") for n in names) == len(recipe.by_size()) * len(recipe.finetunes)
    assert names[-1] == "report"
    assert misfits(make_plan(full(recipe), Store(tmp_path)), capacity_of(recipe, plan=True)) == []
