"""Data-parallel workers. Without a process group everything here is the one-worker case and costs nothing."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_workers() -> tuple[int, int]:
    """This process's rank and the number of workers."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_share(items: int) -> slice:
    """The items of a global batch that belong to this worker: contiguous, sizes differing by at most one."""
    rank, workers = rank_and_workers()
    return slice(items * rank // workers, items * (rank + 1) // workers)


def sum_over_workers(x: Tensor) -> Tensor:
    """Sum `x` in place over all workers."""
    if rank_and_workers()[1] > 1:
        dist.all_reduce(x)
    return x


def from_first_worker(value: int, device: torch.device) -> int:
    """What the worker of rank 0 says."""
    if rank_and_workers()[1] == 1:
        return value
    box = torch.tensor(value, dtype=torch.int64, device=device)
    dist.broadcast(box, src=0)
    return int(box.item())


def from_all_workers(text: str) -> list[str]:
    """What every worker says, by rank."""
    workers = rank_and_workers()[1]
    if workers == 1:
        return [text]
    said: list[str] = [""] * workers
    dist.all_gather_object(said, text)
    return said
