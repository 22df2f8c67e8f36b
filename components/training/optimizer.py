"""AdamW and the gradients that it reads."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from components.training.config import TrainingConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings decay; norm gains, for which 0 is no natural value, do not.

    The paper says "decoupled weight decay 0.1" (Appendix M) and not of what; this is what Llama-like models do.
    """
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW in its fused form, one pass over memory; the loop sets the learning rate of every step."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)


class Gradients:
    """The gradients of all parameters in one buffer, of which each `parameter.grad` is a view.

    So that zeroing, the sum over workers and the norm are one operation each; backward adds in place.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        parameters = list(parameters)
        self.flat = torch.cat([torch.zeros_like(p).flatten() for p in parameters])
        views = self.flat.split_with_sizes([p.numel() for p in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view.view_as(parameter)

    def zero(self) -> None:
        self.flat.zero_()

    def clip(self, largest_norm: float) -> Tensor:
        """Scale the whole gradient down to `largest_norm` if it is longer; returns its norm before that."""
        norm: Tensor = torch.linalg.vector_norm(self.flat)
        self.flat.mul_((largest_norm / norm).clamp(max=1.0))
        return norm
