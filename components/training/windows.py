"""Pretraining batches: the windows of a step, this worker's share of them, and where they stand.

Shape suffixes: G windows of this worker's share of a batch, S = context + n positions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from components.training.config import TrainingConfig
from components.training.loop import Batch
from components.training.loss import window_targets
from components.training.parallel import own_share


class Reader(Protocol):
    """Tokens as one long sequence; `components.shards.reader` has one."""

    def window(self, start: int, length: int) -> Any:
        """Tokens [start, start + length) as an int64 array."""

    def locate(self, position: int) -> tuple[Path, int]:
        """The file that holds a position, and the offset in it."""


class Order(Protocol):
    """The windows of every step; `components.shards.order` has one."""

    @property
    def context_length(self) -> int: ...

    def starts(self, step: int) -> Sequence[int] | Any:
        """Positions of the first tokens of the global batch of a step, counted from 0."""


class WindowBatches:
    """Batches as a pure function of the step: windows of context + n tokens, so that no target is missing."""

    def __init__(self, reader: Reader, order: Order, n_future_tokens: int, device: torch.device) -> None:
        self.reader, self.order, self.n_future_tokens, self.device = reader, order, n_future_tokens, device

    def batch(self, step: int) -> Batch:
        """tokens_GT and targets_KGT of this worker's share of a step, counted from 0."""
        starts = self.order.starts(step)
        length = self.order.context_length + self.n_future_tokens
        windows = [self.reader.window(int(start), length) for start in starts[own_share(len(starts))]]
        window_GS = torch.stack([torch.from_numpy(window) for window in windows])
        return window_targets(window_GS.to(self.device), self.n_future_tokens)

    def where(self, step: int) -> str:
        """Shard and offset of every window of a step, over all workers."""
        places = (self.reader.locate(int(start)) for start in self.order.starts(step))
        return ", ".join(f"{path.name} at token {offset}" for path, offset in places)


def open_windows(shards: Path, training: TrainingConfig, n_future_tokens: int, device: torch.device) -> WindowBatches:
    """The training split of `shards`, in the order of `training.seed`. ValueError for a damaged shard of this
    worker's."""
    from components.shards.order import GlobalOrder
    from components.shards.reader import TokenReader

    reader = TokenReader(shards, "train")
    reader.verify(own_share(reader.n_shards))
    order = GlobalOrder(reader.n_tokens, training.context_length, training.sequences_per_step, training.seed)
    return WindowBatches(reader, order, n_future_tokens, device)
