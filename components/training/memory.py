"""Memory of a training, by counting: what one worker holds at its peak, in bytes. Standard library alone.

The peak lies in the backward pass of a step: parameters, gradients and optimizer state are there all the time; on top
come the activations that the trunk keeps for its backward and, at the moment when most is alive, one prediction head
with a chunk of its logits, or the last trunk layer on its way back (the loss's memory order: paper Figure 2).
`pipelines/bench.py subject=memory` holds these figures against torch's memory tracker.
"""

from components.model.config import ModelConfig
from components.training.config import TrainingConfig, TrainingExecution

LOGIT_ROWS = {"cpu": 512, "gpu": 4096}
"""Positions with logits at a time (see loss.multi_token_backward)."""
PREFETCHED_LAYERS = 2
"""With full sharding: layers whose whole weights are there at a time, the one at work and the next."""


def training_memory(
    model: ModelConfig, config: TrainingConfig, execution: TrainingExecution, workers: int | None = None
) -> dict[str, int]:
    """Bytes of one worker at the peak of a step, by what they are for; `workers` other than execution's if given."""
    workers = workers or execution.workers
    sharded = execution.sharding == "full" and workers > 1
    parts = workers if sharded else 1
    parameters = model.n_parameters()
    sequences = min(execution.micro_batch_sequences, -(-config.sequences_per_step // workers))
    positions = sequences * config.context_length
    activations, working = _passing(model, config, execution, positions, sharded)
    if sharded:
        layer = model.layer_parameters()
        whole = PREFETCHED_LAYERS * layer + 2 * model.vocabulary_size * model.dim
        working += whole * _value_bytes(config) + layer * 4
    return {
        "parameters": 4 * parameters // parts,
        "gradients": 4 * parameters // parts,
        "optimizer": 8 * parameters // parts,
        "activations": activations,
        "working": working,
    }


def _value_bytes(config: TrainingConfig) -> int:
    return 2 if config.precision == "bfloat16" else 4


def _passing(
    model: ModelConfig, config: TrainingConfig, execution: TrainingExecution, positions: int, sharded: bool
) -> tuple[int, int]:
    """(activations, working memory) at the peak of a micro-batch of `positions`."""
    b = _value_bytes(config)
    on_gpu = execution.gpus_per_worker > 0
    residual, table = 4 * model.dim, model.vocabulary_size * model.dim
    layer = _kept_by_layer(model, config, on_gpu)
    recomputed = layer if execution.activation_checkpointing else 0
    trunk = model.n_trunk_layers * (residual if recomputed else layer)
    between = 2 * residual  # the trunk's output and the gradient that the heads leave for it

    chunk = min(positions, LOGIT_ROWS["gpu" if on_gpu else "cpu"])
    logits = chunk * model.vocabulary_size * (12 if positions > chunk else 10)
    head_layer = positions * layer if model.n_head_layers else 0
    norm_and_state = positions * (2 * residual + 2 * b * model.dim)
    # a head that computes its layer again has no logits any more by then
    at_head = norm_and_state + (max(head_layer, logits) if recomputed else head_layer + logits)
    at_head_working = (2 if b == 2 else 1) * table * b
    on_the_way_back = positions * (recomputed + residual + 4 * b * model.ffn_width)
    back_working = 2 * model.dim * model.ffn_width * (b + 4 if b == 2 else 4)

    casts = 0
    if b == 2 and not sharded:  # autocast keeps a copy of each matrix for a micro-batch
        casts = b * model.layers * model.layer_matrix_parameters()
    activations = positions * (trunk + between)
    if at_head + at_head_working >= on_the_way_back + back_working:
        return activations + at_head, casts + at_head_working
    return activations + on_the_way_back, casts + back_working


def _kept_by_layer(model: ModelConfig, config: TrainingConfig, on_gpu: bool) -> int:
    """Bytes per position that a layer keeps for its backward."""
    b = _value_bytes(config)
    queries, keys = model.n_attention_heads * model.head_dim, model.kv_heads * model.head_dim
    spelled_out = not on_gpu and b == 2 and config.context_length <= 512 and queries == keys
    norms = 2 * (8 * model.dim + b * model.dim)  # input and normalized input in float32, then in working precision
    if spelled_out:  # scores in float32, then in bfloat16, kept whole
        attention = b * (queries + 2 * keys) + 6 * model.n_attention_heads * config.context_length
    else:  # the fused kernel keeps q and k after rotation, the projection they came from, and a sum per row
        attention = b * (2 * queries + 3 * keys) + 4 * model.n_attention_heads
    return norms + attention + b * queries + 4 * b * model.ffn_width
