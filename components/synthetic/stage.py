"""The door of the room: a cell of a grid, one training with its test, as a stage.

A cell trains in the process of its Ray task where it has no GPU: that process is there already and has torch, so that
the next cell begins at once.
"""

import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from components.artifacts import Cell, Corpus, Shards, Stories, Tokenizer
from components.flow.cost import Cost, Outlook
from components.flow.node import Resources, stage
from components.flow.quantity import scaled
from components.flow.stage_run import StageRun
from components.synthetic.config import CellConfig, StoriesConfig, TextCellConfig
from components.training.carry_out import carry_out, initial_weights
from components.training.config import TrainingExecution
from components.training.memory import training_memory
from components.training.schedule import mean_over_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from components.model.transformer import MultiTokenTransformer
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


@stage(version=2, resumable=True, resources=Resources(cpus=1), cost=_cost)
def train_cell(config: CellConfig, run: StageRun) -> Cell:
    """Train a model on a task's examples, which are made as it goes, and take the test at equal distances.

    NonFiniteLoss, with step and seed, when the loss is no number.
    """
    started = time.perf_counter()
    from components.synthetic.tasks import task_of

    task = task_of(config.task)
    example = task.shown()
    items = {part.name: part.items for part in task.test(config.test_items)}
    open_data, open_test = partial(_open_examples, config), partial(_open_task_test, config)
    return _trained(config, open_data, open_test, example, items, run, started)


def _words_cost(at: Outlook) -> Cost:
    """Of reading the texts twice for their words, in Python."""
    text_bytes = sum(at.inputs[0].get("text_bytes", {}).values())
    return Cost(core_seconds=text_bytes / WORD_BYTES_PER_SECOND if text_bytes else None)


WORD_BYTES_PER_SECOND = 14e6
"""Measured on a core of an EPYC (Zen 4)."""


@stage(version=1, resources=Resources(cpus=1), cost=_words_cost)
def make_stories(config: StoriesConfig, corpus: Corpus, tokenizer: Tokenizer, run: StageRun) -> Stories:
    """Give the characters of stories of the test split made-up names of two tokens (paper 4.1).

    ValueError when the tokenizer has no pieces for that, or no story has a name.
    """
    from components.synthetic.stories import Words, renamed_stories, texts_of, write_stories
    from components.tokenizer.codec import load_tokenizer

    known = Words.of(text for split in ("train", "test") for text in texts_of(corpus.path, split, config.part))
    codec, texts = load_tokenizer(tokenizer.path), texts_of(corpus.path, "test", config.part)
    stories = renamed_stories(texts, known, codec, config.stories)
    if len(stories) < config.stories:
        run.warn(f"only {len(stories)} stories of the test split have names, of {config.stories} asked for")
    digest = write_stories(stories, run.directory)
    return Stories(run.directory, digest, len(stories), sum(len(story.counted) for story in stories))


@stage(version=1, resumable=True, resources=Resources(cpus=1), cost=_cost)
def train_text_cell(config: TextCellConfig, shards: Shards, stories: tuple[Stories, ...], run: StageRun) -> Cell:
    """Train a model on the training split of `shards`, and take the test, on the test split and on `stories` if there
    are any, at equal distances.

    ValueError when the model's vocabulary is not the shards', or there is nothing to test on.
    """
    started = time.perf_counter()
    from components.synthetic.text import TextTest

    if config.model.vocabulary_size != shards.vocabulary_size:
        raise ValueError(
            f"model.vocabulary_size is {config.model.vocabulary_size}, but the shards were written with "
            f"{shards.vocabulary_size} symbols; set it to that"
        )
    example = _first_story(stories[0]) if stories else ""
    items = TextTest.of(config, shards, stories).items
    open_test = partial(_open_text_test, config, shards, stories)
    return _trained(config, partial(_open_text, config, shards), open_test, example, items, run, started)


def _first_story(stories: Stories) -> str:
    import json

    with (stories.path / "stories.jsonl").open(encoding="utf-8") as file:
        text: str = json.loads(file.readline())["text"]
    return text


