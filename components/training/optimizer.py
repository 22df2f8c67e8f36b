"""The optimizer over a model's parameters, and what it keeps of each."""

from typing import Any

import torch
from torch import Tensor

from components.model.transformer import MultiTokenTransformer
from components.training.config import TrainingConfig


def parameter_groups(model: MultiTokenTransformer, config: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices and embeddings decay; norm gains, for which 0 is no natural value, do not.

    The paper says "decoupled weight decay 0.1" (Appendix M) and not of what; this is what Llama-like models do. A
    group's `rate_ratio` is its learning rate over the schedule's.
    """
    tables = {id(model.head_unembedding(i).weight) for i in range(model.config.n_unembeddings)}
    tables.add(id(model.embedding.weight))
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    return [
        {
            "params": [p for p in matrices if id(p) not in tables],
            "weight_decay": config.weight_decay,
            "rate_ratio": 1.0,
        },
        {
            "params": [p for p in matrices if id(p) in tables],
            "weight_decay": config.weight_decay / config.embedding_rate_ratio,  # times the rate: as strong as elsewhere
            "rate_ratio": config.embedding_rate_ratio,
        },
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0, "rate_ratio": 1.0},
    ]


class Optimizer:
    """AdamW in its fused form, one pass over memory. A parameter whose gradient is None stays as it is."""

    def __init__(self, model: MultiTokenTransformer, config: TrainingConfig) -> None:
        groups = parameter_groups(model, config)
        betas = (config.beta1, config.beta2)
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8, fused=True)

    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate * group["rate_ratio"]
        self.adamw.step()

    def kept(self, parameter: Tensor) -> dict[str, Tensor]:
        """The optimizer's own tensors about a parameter, by torch's names; none before it has moved."""
        found: dict[str, Tensor] = self.adamw.state.get(parameter, {})
        return found

    def times_moved(self, parameter: Tensor) -> int:
        """Steps in which the parameter was moved."""
        step = self.kept(parameter).get("step")
        return 0 if step is None else int(step)

    def remember(self, parameter: Tensor, times_moved: int) -> None:
        """Make room for what is kept of a parameter that has been moved so often; the values come from elsewhere."""
        self.adamw.state[parameter] = {
            "step": torch.tensor(float(times_moved), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter.detach()),
            "exp_avg_sq": torch.zeros_like(parameter.detach()),
        }
