"""Where a model's parameters and gradients live, and how the gradients of all workers come together.

`Whole`: every worker holds the whole model (one process, or data parallel). `Sharded`: each holds a part of every
matrix (FSDP2). The train step is the same over both. Neither sends anything that it need not: gradients travel once a
step while the rest of the backward pass goes on, and heads that go backward one by one gather no layer twice; that cost
the paper 2 to 22 % of its time (Appendix C, Table S5).
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.model.transformer import Layer, MultiTokenTransformer
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loss import Tables, compiled_cross_entropy_gradient, cross_entropy_gradient
from components.training.parallel import rank_and_workers, sum_over_workers

BUCKET_BYTES = 32 << 20
"""Gradients of data-parallel workers are added in pieces of about this size: large enough for the network, small
enough that the first are under way while most of the trunk is still to come."""

NORM_PIECE = 1 << 14
"""Numbers whose squares are added up at a time in a norm."""


class Placement(Protocol):
    """What the train step asks of either kind, in this order; the last two once per step."""

    tables: Tables

    def begin_step(self, active_heads: int) -> None:
        """Gradients to zero; those of parameters that only further heads use to None: the optimizer lets them be."""

    def begin_micro_batch(self, last: bool) -> None:
        """Before a micro-batch; with the last one of a step gradients become final."""

    def before_head(self, i: int) -> None:
        """Head i goes backward."""

    def head_done(self, i: int) -> None:
        """Head i has been through its backward pass."""

    def before_trunk(self) -> None:
        """All heads are done and the trunk goes backward."""

    def finish(self) -> None:
        """Every parameter's gradient is the sum over all workers."""

    def clip(self, largest_norm: float) -> Tensor:
        """Scale the whole gradient down to `largest_norm` if it is longer; returns its 2-norm before that."""

    def end_look(self) -> None:
        """After forward passes without a backward: what they left whole is given up."""

    def own_tensors(self) -> list[Tensor]:
        """What is held from step to step besides parameters and the optimizer's state."""


def only_used_by(model: MultiTokenTransformer, active_heads: int) -> list[nn.Parameter]:
    """Parameters that only heads beyond the first `active_heads` use."""
    config = model.config
    if config.arrangement == "anticausal":
        return []
    first = active_heads - 1 if config.n_head_matrices else active_heads
    idle: list[nn.Parameter] = []
    for module in model.prediction_heads[first:] if config.arrangement != "replicated" else model.unembedding[first:]:
        idle += module.parameters()
    return idle


class _Flat:
    """Gradients in one buffer, of which each `parameter.grad` is a view: zeroing, adding over workers and the norm are
    one operation each, and backward adds in place."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.buffer = torch.cat([torch.zeros_like(p).flatten() for p in self.parameters])
        views = self.buffer.split_with_sizes([p.numel() for p in self.parameters])
        self.views = [view.view_as(p) for view, p in zip(views, self.parameters, strict=True)]
        self.begin([])

    def begin(self, idle: Sequence[nn.Parameter]) -> None:
        self.buffer.zero_()
        none = {id(p) for p in idle}
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = None if id(parameter) in none else view

    def tensors(self) -> list[Tensor]:
        """All gradients there are, in as few tensors as may be."""
        return [self.buffer]

    def own_tensors(self) -> list[Tensor]:
        """What is held from step to step."""
        return [self.buffer]


def separate_gradients(device: torch.device) -> bool:
    """Whether a model alone on `device` has its gradients in separate tensors: less to move and to hold. On a GPU what
    is said of time and memory was measured with one buffer."""
    return device.type == "cpu"


class _Separate:
    """Gradients as autograd makes them, one tensor each, which is neither zeroed nor added to in a step of one
    micro-batch, and is not there before. Those of the tables, which are added to by hand, stay where they are."""

    def __init__(self, parameters: Iterable[nn.Parameter], tables: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.kept = {id(p): torch.zeros_like(p) for p in tables}
        self.begin([])

    def begin(self, idle: Sequence[nn.Parameter]) -> None:
        none = {id(p) for p in idle}
        for parameter in self.parameters:
            kept = self.kept.get(id(parameter))
            parameter.grad = None if kept is None or id(parameter) in none else kept.zero_()

    def tensors(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def own_tensors(self) -> list[Tensor]:
        return list(self.kept.values())


class Whole:
    """The whole model on every worker.

    Behind the last micro-batch the heads' and tables' gradients are added over workers while the trunk goes backward,
    then the trunk's layers from the last to the first, a bucket at a time.
    """

    def __init__(self, model: MultiTokenTransformer, dtype: torch.dtype, compiled: bool = False) -> None:
        self.model, self.dtype = model, dtype
        self._pending: list[Any] = []
        self._armed = False
        self.gradients: _Flat | _Separate
        several = rank_and_workers()[1] > 1
        if separate_gradients(model.norm.weight.device) and not several:
            unembeddings = [model.head_unembedding(i).weight for i in range(model.config.n_unembeddings)]
            self.gradients = _Separate(model.parameters(), [model.embedding.weight, *unembeddings])
        else:
            self.gradients = flat = _Flat(model.parameters())
            if several:
                self._watch_trunk(flat)
        self.tables = Tables.of(model, dtype, compiled)

    def _watch_trunk(self, flat: _Flat) -> None:
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
        self._buckets, self._heads_and_tables = buckets, slice(start, len(flat.buffer))

    def _counts_for(self, bucket: int) -> Any:
        def count(_: Tensor) -> None:
            if self._armed:
                self._missing[bucket] -= 1
                if not self._missing[bucket]:
                    self._send(self._buckets[bucket][1])

        return count

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
            self._send(self._heads_and_tables)

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
        self.gains = _Flat([p for p in model.parameters() if not isinstance(p, DTensor)])
        compiled = execution.compile
        self._cross_entropy_gradient = compiled_cross_entropy_gradient() if compiled else cross_entropy_gradient
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
        self.tables = Tables(embedding_VD, embedding_gradient_VD, unembeddings, gradients, self._cross_entropy_gradient)

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


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all together, in pieces: over 10^8 numbers at once torch's own is wrong by a hundredth on a CPU."""
    pieces = []
    for tensor in tensors:
        flat = tensor.flatten()
        whole = len(flat) // NORM_PIECE * NORM_PIECE
        pieces += [torch.linalg.vector_norm(flat[:whole].view(-1, NORM_PIECE), dim=1)]
        pieces += [torch.linalg.vector_norm(flat[whole:])[None]]
    norm: Tensor = torch.linalg.vector_norm(torch.cat(pieces))
    return norm


