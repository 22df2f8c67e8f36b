"""The whole model on every worker: one process, or data parallel."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.model.transformer import MultiTokenTransformer
from components.training.gradients import Flat, Separate, norm_of, only_used_by
from components.training.parallel import rank_and_workers
from components.training.placement import Tables

BUCKET_BYTES = 32 << 20
"""Gradients of data-parallel workers are added in pieces of about this size: large enough for the network, small
enough that the first are under way while most of the trunk is still to come."""


class Whole:
    """The whole model on every worker.

    Behind the last micro-batch the heads' and tables' gradients are added over workers while the trunk goes backward,
    then the trunk's layers from the last to the first, a bucket at a time.
    """

    def __init__(
        self, model: MultiTokenTransformer, dtype: torch.dtype, compiled: bool = False, separate_gradients: bool = False
    ) -> None:
        self.model, self.dtype = model, dtype
        self._pending: list[Any] = []
        self._armed = False
        self.gradients: Flat | Separate
        if separate_gradients:
            unembeddings = [model.head_unembedding(i).weight for i in range(model.config.n_unembeddings)]
            self.gradients = Separate(model.parameters(), [model.embedding.weight, *unembeddings])
        else:
            self.gradients = flat = Flat(model.parameters())
            if rank_and_workers()[1] > 1:
                self._watch_trunk(flat)
        self.tables = Tables.of(model, dtype, compiled)

    def _watch_trunk(self, flat: Flat) -> None:
        """Cut the buffer into what the heads and tables fill, and buckets of trunk layers that follow each other."""
        sizes = {id(p): p.numel() for p in flat.parameters}
        start = self.model.embedding.weight.numel()
        self._embedding = slice(0, start)
        self._missing: dict[int, int] = {}
        buckets: list[tuple[int, slice]] = []
        begun, waiting = start, 0
        for layer in self.model.trunk:
            for parameter in layer.parameters():
                start, waiting = start + sizes[id(parameter)], waiting + 1
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._counts_for(len(buckets))
                )
            if (start - begun) * flat.buffer.element_size() >= BUCKET_BYTES or layer is self.model.trunk[-1]:
                buckets.append((waiting, slice(begun, start)))
                begun, waiting = start, 0
        self._buckets, self._trunk_end = buckets, start

    def _counts_for(self, bucket: int) -> Any:
        def count(_: Tensor) -> None:
            if self._armed:
                self._missing[bucket] -= 1
                if not self._missing[bucket]:
                    self._send(self._buckets[bucket][1])

        return count

    def _beyond_the_trunk(self) -> list[slice]:
        """What heads and tables fill of the buffer, those that rest left out, in as few pieces as may be."""
        assert isinstance(self.gradients, Flat)
        pieces: list[slice] = []
        for parameter, view in zip(self.gradients.parameters, self.gradients.views, strict=True):
            start = view.storage_offset()
            if start < self._trunk_end or parameter.grad is None:
                continue
            if pieces and pieces[-1].stop == start:
                start = pieces.pop().start
            pieces.append(slice(start, view.storage_offset() + view.numel()))
        return pieces

    def _send(self, part: slice) -> None:
        (buffer,) = self.gradients.tensors()
        self._pending.append(dist.all_reduce(buffer[part], async_op=True))

    def begin_step(self, active_heads: int) -> None:
        self.gradients.begin(only_used_by(self.model, active_heads))
        if self.dtype != self.model.embedding.weight.dtype:
            for i, copy in enumerate(self.tables.unembeddings):
                copy.copy_(self.model.head_unembedding(i).weight.detach())

    def begin_micro_batch(self, last: bool) -> None:
        self._armed = last and rank_and_workers()[1] > 1
        if self._armed:
            self._missing = {number: waiting for number, (waiting, _) in enumerate(self._buckets)}

    def before_head(self, i: int) -> None: ...
    def head_done(self, i: int) -> None: ...

    def before_trunk(self) -> None:
        if self._armed:
            for part in self._beyond_the_trunk():
                self._send(part)

    def finish(self) -> None:
        if self._armed:
            self._armed = False
            self._send(self._embedding)
            for work in self._pending:
                work.wait()
            self._pending.clear()

    def clip(self, largest_norm: float) -> Tensor:
        tensors = self.gradients.tensors()
        norm = norm_of(tensors)
        torch._foreach_mul_(tensors, (largest_norm / norm).clamp(max=1.0))
        return norm

    def end_look(self) -> None: ...

    def own_tensors(self) -> list[Tensor]:
        return [*self.gradients.own_tensors(), *self.tables.unembeddings]
