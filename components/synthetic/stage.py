"""The door of the room: a cell of a grid, one training with its test, as a stage.

A cell trains in the process of its Ray task where it has no GPU: that process is there already and has torch, so that
the next cell begins at once.
"""

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from components.artifacts import Cell, Corpus, Shards
from components.flow.cost import Cost, Outlook
from components.flow.node import Resources, stage
from components.flow.quantity import scaled
from components.flow.stage_run import StageRun
from components.synthetic.config import CellConfig, TaskConfig, TextCellConfig
from components.training.carry_out import carry_out, initial_weights
from components.training.config import TrainingExecution
from components.training.memory import training_memory
from components.training.schedule import mean_over_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from components.model.transformer import MultiTokenTransformer
    from components.synthetic.examples import Scored
    from components.synthetic.text import TextTest
    from components.training.loop import Batches, Look
    from components.training.placement import Placement


def _flops(config: CellConfig | TextCellConfig) -> float:
    """Of training, by counting."""
    of_heads = partial(config.model.flops_per_token, config.training.context_length)
    return config.training.tokens * mean_over_steps(config.training, config.model.n_future_tokens, of_heads)


def _cost(at: Outlook) -> Cost:
    config: CellConfig | TextCellConfig = at.config
    execution = _execution(config, at.execution)
    weights = 4 * config.model.n_parameters()
    return Cost(
        tokens=config.training.tokens,
        flops=_flops(config),
        precision=config.training.precision,
        disk_bytes=weights,
        scratch_bytes=3 * weights * (execution.keep_checkpoints + 1),
        memory=training_memory(config.model, config.training, execution, 1),
        on_gpu=execution.gpus_per_worker > 0,
        note=f"{scaled(config.model.n_parameters())} parameters",
    )


def _execution(config: CellConfig | TextCellConfig, asked: TrainingExecution | None) -> TrainingExecution:
    return dataclasses.replace(asked or TrainingExecution(), evaluate_every=config.look_every)


@stage(version=1, resumable=True, resources=Resources(cpus=1), cost=_cost)
def train_cell(config: CellConfig, run: StageRun) -> Cell:
    """Train a model on a task's examples, which are made as it goes, and take the test at equal distances.

    NonFiniteLoss, with step and seed, when the loss is no number.
    """
    from components.synthetic.tasks import task_of

    (run.directory / EXAMPLE).write_text(task_of(config.task).shown() + "\n", encoding="utf-8")
    return _trained(config, partial(_open_examples, config), partial(_open_look, config), run)


@stage(version=1, resumable=True, resources=Resources(cpus=1), cost=_cost)
def train_text_cell(config: TextCellConfig, shards: Shards, corpus: Corpus, run: StageRun) -> Cell:
    """Train a model on the training split of `shards`, and take the test on the test split at equal distances.

    ValueError when the model's vocabulary is not the shards', or there is nothing to test on.
    """
    if config.model.vocabulary_size != shards.vocabulary_size:
        raise ValueError(
            f"model.vocabulary_size is {config.model.vocabulary_size}, but the shards were written with "
            f"{shards.vocabulary_size} symbols; set it to that"
        )
    (run.directory / EXAMPLE).write_text(_text_example(config, shards, corpus) + "\n", encoding="utf-8")
    open_look = partial(_open_text_look, config, shards, corpus)
    return _trained(config, partial(_open_text, config, shards.path), open_look, run)


def _trained(
    config: CellConfig | TextCellConfig,
    open_data: "Callable[[torch.device], Batches]",
    open_look: "Callable[[], Look]",
    run: StageRun,
) -> Cell:
    import json
    import shutil
    import time

    from components.model.weights import save_model
    from components.training.checkpoint import load_trained_model, read_state

    started = time.perf_counter()
    weights = partial(initial_weights, config.model, config.training.seed)
    execution = _execution(config, run.execution)
    last = carry_out(config.training, config.model, weights, open_data, run, execution, open_look)
    state, model = read_state(last), load_trained_model(last)
    digest = save_model(model, run.directory, config.training.context_length)
    shutil.copyfile(run.metrics_path, run.directory / "metrics.jsonl")
    lines = [json.loads(line) for line in run.metrics_path.read_text(encoding="utf-8").splitlines()]
    test = {name.removeprefix(SCORE): value for name, value in lines[-1].items() if name.startswith(SCORE)}
    tested = sum(line.get(TEST_SECONDS, 0.0) for line in lines)
    cell = Cell(
        path=run.directory,
        digest=digest,
        n_future_tokens=config.model.n_future_tokens,
        seed=config.training.seed,
        parameters=config.model.n_parameters(),
        tokens=config.training.tokens,
        flops=_flops(config),
        seconds=state["seconds"],
        overhead_seconds=time.perf_counter() - started - state["seconds"] - tested,
        metrics=test,
    )
    record = {name: value for name, value in dataclasses.asdict(cell).items() if name != "path"}
    (run.directory / "cell.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return cell


EXAMPLE = "example.txt"
SCORE = "score/"
TEST_SECONDS = "speed/test_seconds"


def _open_examples(config: CellConfig, device: "torch.device") -> "Batches":
    from components.synthetic.batches import TaskBatches
    from components.synthetic.tasks import task_of

    return TaskBatches(task_of(config.task), config.training, config.model.n_future_tokens, device)


def _open_look(config: CellConfig) -> "Look":
    return partial(_look, test=_test(config.task, config.test_items), config=config)


def _test(task: TaskConfig, items: int) -> "list[Scored]":
    from components.synthetic.tasks import task_of

    return task_of(task).test(items)


def _look(
    model: "MultiTokenTransformer", placement: "Placement", test: "list[Scored]", config: CellConfig
) -> "Mapping[str, float]":
    """The test, as metrics of a step."""
    import time

    from components.synthetic.score import score
    from components.training.placement import dtype_of

    started = time.perf_counter()
    found = {SCORE + name: value for name, value in score(model, test, dtype_of(config.training)).items()}
    return found | {TEST_SECONDS: time.perf_counter() - started}


def _open_text(config: TextCellConfig, shards: "Path", device: "torch.device") -> "Batches":
    from components.training.windows import open_windows

    return open_windows(shards, config.training, config.model.n_future_tokens, device)


def _open_text_look(config: TextCellConfig, shards: Shards, corpus: Corpus) -> "Look":
    from components.synthetic.text import TextTest

    test = TextTest.of(config, shards, corpus)
    return partial(_text_look, test=test, config=config)


def _text_look(
    model: "MultiTokenTransformer", placement: "Placement", test: "TextTest", config: TextCellConfig
) -> "Mapping[str, float]":
    import time

    from components.training.placement import dtype_of

    started = time.perf_counter()
    found = {SCORE + name: value for name, value in test.taken(model, dtype_of(config.training)).items()}
    return found | {TEST_SECONDS: time.perf_counter() - started}


def _text_example(config: TextCellConfig, shards: Shards, corpus: Corpus) -> str:
    from components.synthetic.text import shown

    return shown(config.text, config.training.context_length, shards, corpus)
