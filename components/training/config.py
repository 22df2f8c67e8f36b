"""What a training is (its identity) and how it is carried out (never identity). Standard library alone."""

import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from components.model.config import ModelConfig

Precision = Literal["bfloat16", "float32"]
Sharding = Literal["none", "full"]
GradientSync = Literal["step", "micro_batch"]
Curriculum = Literal["none", "forward", "reverse"]


class NotSimulated(RuntimeError):
    """A step cannot be simulated here, whatever the recipe."""


class _Faults(list[str]):
    """What is wrong with the fields of a config, a sentence each, so that all of it is said at once."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def check(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            self.append(f"{name} is {getattr(self.config, name)!r}; {allowed}")

    def end(self) -> None:
        if self:
            raise ValueError("\n".join(self))


@dataclass(frozen=True)
class TrainingConfig:
    """Optimization of a model: AdamW, linear warm-up, cosine decay (paper Table S13 and Appendix M)."""

    steps: int = 1000
    """Optimizer steps."""
    batch_tokens: int = 4096
    """Tokens per step over all workers; a multiple of `context_length`."""
    context_length: int = 256
    """Positions per sequence, in tokens."""
    learning_rate: float = 2e-3
    """Peak learning rate, reached after the warm-up."""
    embedding_rate_ratio: float = 1.0
    """Learning rate of embedding and unembedding over that of all else; the paper has one rate. Small models on few
    tokens learn much faster with a larger one."""
    warmup_steps: int = 50
    """Steps over which the learning rate grows linearly from 0 to its peak."""
    decay_ratio: float = 0.03
    """Final learning rate over the peak; a cosine leads there."""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient per step."""
    beta2: float = 0.95
    """AdamW's decay of the mean squared gradient per step."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices and embeddings per step, times the learning rate; norm gains have none."""
    clip_norm: float = 1.0
    """Largest 2-norm of the whole gradient; a longer one is scaled down to it."""
    head_weights: tuple[float, ...] | None = None
    """Weight of each prediction head's loss, the nearest token's first; with fewer heads the rest is not used. None: 1
    for all, as in the paper (equation 2)."""
    curriculum: Curriculum = "none"
    """How many heads count in the loss as training goes on, in equal stages (Aynetdinov & Akbik 2025): `none`: all.
    `forward`: 1, then 2, up to n. `reverse`: n, down to 1. What only other heads use rests meanwhile."""
    precision: Precision = "float32"
    """Arithmetic of the matrix products; weights and optimizer state are float32 in either case."""
    seed: int = 1
    """Seed of the initial weights and of the data order."""

    def __post_init__(self) -> None:
        self._faults().end()

    def _faults(self) -> _Faults:
        faults = _Faults(self)
        for name in ("steps", "batch_tokens", "context_length"):
            faults.check(name, getattr(self, name) >= 1, "it must be at least 1")
        if min(self.context_length, self.batch_tokens) >= 1 and self.batch_tokens % self.context_length:
            below = self.batch_tokens // self.context_length * self.context_length
            near = [n for n in (below, below + self.context_length) if n]
            faults.append(
                f"batch_tokens is {self.batch_tokens}, not a multiple of context_length "
                f"({self.context_length}); a step takes whole sequences: use {' or '.join(map(str, near))}"
            )
        faults.check("learning_rate", 0 < self.learning_rate < float("inf"), "it must be above 0")
        ratio = self.embedding_rate_ratio
        faults.check("embedding_rate_ratio", 0 < ratio < float("inf"), "it must be above 0")
        faults.check("warmup_steps", self.warmup_steps >= 0, "it must be at least 0")
        faults.check("decay_ratio", 0 <= self.decay_ratio <= 1, "it must lie in [0, 1]")
        for name in ("beta1", "beta2"):
            faults.check(name, 0 <= getattr(self, name) < 1, "it must lie in [0, 1)")
        faults.check("weight_decay", self.weight_decay >= 0, "it must be at least 0")
        faults.check("clip_norm", self.clip_norm > 0, "it must be above 0")
        weights = self.head_weights
        faults.check(
            "head_weights",
            weights is None or (len(weights) > 0 and all(0 <= w < float("inf") for w in weights) and weights[0] > 0),
            "give None or a list of numbers that are at least 0, the first above 0",
        )
        faults.check("curriculum", self.curriculum in get_args(Curriculum), "use 'none', 'forward' or 'reverse'")
        faults.check("precision", self.precision in ("bfloat16", "float32"), "use 'bfloat16' or 'float32'")
        return faults

    @property
    def sequences_per_step(self) -> int:
        """Sequences of `context_length` tokens in a step, over all workers."""
        return self.batch_tokens // self.context_length

    @property
    def tokens(self) -> int:
        """Tokens seen in the whole training."""
        return self.steps * self.batch_tokens


@dataclass(frozen=True)
class PretrainConfig:
    """A model and how to train it from scratch."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model's shape."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimization."""

    def __post_init__(self) -> None:
        check_heads(self.training, self.model.n_future_tokens)


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """Fine-tuning of a pretrained model on pairs of prompt and completion (paper section 3.6).

    Pairs are packed into `context_length` (a longer one is left out) and gone through, reshuffled each time, as
    often as `steps` take; `seed` orders them.
    """

    steps: int = 100
    """Optimizer steps."""
    learning_rate: float = 5e-4
    """Peak learning rate, reached after the warm-up."""
    warmup_steps: int = 10
    """Steps over which the learning rate grows linearly from 0 to its peak."""
    n_future_tokens: int = 1
    """Prediction heads to keep, the nearest ones; at most those of the pretrained model."""
    mask_prompt: bool = True
    """Whether only the completion's tokens count in the loss."""

    def _faults(self) -> _Faults:
        faults = super()._faults()
        faults.check("n_future_tokens", self.n_future_tokens >= 1, "it must be at least 1")
        if not faults:
            try:
                check_heads(self, self.n_future_tokens)
            except ValueError as error:
                faults.append(str(error))
        return faults


