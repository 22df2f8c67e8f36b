"""plan=simulate: the paper's recipes beside the closed form, and what the terminal says."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.flow.quantity import size
from components.training.memory import training_memory
from components.training.simulate import simulate
from pipelines.compose import compose

FULL = Path(__file__).parents[2] / "pipelines" / "full.py"
PAPER = [("code_1b", 4), ("code_13b", 1), ("bytes_7b", 8)]


@pytest.mark.parametrize(("name", "heads"), PAPER)
def test_the_closed_form_is_within_a_tenth_of_the_code_and_fits_the_device(name: str, heads: int) -> None:
    recipe, _ = compose([f"conf={name}", "corpus.path=/data"])
    size_name, arrangement, n = [model for model in recipe.models() if model[2] == heads][-1]
    training, execution = recipe.by_size()[size_name].training, recipe.cluster.training
    model = recipe.model_for(n, size_name, arrangement)
    step = simulate(model, training, execution)
    planned = sum(training_memory(model, training, execution).values())
    assert planned == pytest.approx(step.peak_bytes, rel=0.1)
    assert step.peak_bytes < 80e9 * 0.9
    parameters, sent = model.n_parameters(), step.total()[2]
    if execution.sharding == "none":  # every gradient in float32, up and down the ring
        assert sent == pytest.approx(2 * 4 * parameters * 63 / 64, rel=0.01)
    else:
        assert sent > 2 * 2 * parameters, "every matrix gathered at least twice"


@pytest.mark.parametrize(("name", "n", "allocated"), [("code_1b", 4, 58.00e9), ("code_3b", 1, 63.17e9)])
def test_a_recipe_s_step_holds_what_was_measured_on_a_gpu(name: str, n: int, allocated: float) -> None:
    """On an H100, by torch's allocator, layers not compiled (components/README.md)."""
    recipe, _ = compose([f"conf={name}", "corpus.path=/data"])
    size_name, arrangement, _ = next(iter(recipe.models()))
    training, execution = recipe.by_size()[size_name].training, recipe.cluster.training
    two = replace(training, batch_tokens=2 * execution.micro_batch_sequences * training.context_length)
    step = simulate(recipe.model_for(n, size_name, arrangement), two, execution, workers=1)
    assert step.peak_bytes == pytest.approx(allocated, rel=0.02)


def cli(*arguments: str, cwd: Path, columns: int) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "COLUMNS": str(columns)}
    return subprocess.run(
        [sys.executable, str(FULL), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("columns", [80, 160])
def test_a_simulated_plan_has_a_line_for_every_training(columns: int, tmp_path: Path) -> None:
    small = ["model.dim=32", "model.ffn_dim=64", "model.layers=5", "training.batch_tokens=2048"]
    shape = ["cluster.training.workers=4", "cluster.training.sharding=full", "cluster.training.micro_batch_sequences=1"]
    said = cli("plan=simulate", *small, *shape, cwd=tmp_path, columns=columns)
    assert said.returncode == 0, said.stderr
    recipe, _ = compose([*small, *shape])
    for title, heads in (("n=1 pretrain", 1), ("n=4 pretrain", 4)):
        step = simulate(recipe.model_for(heads), recipe.training, recipe.cluster.training)
        told = " ".join(said.stdout.split())
        line = re.search(
            rf"{title}(?:, a step, simulated:)?((?: (?!n=|Peak:)\S+)+)", told[told.index("a step, sim") - 20 :]
        )
        assert line is not None
        for figure in (size(step.peak_bytes), size(step.total()[2]), size(step.total("all_gather")[1])):
            assert figure in line[1]
    assert "simulating n=1 pretrain, 1 of 4" in said.stderr
    assert "n=4→1 finetune" in said.stdout
    assert not (tmp_path / "runs").exists()


def test_another_word_is_refused(tmp_path: Path) -> None:
    said = cli("plan=simulated", cwd=tmp_path, columns=120)
    assert said.returncode == 2
    assert "plan: input should be true, false or 'simulate' (given: 'simulated')" in said.stderr
