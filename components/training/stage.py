"""The door of the room: pretraining and fine-tuning as stages.

Both can be killed at any moment and go on from their last checkpoint under `run.work`, bit for bit on the same
number of workers and threads. What a run's `execution` says (TrainingExecution) does not change what is learned.
"""

import dataclasses
import itertools
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import Checkpoint, Pairs, Shards
from components.flow.cost import Cost, Outlook
from components.flow.node import Resources, stage
from components.flow.quantity import scaled
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig, with_heads
from components.training.carry_out import carry_out, initial_weights, threads_per_worker
from components.training.config import FinetuneConfig, PretrainConfig, TrainingConfig, TrainingExecution
from components.training.memory import checkpoint_memory, training_memory
from components.training.schedule import mean_over_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor

    from components.training.heldout import HeldOut
    from components.training.loop import Batches, Look


def _training_cost(at: Outlook, model: ModelConfig, training: TrainingConfig) -> Cost:
    """FLOPs and memory by counting (`ModelConfig.flops_per_token`, `memory.training_memory`)."""
    execution = at.execution or TrainingExecution()
    again = 0.0
    if execution.activation_checkpointing:
        of_layers = partial(model.layer_flops_per_token, training.context_length)
        again = mean_over_steps(training, model.n_future_tokens, of_layers)
    flops_per_token = _flops_per_token(training, model) + again
    note = f"{scaled(model.n_parameters())} parameters"
    if again:
        note += f", {100 * again / flops_per_token:.0f} % recomputed"
    if training.warmup_steps >= training.steps:
        note += ", all of it warm-up"
    weights = 4 * model.n_parameters()
    return Cost(
        tokens=training.tokens,
        flops=float(training.tokens * flops_per_token),
        precision=training.precision,
        disk_bytes=weights,
        scratch_bytes=3 * weights * (execution.keep_checkpoints + 1),  # weights and AdamW's two means
        memory=_memory(model, training, execution),
        workers=execution.workers,
        on_gpu=execution.gpus_per_worker > 0,
        note=note,
        expects={"model": dataclasses.asdict(model), "parameters": model.n_parameters()},
    )


def _memory(model: ModelConfig, training: TrainingConfig, execution: TrainingExecution) -> dict[str, int]:
    memory = training_memory(model, training, execution, execution.fewest_workers)
    checkpoint = checkpoint_memory(model, training, execution, execution.fewest_workers)
    return memory | ({"checkpoint": checkpoint} if checkpoint else {})


def _flops_per_token(training: TrainingConfig, model: ModelConfig) -> float:
    """Over the whole training: heads that rest cost nothing."""
    return mean_over_steps(training, model.n_future_tokens, partial(model.flops_per_token, training.context_length))


def _pretrain_cost(at: Outlook) -> Cost:
    cost = _training_cost(at, at.config.model, at.config.training)
    looking = _looking_flops(at.config, at.execution or TrainingExecution())
    if looking and cost.flops:
        share = 100 * looking / cost.flops
        note = f"{cost.note}, held-out text {share:.1f} % on top" if share >= 0.1 else cost.note
        cost = dataclasses.replace(cost, flops=cost.flops + looking, note=note)
    there = at.inputs[0].get("tokens", {}).get("train")
    if there and at.config.training.tokens > there:
        return dataclasses.replace(
            cost, note=f"{cost.note}, {scaled(at.config.training.tokens / there)} times the data"
        )
    return cost


