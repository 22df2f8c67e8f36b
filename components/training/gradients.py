"""Gradients of one worker: where they live, which there are, how long they are."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from components.model.transformer import MultiTokenTransformer

NORM_PIECE = 1 << 14
"""Numbers whose squares are added up at a time in a norm."""


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


class Flat:
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


class Separate:
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
