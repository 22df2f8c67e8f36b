"""A part of every matrix on each worker (FSDP2)."""

from typing import Any

import torch
from torch import Tensor, nn

from components.model.transformer import MultiTokenTransformer
from components.training.config import TrainingExecution
from components.training.gradients import Flat, norm_of, only_used_by
from components.training.parallel import rank_and_workers, sum_over_workers
from components.training.placement import Tables


class Sharded:
    """A part of every matrix on each worker (`fully_shard`, FSDP2); gains, which are small, whole on all.

    Layers: gathered, in the precision of the products, for their forward pass and, unless they stay whole in between,
    once more for their backward pass; a head, whose backward follows at once, once for both. Their gradients are summed
    in float32 and cut up again after each micro-batch or, kept whole until then, after the last. Tables: gathered once
    per step, their gradients kept whole in float32 and summed and cut up at its end, since every head adds to them.
    """

    def __init__(self, model: MultiTokenTransformer, dtype: torch.dtype, execution: TrainingExecution) -> None:
        from torch.distributed.tensor import DTensor

        self.model, self.dtype = model, dtype
        self.every_micro_batch = execution.gradient_sync == "micro_batch"
        self.gains = Flat([p for p in model.parameters() if not isinstance(p, DTensor)])
        self._compiled = execution.compile
        self._embedding = model.embedding.weight
        self._unembeddings = [model.head_unembedding(i).weight for i in range(model.config.n_unembeddings)]
        self._parts = [p for p in model.parameters() if isinstance(p, DTensor)]
        self._heads: list[Any] = list(model.prediction_heads)
        self.tables: Tables = None  # type: ignore[assignment]  # made anew every step

    def begin_step(self, active_heads: int) -> None:
        idle = only_used_by(self.model, active_heads)
        self._idle = {id(p) for p in idle}
        self.gains.begin(idle)
        for parameter in self._parts:
            parameter.grad = None
        embedding_VD = _gathered(self._embedding, self.dtype)
        embedding_gradient_VD = torch.zeros_like(embedding_VD, dtype=torch.float32)
        tied = self._unembeddings[0] is self._embedding
        unembeddings = [embedding_VD] if tied else [_gathered(weight, self.dtype) for weight in self._unembeddings]
        gradients = (
            [embedding_gradient_VD] if tied else [torch.zeros_like(w, dtype=torch.float32) for w in unembeddings]
        )
        self.tables = Tables(embedding_VD, embedding_gradient_VD, unembeddings, gradients, self._compiled)

    def begin_micro_batch(self, last: bool) -> None:
        model: Any = self.model
        self._sums_now = last or self.every_micro_batch
        # each head's backward ends as if it were all: nothing may be given up, summed or waited for before its turn
        for layer in model.trunk:
            layer.set_requires_gradient_sync(False)
        model.set_reshard_after_backward(False)
        model.set_is_last_backward(False)

    def before_head(self, i: int) -> None:
        for head in self._modules_of(i):
            head.set_requires_gradient_sync(self._sums_now)

    def head_done(self, i: int) -> None:
        for head in self._modules_of(i):
            head.set_requires_gradient_sync(False)
            head.reshard()

    def _modules_of(self, i: int) -> list[Any]:
        place = i - 1 if self.model.config.n_head_matrices else i
        return self._heads[place : place + 1] if place >= 0 else []

    def before_trunk(self) -> None:
        model: Any = self.model
        for layer in model.trunk:
            layer.set_requires_gradient_sync(self._sums_now)
            layer.set_reshard_after_backward(True)
        model.set_is_last_backward(True)

    def finish(self) -> None:
        sum_over_workers(self.gains.buffer)
        tables = self.tables
        _scatter(self._embedding, tables.embedding_gradient_VD)
        for weight, gradient_VD in zip(self._unembeddings, tables.unembedding_gradients, strict=True):
            if weight is not self._embedding and id(weight) not in self._idle:
                _scatter(weight, gradient_VD)
        self.tables = None  # type: ignore[assignment]

    def clip(self, largest_norm: float) -> Tensor:
        parts = [p.grad.to_local() for p in self._parts if p.grad is not None]  # type: ignore[attr-defined]
        squares = sum_over_workers(norm_of(parts).square())
        norm = (squares + norm_of([self.gains.buffer]).square()).sqrt()
        shrink = (largest_norm / norm).clamp(max=1.0)
        torch._foreach_mul_([*parts, self.gains.buffer], shrink)
        return norm

    def end_look(self) -> None:
        layers: list[Any] = [*self.model.trunk, *self._heads]
        for layer in layers:
            layer.reshard()  # a whole layer is a copy in the products' precision, and would be what is saved
        self.tables = None  # type: ignore[assignment]

    def own_tensors(self) -> list[Tensor]:
        return [self.gains.buffer]


def _gathered(weight: Any, dtype: torch.dtype) -> Tensor:
    whole: Tensor = weight.detach().to(dtype).full_tensor()
    return whole


def _scatter(weight: Any, gradient: Tensor) -> None:
    """Set `weight.grad` to this worker's part of the sum of `gradient` over workers."""
    from torch.distributed.tensor import DTensor, Partial, Shard

    summed = DTensor.from_local(gradient, weight.device_mesh, [Partial()], run_check=False)
    weight.grad = summed.redistribute(placements=[Shard(0)])


def shard(model: MultiTokenTransformer, dtype: torch.dtype, execution: TrainingExecution, device: torch.device) -> Any:
    """Cut the layers' matrices up; returns the mesh of the workers."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (rank_and_workers()[1],))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    tables = [model.embedding, *model.unembedding]
    whole = {p for p in model.parameters() if p.dim() < 2} | {module.weight for module in tables}
    heads: list[Any] = list(model.prediction_heads)
    for module in model.trunk:
        again = execution.reshard_after_forward
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=again, ignored_params=whole)
    for module in heads:
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=whole)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=whole)  # no parameters: what all have in common
    register_fsdp_forward_method(model, "forward_trunk")
    layers: list[Any] = [*model.trunk]
    next_back = [*zip(heads, [layers[-1]] * len(heads), strict=True), *zip(layers, [layers[0], *layers], strict=False)]
    for module, prefetched in next_back:  # torch's own guess, the one before in forward order, would be another head
        module.set_modules_to_backward_prefetch([prefetched])
        module.set_gradient_divide_factor(1.0)  # the loss has the divisor: sums are what is wanted
        module.set_force_sum_reduction_for_comms(True)
    return mesh


def fill_parts(model: MultiTokenTransformer, mesh: Any, device: torch.device) -> None:
    """Give a model that `shard` has cut up its memory on `device`, and the tables, which it left out, their parts."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor import empty as empty_in_parts

    model.to_empty(device=device)
    shape = model.embedding.weight.shape
    for module in [model.embedding, *model.unembedding]:
        module.weight = nn.Parameter(empty_in_parts(*shape, device_mesh=mesh, placements=[Shard(0)]))
    model.tie_embeddings()