def _trained(
    config: CellConfig | TextCellConfig,
    open_data: "Callable[[torch.device], Batches]",
    open_look: "Callable[[], Look]",
    example: str,
    items: "Mapping[str, int]",
    run: StageRun,
    started: float,
) -> Cell:
    """Train, and lay the artifact out. `started`: when the stage did, by `time.perf_counter`."""
    import hashlib
    import json
    import shutil

    from components.model.weights import save_model
    from components.training.checkpoint import load_trained_model, read_state

    before = _seconds_so_far(run)
    weights = partial(initial_weights, config.model, config.training.seed)
    execution = _execution(config, run.execution)
    last = carry_out(config.training, config.model, weights, open_data, run, execution, open_look)
    seconds, model = read_state(last)["seconds"], load_trained_model(last)
    weights_digest = save_model(model, run.directory, config.training.context_length)
    shutil.copyfile(run.metrics_path, run.directory / "metrics.jsonl")
    lines = [json.loads(line) for line in run.metrics_path.read_text(encoding="utf-8").splitlines()]
    scores = [{name: value for name, value in line.items() if name.startswith(SCORE)} for line in lines]
    tested = sum(line.get(TEST_SECONDS, 0.0) for line in lines if line["step"] > before.step)
    cell = Cell(
        path=run.directory,
        digest=hashlib.sha256(json.dumps([weights_digest, scores, dict(items)]).encode()).hexdigest(),
        n_future_tokens=config.model.n_future_tokens,
        seed=config.training.seed,
        parameters=config.model.n_parameters(),
        tokens=config.training.tokens,
        flops=_flops(config),
        seconds=seconds,
        overhead_seconds=time.perf_counter() - started - (seconds - before.seconds) - tested,
        metrics={name.removeprefix(SCORE): value for name, value in scores[-1].items()},
        items=items,
    )
    record = {name: value for name, value in dataclasses.asdict(cell).items() if name != "path"}
    (run.directory / "cell.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (run.directory / "example.txt").write_text(example + "\n", encoding="utf-8")
    return cell


SCORE = "score/"
TEST_SECONDS = "speed/test_seconds"


class Before(NamedTuple):
    """What earlier attempts have done."""

    step: int
    seconds: float


def _seconds_so_far(run: StageRun) -> Before:
    import contextlib

    from components.training.checkpoint import list_checkpoints, read_state, step_of

    for checkpoint in reversed(list_checkpoints(run.work / "checkpoints")):
        with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged one is not gone on from
            return Before(step_of(checkpoint), read_state(checkpoint)["seconds"])
    return Before(0, 0.0)


def _open_examples(config: CellConfig, device: "torch.device") -> "Batches":
    from components.synthetic.batches import TaskBatches
    from components.synthetic.tasks import task_of

    return TaskBatches(task_of(config.task), config.training, config.model.n_future_tokens, device)


def _open_task_test(config: CellConfig) -> "Look":
    from components.synthetic.score import score
    from components.synthetic.tasks import task_of
    from components.training.placement import dtype_of

    test, precision = task_of(config.task).test(config.test_items), dtype_of(config.training)
    return partial(_look, taken=lambda model: score(model, test, precision))


def _open_text(config: TextCellConfig, shards: Shards, device: "torch.device") -> "Batches":
    from components.training.windows import open_windows

    return open_windows(shards.path, config.training, config.model.n_future_tokens, device)


def _open_text_test(config: TextCellConfig, shards: Shards, stories: tuple[Stories, ...]) -> "Look":
    from components.synthetic.text import TextTest
    from components.training.placement import dtype_of

    test, precision = TextTest.of(config, shards, stories), dtype_of(config.training)
    return partial(_look, taken=lambda model: test.taken(model, precision))


def _look(
    model: "MultiTokenTransformer",
    placement: "Placement",
    taken: "Callable[[MultiTokenTransformer], Mapping[str, float]]",
) -> "Mapping[str, float]":
    """The test, as metrics of a step."""
    started = time.perf_counter()
    found = {SCORE + name: value for name, value in taken(model).items()}
    return found | {TEST_SECONDS: time.perf_counter() - started}
