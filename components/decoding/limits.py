"""The least time a step can take on this machine, by bytes of weights and caches read and by arithmetic."""

from collections.abc import Sequence

import torch

from components.decoding.arms import Arm
from components.decoding.machine import matmul_rate, read_bandwidth
from components.model.config import ModelConfig


def step_products(config: ModelConfig, k: int, batch: int) -> list[tuple[int, int]]:
    """(weights read, rows they meet) of the parts of a step: verifying, then drafting for k > 1.

    Keys and values of the drafting layers meet more rows, one per token accepted; that is left out.
    """
    D, E = config.dim, config.head_dim
    table = config.vocabulary_size * D
    layer = D * E * (2 * config.n_attention_heads + 2 * config.kv_heads) + 3 * D * config.ffn_width
    main = (config.n_trunk_layers + min(1, config.n_head_layers)) * layer + table
    parts = [(main, batch * k)]
    if k > 1 and config.arrangement == "parallel":
        parts += [((k - 1) * layer, batch), (table, batch * (k - 1))]
    elif k > 1:
        parts += [((k - 1) * table, batch)]
    return parts


def step_limits(
    config: ModelConfig, dtype: torch.dtype, batch: int, arms: Sequence[Arm], cores: int, device: torch.device
) -> list[float]:
    """Seconds per step of every arm: per part the larger of bytes / bandwidth and operations / matmul rate.

    Bandwidth is measured on an array as large as the weights, so a model that fits a cache is held against the
    cache; by one core and by all, whichever is more. The caches of keys and values are left out: they are small
    beside the weights here.
    """
    size = torch.empty(0, dtype=dtype).element_size()
    rate = max(matmul_rate(dtype, threads, device) for threads in {1, cores})
    found = []
    for arm in arms:
        parts = step_products(config, arm.k, batch)
        weights_bytes = sum(weights for weights, _ in parts) * size
        bandwidth = max(read_bandwidth(weights_bytes, threads, device) for threads in {1, cores})
        found.append(sum(max(weights * size / bandwidth, 2 * weights * rows / rate) for weights, rows in parts))
    return found
