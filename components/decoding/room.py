"""Whether a batch fits in memory, said before its first token."""

import os
from pathlib import Path

import torch

from components.decoding.cache import PAGE
from components.decoding.network import Network


def needed_bytes(network: Network, batch: int, capacity: int, k: int, sampled: bool, longest_prompt: int) -> int:
    """Caches, the trunk states kept for drafting heads, and the largest tensors of a step and of reading a prompt."""
    config = network.config
    positions = batch * -(-capacity // PAGE) * PAGE
    value, cached = network.embedding.element_size(), torch.empty(0, dtype=network.cache_dtype).element_size()
    caches = positions * config.kv_bytes_per_token(cached, k)
    kept = positions * config.dim * value if k > 1 and network.heads_have_layers else 0
    # logits of all heads at all positions; sampling has a few copies in float32 and float64
    logits = batch * k * config.vocabulary_size * (2 * value + (64 if sampled else 0))
    prompt = longest_prompt * (6 * config.dim + 3 * config.ffn_width) * value
    # the lists that attention's sums take, 8 bytes a row of the cache and query, for two numbers of rows or pages
    bags = 2 * 8 * batch * k * config.n_attention_heads * capacity * (1 + config.head_dim // PAGE)
    return caches + kept + logits + prompt + bags


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had now; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = 1024 * int(line.split()[1])
                return min(available, _free_in_group(available))
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        return None


def _free_in_group(otherwise: int) -> int:
    """What a container's limit leaves (Linux control groups, version 2)."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        return otherwise if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return otherwise


def check_room(network: Network, batch: int, capacity: int, k: int, sampled: bool, longest_prompt: int) -> None:
    """ValueError with what is needed and what is free."""
    needed = needed_bytes(network, batch, capacity, k, sampled, longest_prompt)
    free = free_bytes(network.device)
    if free is not None and needed > free:
        fit = free * batch // needed
        fewer = f"give batch={fit} or less, so that the others wait for their turn, or " if fit else "give "
        raise ValueError(
            f"{batch} {'sequences' if batch > 1 else 'sequence'} of up to {capacity} tokens need {needed / 1e9:.1f} GB "
            f"beside the weights, and {free / 1e9:.1f} GB are free; {fewer}shorter prompts or fewer new tokens"
        )