def _looking_flops(config: PretrainConfig, execution: TrainingExecution) -> float:
    """Of the forward passes over held-out text; backward takes twice a forward's."""
    if not execution.evaluate_every:
        return 0.0
    context = config.training.context_length
    looks = -(-config.training.steps // execution.evaluate_every)
    tokens = max(1, execution.evaluate_tokens // context) * context
    return looks * tokens * config.model.flops_per_token(context) / 3


def _finetune_cost(at: Outlook) -> Cost:
    model = ModelConfig(**at.inputs[0]["model"])
    return _training_cost(at, with_heads(model, at.config.n_future_tokens), at.config)


def less_memory(execution: TrainingExecution) -> "Iterator[tuple[str, TrainingExecution]]":
    """Other ways to carry a training out that need less memory of a worker: fewest changes first."""
    all_of_them = " cluster.training.min_workers=null" if execution.fewest_workers < execution.workers else ""
    settings: list[list[tuple[str, dict[str, Any]]]] = [
        [
            (f"cluster.training.micro_batch_sequences={size}", {"micro_batch_sequences": size})
            for size in (16, 8, 4, 2, 1)
            if size < execution.micro_batch_sequences
        ],
        [("cluster.training.activation_checkpointing=true", {"activation_checkpointing": True})]
        * (not execution.activation_checkpointing),
        [("cluster.training.sharding=full", {"sharding": "full"})] * (execution.sharding == "none"),
        [
            (f"cluster.training.workers={workers}{all_of_them}", {"workers": workers, "min_workers": None})
            for workers in (
                *(execution.workers // less for less in (2, 4, 8, 16, 32, 64) if execution.workers >= less),
                *(execution.workers * more for more in (2, 4, 8, 16)),
            )
        ],
    ]
    for number in range(1, len(settings) + 1):
        for kinds in itertools.combinations(settings, number):
            for changes in itertools.product(*kinds):
                fields = {name: value for _, change in changes for name, value in change.items()}
                yield " ".join(words for words, _ in changes), dataclasses.replace(execution, **fields)


@stage(
    version=2,
    resumable=True,
    resources=Resources(drives_ray=True),
    own_process=True,
    cost=_pretrain_cost,
    changes=less_memory,
)
def pretrain(config: PretrainConfig, shards: Shards, run: StageRun) -> Checkpoint:
    """Train a model from scratch on the training split of `shards`.

    ValueError when the model's vocabulary is not the shards' or the training split is shorter than one window;
    NonFiniteLoss, with step and data, when the loss is no number.
    """
    if config.model.vocabulary_size != shards.vocabulary_size:
        raise ValueError(
            f"model.vocabulary_size is {config.model.vocabulary_size}, but the shards were written with "
            f"{shards.vocabulary_size} symbols; set it to that"
        )
    open_look: Callable[[], Look] | None
    open_look = partial(_open_look, shards.path, config, run.execution or TrainingExecution())
    needed, there = config.training.context_length + config.model.n_future_tokens, shards.tokens.get("validation", 0)
    if run.execution and run.execution.evaluate_every and there <= needed:
        run.warn(
            f"no held-out text is looked at while training: the validation split has {there} tokens and one window "
            f"takes {needed}; give a larger corpus or raise corpus.validation_share"
        )
        open_look = None
    carry_out(
        config.training,
        config.model,
        partial(initial_weights, config.model, config.training.seed),
        partial(_windows, shards.path, config),
        run,
        run.execution or TrainingExecution(),
        open_look,
    )
    return _checkpoint(config.training, shards.path / "tokenizer", run)


@stage(
    version=2,
    resumable=True,
    resources=Resources(drives_ray=True),
    own_process=True,
    cost=_finetune_cost,
    changes=less_memory,
)
def finetune(config: FinetuneConfig, checkpoint: Checkpoint, pairs: Pairs, run: StageRun) -> Checkpoint:
    """Train a pretrained model on, with its first heads, on pairs of prompt and completion (paper section 3.6).

    ValueError when the model has fewer heads than asked for, or no pair fits the context.
    """
    if config.n_future_tokens > checkpoint.n_future_tokens:
        raise ValueError(
            f"n_future_tokens is {config.n_future_tokens}, but the pretrained model has "
            f"{checkpoint.n_future_tokens} prediction heads; heads can be dropped, not added"
        )
    from components.model.weights import load_config

    pretrained = load_config(checkpoint.path)
    carry_out(
        config,
        with_heads(pretrained, config.n_future_tokens),
        partial(_pretrained_weights, checkpoint.path, config.n_future_tokens),
        partial(_open_pairs, pairs.path / "train.parquet", checkpoint.path, config, run),
        run,
        run.execution or TrainingExecution(),
    )
    return _checkpoint(config, checkpoint.path / "tokenizer", run, checkpoint.n_future_tokens)


def _windows(shards: Path, config: PretrainConfig, device: "torch.device") -> "Batches":
    from components.training.windows import open_windows

    return open_windows(shards, config.training, config.model.n_future_tokens, device)


def _open_look(shards: Path, config: PretrainConfig, execution: TrainingExecution) -> "Look":
    from components.training.heldout import look

    return partial(look, heldout=_open_heldout(shards, config, execution), config=config.training)


def _open_heldout(shards: Path, config: PretrainConfig, execution: TrainingExecution) -> "HeldOut":
    """Windows spread evenly over the validation split."""
    import torch

    from components.shards.reader import TokenReader
    from components.training.heldout import HeldOut
    from components.training.parallel import own_share

    reader = TokenReader(shards, "validation")
    reader.verify(own_share(reader.n_shards))
    context, length = config.training.context_length, config.training.context_length + config.model.n_future_tokens
    windows = max(1, min(execution.evaluate_tokens // context, (reader.n_tokens - length) // context))
    starts = [index * (reader.n_tokens - length) // windows for index in range(windows)]
    window_WS = torch.stack([torch.from_numpy(reader.window(start, length)) for start in starts])
    return HeldOut(window_WS, execution.micro_batch_sequences)


def _pretrained_weights(checkpoint: Path, n_future_tokens: int) -> "Iterator[tuple[str, Tensor]]":
    from components.model.weights import read_weights

    return read_weights(checkpoint, n_future_tokens)


def _open_pairs(
    file: Path, checkpoint: Path, config: FinetuneConfig, run: StageRun, device: "torch.device"
) -> "Batches":
    import pyarrow.parquet as pq

    from components.tokenizer.codec import load_tokenizer
    from components.training.pairs import PairBatches, encode_pairs
    from components.training.parallel import rank_and_workers

    codec = load_tokenizer(checkpoint / "tokenizer")
    rows = pq.read_table(file, columns=["id", "prompt", "completion"]).to_pylist()
    batches = PairBatches(encode_pairs(rows, codec), config, codec.eos_id, device)
    if batches.skipped and rank_and_workers()[0] == 0:
        run.warn(
            f"{batches.skipped} of {len(rows)} training pairs are longer than context_length "
            f"({config.context_length} tokens) and were left out"
        )
    return batches


def _checkpoint(config: TrainingConfig, tokenizer: Path, run: StageRun, n_pretrained: int | None = None) -> Checkpoint:
    """Lay the last checkpoint out as the artifact."""
    from components.model.weights import save_model
    from components.training.checkpoint import checkpoint_path, load_trained_model, read_state
    from components.training.trace import TRACE

    execution = run.execution or TrainingExecution()
    last = checkpoint_path(run.work / "checkpoints", config.steps)
    state = read_state(last)
    model = load_trained_model(last)
    digest = save_model(model, run.directory, config.context_length)
    shutil.copytree(tokenizer, run.directory / "tokenizer", dirs_exist_ok=True)
    shutil.copyfile(run.metrics_path, run.directory / "metrics.jsonl")
    if execution.profile_steps and (trace := run.work / TRACE).exists():
        shutil.copyfile(trace, run.directory / TRACE)
    return Checkpoint(
        path=run.directory,
        digest=digest,
        n_future_tokens=model.config.n_future_tokens,
        parameters=model.config.n_parameters(),
        steps=config.steps,
        tokens=config.tokens,
        training_flops=float(config.tokens * _flops_per_token(config, model.config)),
        training_seconds=state["seconds"],
        training_threads=execution.workers * threads_per_worker(execution, run.cpus),
        n_pretrained=n_pretrained,
    )
