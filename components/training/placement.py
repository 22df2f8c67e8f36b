"""Where a model's parameters and gradients live, and how the gradients of all workers come together.

`Whole`: every worker holds the whole model (one process, or data parallel). `Sharded`: each holds a part of every
matrix (FSDP2). The train step is the same over both. Neither sends anything that it need not: gradients travel once a
step while the rest of the backward pass goes on, and heads that go backward one by one gather no layer twice; that cost
the paper 2 to 22 % of its time (Appendix C, Table S5).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from components.model.transformer import Layer, MultiTokenTransformer
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loss import Tables
from components.training.parallel import rank_and_workers
from components.training.sharded import Sharded, fill_parts, shard
from components.training.whole import Whole


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
    workers = rank_and_workers()[1]
    mesh = shard(model, dtype, execution, device) if execution.sharding == "full" and workers > 1 else None
    with memory or nullcontext():
        if mesh is None:
            model.to_empty(device=device)
            model.tie_embeddings()
            return Whole(model, dtype, execution.compile, execution.separate_gradients(workers))
        fill_parts(model, mesh, device)
        return Sharded(model, dtype, execution)


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
