"""Memory of a training, by counting: what one worker holds at its peak, in bytes. Standard library alone.

The peak lies in the backward pass of a step: parameters, gradients and optimizer state are there all the time; on top
come the activations that the trunk keeps for its backward and, at the moment when most is alive, a prediction head (of
heads one upon another all) with a chunk of its logits, or the last trunk layer on its way back (the loss's memory
order: paper Figure 2, for heads one upon another Figure S11). In parts (FSDP2) each layer is whole while it is at work,
the tables for the whole step. `simulate` counts the same from the code itself; tests hold the two together, and
`pipelines/bench.py subject=memory` holds these figures against steps that run.
"""

from dataclasses import dataclass

from components.model.config import ModelConfig
from components.training.config import TrainingConfig, TrainingExecution

LOGIT_ROWS = {"cpu": 512, "gpu": 8192}
"""Positions with logits at a time, at most: those of loss.CHUNK_TOKENS."""
BLOCK, LONGEST_IN_BLOCKS = 128, 512
"""Those of model.attention."""


def training_memory(
    model: ModelConfig, config: TrainingConfig, execution: TrainingExecution, workers: int | None = None
) -> dict[str, int]:
    """Bytes of one worker at the peak of a step, by what they are for; `workers` other than execution's if given."""
    workers = workers or execution.workers
    share = -(-config.sequences_per_step // workers)
    sequences = min(execution.micro_batch_sequences, share)
    sharded = execution.sharding == "full" and workers > 1
    parts = workers if sharded else 1
    separate = execution.separate_gradients(workers) and share <= sequences
    step = _Step(model, config, execution, sequences * config.context_length, sharded, share > sequences, separate)
    moments = step.at_head(), step.in_head(), step.on_the_way_back(), step.almost_back()
    activations, working, to_come = max(moments, key=lambda moment: moment[0] + moment[1] - 4 * moment[2])
    parameters = model.n_parameters()
    return {
        "parameters": 4 * parameters // parts,
        "gradients": 4 * (parameters - to_come) // parts,
        "optimizer": 8 * parameters // parts,
        "activations": activations,
        "working": working + step.whole_tables(),
    }


def checkpoint_memory(
    model: ModelConfig, config: TrainingConfig, execution: TrainingExecution, workers: int | None = None
) -> int:
    """Bytes that writing a checkpoint takes beyond the peak of a step, on a CPU; a GPU's is written from main memory.

    12 a parameter, weights and two means, for the file as it is written; asynchronous, while steps go on, as many for
    the copy that it is written from.
    """
    if execution.gpus_per_worker:
        return 0
    workers = workers or execution.workers
    parts = workers if execution.sharding == "full" else 1
    written = 12 * model.n_parameters() // parts
    if execution.asynchronous_checkpoints:
        return 2 * written
    kept = 16 * model.n_parameters() // parts
    return max(0, kept + written - sum(training_memory(model, config, execution, workers).values()))


@dataclass(frozen=True)
class _Step:
    """A step's moments, each as (activations, working memory) in bytes, and the parameters whose gradient has yet to
    be made."""

    model: ModelConfig
    config: TrainingConfig
    execution: TrainingExecution
    positions: int
    """Of a micro-batch."""
    sharded: bool
    several: bool
    """Whether it has more than one micro-batch."""
    separate: bool
    """Whether gradients come one by one (TrainingExecution.separate_gradients) and none is there from a micro-batch
    before."""

    @property
    def value_bytes(self) -> int:
        """Of a number in a matrix product."""
        return 2 if self.config.precision == "bfloat16" else 4

    @property
    def _sums_wait(self) -> bool:
        """Whether gradients of matrices stay whole, in float32, from micro-batch to micro-batch."""
        return self.sharded and self.several and self.execution.gradient_sync == "step"

    def at_head(self) -> tuple[int, int, int]:
        """A head has a chunk of logits and has yet to take its layer back."""
        model, b = self.model, self.value_bytes
        chunks = -(-self.positions // LOGIT_ROWS["gpu" if self.execution.gpus_per_worker else "cpu"])
        logits = self.positions // chunks * model.vocabulary_size
        # as they come, in float32 and as probabilities; a GPU's kernel puts the gradient in their place
        per_logit = b if self.execution.gpus_per_worker else 8 if b == 4 else 10
        # of which the unembedding's gradient becomes more; a GPU adds to it at once
        product = 0 if self.execution.gpus_per_worker else b * model.vocabulary_size * model.dim
        norm = self.positions * (8 + 2 * b) * model.dim  # its inputs and outputs, and the gradient of these
        working = self._weights() + max(per_logit * logits, b * logits + product)
        if self.sharded and self.model.n_head_layers > 1 and not self._sums_wait:
            working += 4 * model.layer_matrix_parameters()  # the head before may still be on its way to other workers
        return self._trunk() + self._heads(True) + norm, working, self._to_come(len(model.chain) or 1)

    def in_head(self) -> tuple[int, int, int]:
        """The layer of the first head to go back does so."""
        if not self.model.n_head_layers:
            return 0, 0, 0
        to_come = self._to_come(len(self.model.chain) or 1) - self._ffn_parameters()
        return self._trunk() + self._heads(False), self._weights() + self._back(0), to_come

    def on_the_way_back(self) -> tuple[int, int, int]:
        """The last layer of the trunk goes back."""
        recomputed = self._layer() if self.execution.activation_checkpointing else 0
        to_come = self._to_come(0) - self._ffn_parameters()
        return self._trunk() + self.positions * recomputed, self._weights() + self._back(1), to_come

    def almost_back(self) -> tuple[int, int, int]:
        """The first layer of the trunk goes back; all others' gradients are there and their activations are not."""
        activations = self.positions * (self._layer() + 2 * 4 * self.model.dim)
        return activations, self._weights() + self._back(1), 0

    def _to_come(self, heads: int) -> int:
        """Parameters of the trunk and of so many heads, where gradients come one by one."""
        model = self.model
        layers = model.n_trunk_layers + (heads if model.n_head_layers else 0)
        return layers * model.layer_matrix_parameters() if self.separate else 0

    def _ffn_parameters(self) -> int:
        """Of the layer that goes back: the first whose gradients are made."""
        return 3 * self.model.dim * self.model.ffn_width if self.separate else 0

    def whole_tables(self) -> int:
        """Of embedding and unembeddings, what is there for a whole step besides a worker's own."""
        model, b = self.model, self.value_bytes
        tables = model.n_unembeddings + (0 if model.tied_embeddings else 1)
        if self.sharded:
            return tables * (b + 4) * model.vocabulary_size * model.dim
        return model.n_unembeddings * b * model.vocabulary_size * model.dim if b == 2 else 0

    def _trunk(self) -> int:
        """What the trunk keeps, and between it and the heads its output and the gradient that they leave for it."""
        residual = 4 * self.model.dim
        layer = residual if self.execution.activation_checkpointing else self._layer()
        return self.positions * (self.model.n_trunk_layers * layer + 2 * residual)

    def _heads(self, with_logits: bool) -> int:
        """What the layers of heads keep: of one, or of all that stand one upon another."""
        model, residual = self.model, 4 * self.model.dim
        if not model.n_head_layers:
            return self.positions * 2 * residual
        recomputed = self.execution.activation_checkpointing
        there = len(model.chain) or 1
        kept = there * (residual if recomputed else self._layer())
        between = (there + 1) * residual  # their outputs, and a gradient
        again = 0 if with_logits or not recomputed else self._layer()
        return self.positions * (kept + between + again)

    def _back(self, before: int) -> int:
        """Working memory of a layer that goes back: gradients of activations, then of matrices on their way to other
        workers; the layer `before` may still be at that."""
        model, b = self.model, self.value_bytes
        activations = self.positions * (4 * model.dim + 2 * b * model.ffn_width)  # as some come, some go
        if not self.sharded:
            made = 0 if self.separate else 4  # else it is there already, and this is added to it
            return activations + 2 * model.dim * model.ffn_width * (b + made if b == 2 else made)
        matrices = model.layer_matrix_parameters()
        return max(activations + b * matrices, (b + 4) * matrices) + before * 4 * matrices

    def _weights(self) -> int:
        """Matrices of layers besides a worker's own, whole: in the products' precision, and their gradients."""
        model, b = self.model, self.value_bytes
        matrices = model.matrix_parameters()
        if not self.sharded:  # autocast keeps a copy of each matrix for a micro-batch
            return b * matrices if b == 2 else 0
        layer = model.layer_matrix_parameters()
        whole = (1 if self.execution.reshard_after_forward else model.n_trunk_layers) + 1
        gradients = 4 * matrices if self._sums_wait else 0
        return whole * b * layer + gradients

    def _layer(self) -> int:
        """Bytes per position that a layer keeps for its backward."""
        model, b = self.model, self.value_bytes
        on_gpu = self.execution.gpus_per_worker > 0
        queries, keys = model.n_attention_heads * model.head_dim, model.kv_heads * model.head_dim
        T = self.config.context_length
        in_blocks = not on_gpu and b == 2 and T <= LONGEST_IN_BLOCKS and queries == keys
        # input in float32, on a CPU the normalized input too, and what the product reads
        norms = 2 * ((4 if on_gpu else 8) * model.dim + b * model.dim)
        if in_blocks:  # a probability for every position that a block of queries sees
            seen = sum((min(start + BLOCK, T) - start) * min(start + BLOCK, T) for start in range(0, T, BLOCK))
            attention = b * (queries + 2 * keys) + b * model.n_attention_heads * seen // T
        else:  # the fused kernel keeps q and k after rotation, the projection they came from, and a sum per row
            attention = b * (2 * queries + 3 * keys) + 4 * model.n_attention_heads
        return norms + attention + b * queries + 4 * b * model.ffn_width