def check_heads(config: TrainingConfig, n_future_tokens: int) -> None:
    """ValueError where head weights or a curriculum do not go with so many heads."""
    if config.head_weights is not None and len(config.head_weights) < n_future_tokens:
        raise ValueError(
            f"head_weights has {len(config.head_weights)} numbers for {n_future_tokens} prediction heads; give one each"
        )
    if config.curriculum != "none" and config.steps < n_future_tokens:
        raise ValueError(
            f"steps is {config.steps}; a curriculum over {n_future_tokens} prediction heads needs at least as many"
        )


@dataclass(frozen=True)
class TrainingExecution:
    """How a training is carried out: results are equal to rounding whatever stands here."""

    workers: int = 1
    """Data-parallel processes. One without a GPU trains in the stage's own process, more go through Ray Train."""
    min_workers: int | None = None
    """Fewest workers that training may go on with when nodes are lost; it grows again, from a checkpoint, when they
    come back. None, or as many as `workers` or more: it waits until there is room for all."""
    max_failures: int = 3
    """Losses of workers in a row, without a newer checkpoint in between, that training goes on after by itself; -1: any
    number."""
    cpus_per_worker: int | None = None
    """CPU cores, and so threads, per worker; None: an equal share of the cores granted to the stage."""
    gpus_per_worker: int = 0
    """GPUs per worker: 0 or 1."""
    micro_batch_sequences: int = 8
    """Sequences that a worker takes through the model at a time; gradients add up to the whole batch."""
    activation_checkpointing: bool = False
    """Keep the input of every layer alone and compute the rest again in backward: a third more FLOPs, a fraction of
    the memory for activations."""
    sharding: Sharding = "none"
    """`none`: every worker holds the whole model. `full`: parameters, gradients and optimizer state are cut into as
    many parts as there are workers (FSDP2)."""
    reshard_after_forward: bool = True
    """With `sharding=full`: whether the trunk's layers are given up after their forward pass and gathered once more for
    their backward pass (less memory), or stay whole in between (less communication)."""
    gradient_sync: GradientSync = "step"
    """With `sharding=full`: when the layers' gradients are summed over workers and cut up: `step`: once a step, kept
    whole until then (less communication), or after every `micro_batch` (less memory)."""
    compile: bool = False
    """Compile the layers with torch.compile: faster steps after a start that takes longer. Needs a C++ compiler or,
    on a GPU, Triton and a C compiler."""
    checkpoint_every: int = 100
    """Steps between checkpoints that a killed training goes on from."""
    log_every: int = 10
    """Steps between two lines of metrics; each gives means over the steps since the one before."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept; a damaged last one falls back to the one before."""
    asynchronous_checkpoints: bool = False
    """Write checkpoints from a copy in main memory while training goes on; else training waits for them. Writing takes
    12 bytes a parameter of main memory, from a copy 24."""
    evaluate_every: int = 0
    """In pretraining, steps between two looks at held-out text: loss of every head and the accepted run; 0: none."""
    evaluate_tokens: int = 16384
    """Tokens of held-out text looked at each time."""
    profile_steps: int = 0
    """Steps, from the third of an attempt on, of which the first worker writes a trace, `trace.json.gz` beside the
    model (opens in Perfetto and chrome://tracing); 0: none."""

    def __post_init__(self) -> None:
        faults = _Faults(self)
        for name in (
            "workers",
            "micro_batch_sequences",
            "checkpoint_every",
            "log_every",
            "keep_checkpoints",
            "evaluate_tokens",
        ):
            faults.check(name, getattr(self, name) >= 1, "it must be at least 1")
        least = self.min_workers
        faults.check("min_workers", least is None or least >= 1, "it must be at least 1, or None")
        faults.check("max_failures", self.max_failures >= -1, "it must be at least 0, or -1 for any number")
        cpus = self.cpus_per_worker
        faults.check("cpus_per_worker", cpus is None or cpus >= 1, "it must be at least 1, or None")
        for name in ("evaluate_every", "profile_steps"):
            faults.check(name, getattr(self, name) >= 0, "it must be at least 0")
        faults.check("sharding", self.sharding in get_args(Sharding), "use 'none' or 'full'")
        faults.check("gradient_sync", self.gradient_sync in get_args(GradientSync), "use 'step' or 'micro_batch'")
        faults.check("gpus_per_worker", self.gpus_per_worker in (0, 1), "a worker drives no GPU (0) or one (1)")
        faults.end()

    def separate_gradients(self, workers: int) -> bool:
        """Whether gradients stay the tensors that autograd makes, one for each parameter, rather than views of one
        buffer: less to move and to hold for one worker on a CPU. What several send lies best in one piece, and on a GPU
        what is said of time and memory was measured with one buffer."""
        return workers == 1 and not self.gpus_per_worker

    @property
    def lacks_compiler(self) -> str | None:
        """A sentence where layers are to be compiled for this machine's processor and it has no compiler."""
        usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        name = os.environ.get("CXX", usual)
        if not self.compile or self.gpus_per_worker or shutil.which(name):
            return None
        return (
            f"cluster.training.compile=true needs a C++ compiler, and there is no {name}: install one (CXX names "
            "another), or give cluster.training.compile=false for slower steps"
        )

    @property
    def fewest_workers(self) -> int:
        """With how many a training may have to do."""
        return min(self.workers, self.min_workers or self.workers)
