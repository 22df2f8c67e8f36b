"""The least time a step can take on this machine, by bytes of weights and caches read and by arithmetic."""

from collections.abc import Sequence

import torch

from components.decoding.arms import Arm
from components.decoding.machine import matmul_rate, read_bandwidth
from components.model.config import ModelConfig


def step_products(config: ModelConfig, k: int, batch: int) -> list[tuple[int, int]]:
    """(weights read, rows they meet) of the parts of a step: verifying, then drafting for k > 1.

    Drafting layers meet more rows, one per token accepted (in the parallel arrangement their keys and values alone);
    that is left out.
    """
    table, layer = config.vocabulary_size * config.dim, config.layer_matrix_parameters()
    on_the_way = config.head_layers_run(1)
    parts = [((config.n_trunk_layers + on_the_way) * layer + table, batch * k)]
    if k == 1:
        return parts
    if config.arrangement == "replicated":
        return [*parts, ((k - 1) * table, batch)]
    own = (config.head_layers_run(k) - on_the_way) * layer + min(k - 1, config.n_head_matrices) * config.dim**2
    return [*parts, (own, batch), (table, batch * (k - 1))]


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
