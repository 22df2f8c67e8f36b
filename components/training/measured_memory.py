"""A training step's peak memory, measured while it runs: what `memory.training_memory` is held against."""

import multiprocessing
from collections.abc import Callable, Mapping
from typing import Any

import torch

from components.model.config import ModelConfig
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loop import TrainState, train_step
from components.training.loss import window_targets
from components.training.memory import training_memory
from components.training.metrics import resident_bytes
from components.training.simulate import watch_of
from components.training.worker import make_state

SETTINGS: Mapping[str, tuple[ModelConfig, TrainingConfig, TrainingExecution]] = {
    "9M, context 256, micro-batch 8": (
        ModelConfig(dim=256, layers=10, n_attention_heads=4, ffn_dim=768, vocabulary_size=1024, n_future_tokens=4),
        TrainingConfig(batch_tokens=2048, context_length=256, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=8),
    ),
    "29M, context 1024, micro-batch 2": (
        ModelConfig(dim=512, layers=6, n_attention_heads=8, vocabulary_size=8192, n_future_tokens=2),
        TrainingConfig(batch_tokens=4096, context_length=1024, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=2),
    ),
    "134M, context 512, micro-batch 1": (
        ModelConfig(dim=768, layers=12, n_attention_heads=12, vocabulary_size=32000, n_future_tokens=4),
        TrainingConfig(batch_tokens=1024, context_length=512, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=1),
    ),
    "134M, the same, activations checkpointed": (
        ModelConfig(dim=768, layers=12, n_attention_heads=12, vocabulary_size=32000, n_future_tokens=4),
        TrainingConfig(batch_tokens=1024, context_length=512, precision="bfloat16"),
        TrainingExecution(micro_batch_sequences=1, activation_checkpointing=True),
    ),
}


def peak_of_second_step(model_config: ModelConfig, config: TrainingConfig, execution: TrainingExecution) -> int:
    """Most bytes of live tensors during the second step, on the CPU; the first makes the optimizer's state."""
    state = make_state(model_config, config, execution, torch.device("cpu"))
    state.model.init_weights(1)
    n = model_config.n_future_tokens
    shape = (config.sequences_per_step, config.context_length + n)
    window_BS = torch.randint(0, model_config.vocabulary_size, shape, generator=torch.Generator().manual_seed(1))
    batch = window_targets(window_BS, n)
    train_step(state, batch, config, execution.micro_batch_sequences)
    return peak_of(state, lambda: train_step(state, batch, config, execution.micro_batch_sequences))


def peak_of(state: TrainState, step: Callable[[], object]) -> int:
    """Most bytes of live tensors while `step` runs, those of `state` included."""
    with watch_of(state) as watch:
        step()
    return watch.peak_bytes


def plans_beside_peaks(threads: int) -> list[dict[str, Any]]:
    """Of every setting the closed form, the measured peak, and the resident size; each in a process of its own."""
    rows = []
    for name, setting in SETTINGS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, before, resident = pool.apply(_measure_in_this_process, (*setting, threads))
        parts = training_memory(*setting)
        planned = sum(parts.values())
        rows.append(
            {
                "setting": name,
                "planned_bytes": planned,
                "peak_bytes": peak,
                "ratio": planned / peak,
                "resident_bytes": resident,
                "resident_before_bytes": before,
                "parts": parts,
            }
        )
    return rows


def _measure_in_this_process(
    model: ModelConfig, config: TrainingConfig, execution: TrainingExecution, threads: int
) -> tuple[int, int, int]:
    """(peak of live tensors, resident size before, most resident size)."""
    torch.set_num_threads(threads)
    before = resident_bytes()
    return peak_of_second_step(model, config, execution), before, resident_bytes()
