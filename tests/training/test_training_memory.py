"""The closed form of a training's memory against steps that run, watched, and the watch against torch's allocator;
checkpointing activations changes no bit."""

import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from components.flow.cost import Outlook
from components.model import attention
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.training import memory
from components.training.benchmark import peak_of_allocator
from components.training.checkpoint import CheckpointWriter
from components.training.config import PretrainConfig, TrainingConfig, TrainingExecution
from components.training.loop import TrainState, train_step
from components.training.loss import CHUNK_TOKENS, window_targets
from components.training.measured_memory import peak_of, peak_of_second_step
from components.training.memory import LOGIT_ROWS, training_memory
from components.training.stage import less_memory, pretrain


def state_and_batch(model_config: ModelConfig, config: TrainingConfig, execution: TrainingExecution) -> tuple[Any, Any]:
    model = MultiTokenTransformer(model_config)
    model.init_weights(1)
    model.recompute_layers = execution.activation_checkpointing
    n = model_config.n_future_tokens
    shape = (config.sequences_per_step, config.context_length + n)
    window = torch.randint(0, model_config.vocabulary_size, shape, generator=torch.Generator().manual_seed(1))
    return TrainState.fresh(model, config), window_targets(window, n)


SHAPES = {
    "wide": (
        ModelConfig(dim=256, layers=6, n_attention_heads=4, ffn_dim=768, vocabulary_size=1024, n_future_tokens=4),
        TrainingConfig(batch_tokens=1024, context_length=128, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=8),
    ),
    "long, float32": (
        ModelConfig(dim=128, layers=5, n_attention_heads=4, vocabulary_size=2048, n_future_tokens=2),
        TrainingConfig(batch_tokens=2048, context_length=1024),
        TrainingExecution(micro_batch_sequences=1),
    ),
    "long, bfloat16, grouped queries": (
        ModelConfig(
            dim=128, layers=5, n_attention_heads=4, n_kv_heads=2, vocabulary_size=2048, n_future_tokens=2
        ),
        TrainingConfig(batch_tokens=2048, context_length=1024, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=2),
    ),
    "replicated": (
        ModelConfig(
            dim=192, layers=4, n_attention_heads=4, vocabulary_size=258, n_future_tokens=8, arrangement="replicated"
        ),
        TrainingConfig(batch_tokens=2048, context_length=256, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=4),
    ),
    "causal": (
        ModelConfig(
            dim=192, layers=6, n_attention_heads=4, vocabulary_size=512, n_future_tokens=3, arrangement="causal"
        ),
        TrainingConfig(batch_tokens=2048, context_length=256, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=8),
    ),
    "linear, tied": (
        ModelConfig(
            dim=192, layers=4, n_attention_heads=4, vocabulary_size=4096, n_future_tokens=3, arrangement="linear",
            tied_embeddings=True,
        ),
        TrainingConfig(batch_tokens=2048, context_length=256, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=8),
    ),
    "checkpointed": (
        ModelConfig(dim=128, layers=8, n_attention_heads=4, vocabulary_size=1024, n_future_tokens=2),
        TrainingConfig(batch_tokens=4096, context_length=512, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=8, activation_checkpointing=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plan_s_memory_is_the_measured_peak_within_a_tenth(shape: str) -> None:
    model, config, execution = SHAPES[shape]
    planned = sum(training_memory(model, config, execution).values())
    assert planned == pytest.approx(peak_of_second_step(model, config, execution), rel=0.1)


@pytest.mark.filterwarnings("ignore")  # the profiler's own
@pytest.mark.parametrize("shape", ["wide", "replicated"])
def test_the_watched_peak_is_the_allocator_s(shape: str) -> None:
    """Live bytes before the step, and from there the running sum of what torch's allocator gives and takes back."""
    model, config, execution = SHAPES[shape]
    state, batch = state_and_batch(model, config, execution)
    step = partial(train_step, state, batch, config, execution.micro_batch_sequences)
    step()
    there_before = sum(tensor.untyped_storage().nbytes() for tensor in batch)
    allocated = peak_of_allocator(state, step) + there_before
    assert peak_of(state, step) == pytest.approx(allocated, rel=0.01)  # kernels take a little for themselves


@pytest.mark.parametrize("asynchronous", [False, True])
def test_writing_a_checkpoint_takes_what_is_planned_for_it(asynchronous: bool, tmp_path: Path) -> None:
    """What Python holds, the file as it is written, by tracemalloc; what torch holds, a copy, by its allocator."""
    model = ModelConfig(dim=256, layers=4, n_attention_heads=4, vocabulary_size=4096)
    config = TrainingConfig(batch_tokens=16, context_length=16)
    execution = TrainingExecution(micro_batch_sequences=1, asynchronous_checkpoints=asynchronous)
    state, batch = state_and_batch(model, config, execution)
    train_step(state, batch, config, 1)
    writer = CheckpointWriter(tmp_path, 1, asynchronous)
    tracemalloc.start()
    copied = peak_of_allocator(state, lambda: None)
    copied = peak_of_allocator(state, lambda: save_and_wait(writer, state)) - copied
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    parameters = model.n_parameters()
    assert written == pytest.approx(12 * parameters, rel=0.1)
    assert copied == pytest.approx(12 * parameters * asynchronous, abs=0.01 * parameters)
    planned = pretrain.cost(Outlook(PretrainConfig(model, config), ({},), execution, None, 0)).memory
    step = training_memory(model, config, execution)
    assert {name: planned[name] for name in step} == step
    at_step, at_checkpoint = sum(step.values()), 16 * parameters + written + copied
    most = at_step + written + copied if asynchronous else max(at_step, at_checkpoint)
    assert sum(planned.values()) == pytest.approx(most, rel=0.05)


def save_and_wait(writer: CheckpointWriter, state: TrainState) -> None:
    writer.save(1, state.model, state.optimizer, {})
    writer.wait()


def test_the_constants_are_those_of_the_code() -> None:
    assert {"cpu": LOGIT_ROWS["cpu"], "cuda": LOGIT_ROWS["gpu"]} == CHUNK_TOKENS
    assert (memory.BLOCK, memory.LONGEST_IN_BLOCKS) == (attention.BLOCK, attention.LONGEST_IN_BLOCKS)


def test_full_sharding_parts_what_is_kept_and_nothing_of_what_passes() -> None:
    model, config, _ = SHAPES["long, float32"]
    whole = training_memory(model, config, TrainingExecution(workers=2, micro_batch_sequences=1))
    parts = training_memory(model, config, TrainingExecution(workers=2, micro_batch_sequences=1, sharding="full"))
    for kept in ("parameters", "gradients", "optimizer"):
        assert parts[kept] == whole[kept] // 2
    assert parts["activations"] == whole["activations"]


def test_a_training_that_may_lose_workers_is_planned_with_those_that_must_stay() -> None:
    model, config, _ = SHAPES["wide"]
    elastic = TrainingExecution(workers=8, min_workers=2, micro_batch_sequences=1, sharding="full")
    planned = pretrain.cost(Outlook(PretrainConfig(model, config), ({},), elastic, None, 0))
    at_least = training_memory(model, config, TrainingExecution(workers=2, micro_batch_sequences=1, sharding="full"))
    assert {name: planned.memory[name] for name in at_least} == at_least
    assert planned.workers == 8
    for words, execution in less_memory(elastic):
        changed = dict(word.removeprefix("cluster.training.").split("=") for word in words.split())
        assert ("workers" in changed) == (changed.get("min_workers") == "null") == (execution.min_workers is None)


def test_activation_checkpointing_changes_no_bit_of_a_step() -> None:
    model, config, _ = SHAPES["wide"]
    stepped = []
    for execution in (TrainingExecution(), TrainingExecution(activation_checkpointing=True)):
        state, batch = state_and_batch(model, config, execution)
        result = train_step(state, batch, config, 8)
        stepped.append((result.gradient_norm, [p.detach().clone() for p in state.model.parameters()]))
    assert stepped[0][0] == stepped[1][0]
    assert all(torch.equal(a, b) for a, b in zip(stepped[0][1], stepped[1][1], strict=True))