def _gathered(weight: Any, dtype: torch.dtype) -> Tensor:
    whole: Tensor = weight.detach().to(dtype).full_tensor()
    return whole


def _scatter(weight: Any, gradient: Tensor) -> None:
    """Set `weight.grad` to this worker's part of the sum of `gradient` over workers."""
    from torch.distributed.tensor import DTensor, Partial, Shard

    summed = DTensor.from_local(gradient, weight.device_mesh, [Partial()], run_check=False)
    weight.grad = summed.redistribute(placements=[Shard(0)])


def dtype_of(config: TrainingConfig) -> torch.dtype:
    """The precision of the matrix products."""
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32


def place(
    model: MultiTokenTransformer,
    config: TrainingConfig,
    execution: TrainingExecution,
    device: torch.device,
    memory: AbstractContextManager[Any] | None = None,
) -> Placement:
    """Give a model that has no memory yet (made on the meta device) its place on `device`; its weights are not set.

    Compiled layers and activation checkpointing are set up here too, since they wrap what is placed. `memory`: what
    holds while tensors are made, where they are simulated (`training.simulate`).
    """
    dtype = dtype_of(config)
    model.recompute_layers = execution.activation_checkpointing
    if execution.compile:
        for layer in [*(module for module in model.modules() if isinstance(module, Layer)), model.norm]:
            layer.forward = torch.compile(layer.forward, dynamic=False)
    sharded = execution.sharding == "full" and rank_and_workers()[1] > 1
    mesh = _shard(model, dtype, execution, device) if sharded else None
    with memory or nullcontext():
        if mesh is None:
            model.to_empty(device=device)
            model.tie_embeddings()
            return Whole(model, dtype, execution.compile)
        _fill_parts(model, mesh, device)
        return Sharded(model, dtype, execution)


def _shard(model: MultiTokenTransformer, dtype: torch.dtype, execution: TrainingExecution, device: torch.device) -> Any:
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


def _fill_parts(model: MultiTokenTransformer, mesh: Any, device: torch.device) -> None:
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor import empty as empty_in_parts

    model.to_empty(device=device)
    shape = model.embedding.weight.shape
    for module in [model.embedding, *model.unembedding]:
        module.weight = nn.Parameter(empty_in_parts(*shape, device_mesh=mesh, placements=[Shard(0)]))
    model.tie_embeddings()


def set_weights(model: MultiTokenTransformer, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Set the parameters, wherever they live, to whole tensors that come one at a time; each worker keeps its part."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights:
            parameter = parameters.pop(name)
            if isinstance(parameter, DTensor):
                mesh = parameter.device_mesh
                whole = tensor.to(parameter.to_local().device)
                tensor = distribute_tensor(whole, mesh, parameter.placements, src_data_rank=None)
            parameter.copy_(tensor)
    assert not parameters, f"without a value: {sorted(parameters)}"
