"""Where a model's parameters and gradients live, and how the gradients of all workers come together.

`Whole`: every worker holds the whole model (one process, or data parallel). `Sharded`: each holds a part of every
matrix (FSDP2). The train step is the same over both. Neither sends anything that it need not: gradients travel once a
step while the rest of the backward pass goes on, and heads that go backward one by one gather no layer twice; that cost
the paper 2 to 22 % of its time (Appendix C, Table S5).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from components.model.transformer import MultiTokenTransformer
from components.training.config import TrainingConfig


@dataclass
class Tables:
    """Embedding and unembeddings during a step: whole matrices to compute with, and where their gradients add up."""

    embedding_VD: Tensor
    embedding_gradient_VD: Tensor
    unembeddings: list[Tensor]
    """One (V, D) matrix for all heads, or one per head, in the precision of the products."""
    unembedding_gradients: list[Tensor]
    compiled: bool
    """Whether what is computed between products with them is compiled."""

    @staticmethod
    def of(model: MultiTokenTransformer, dtype: torch.dtype, compiled: bool = False) -> "Tables":
        """A whole model's own parameters, the unembeddings in `dtype`, with their `.grad`."""
        weights = [model.head_unembedding(i).weight for i in range(model.config.n_unembeddings)]
        return Tables(
            model.embedding.weight.detach(),
            gradient_of(model.embedding.weight),
            [weight.detach().to(dtype) for weight in weights],
            [gradient_of(weight) for weight in weights],
            compiled,
        )


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


def gradient_of(parameter: Tensor) -> Tensor:
    """The parameter's gradient, to be added to; zeros if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
