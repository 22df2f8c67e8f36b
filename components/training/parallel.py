"""Data-parallel workers. Without a process group everything here is the one-worker case and costs nothing."""

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


def rank_and_workers() -> tuple[int, int]:
    """This process's rank and the number of workers."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_share(items: int) -> slice:
    """The items of a global batch that belong to this worker: contiguous, sizes differing by at most one."""
    rank, workers = rank_and_workers()
    return slice(items * rank // workers, items * (rank + 1) // workers)


def own_share_of(items: Sequence[Item]) -> Sequence[Item]:
    """This worker's share of `items`."""
    return items[own_share(len(items))]


def sum_over_workers(x: Tensor) -> Tensor:
    """Sum `x` in place over all workers."""
    if rank_and_workers()[1] > 1:
        dist.all_reduce(x)
    return x


def from_all_workers(text: str, group: dist.ProcessGroup | None = None) -> list[str]:
    """What every worker says, by rank, over a process group of its own if given."""
    workers = rank_and_workers()[1]
    if workers == 1:
        return [text]
    said: list[str] = [""] * workers
    dist.all_gather_object(said, text, group=group)
    return said
