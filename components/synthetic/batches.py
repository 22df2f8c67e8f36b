"""A task's rows as training takes them (`components.training.loop.Batches`).

Shape suffixes: G rows of this worker's share of a step, T positions, K prediction heads.
"""

import numpy as np
import torch

from components.synthetic.examples import Task, packed
from components.training.config import TrainingConfig
from components.training.cross_entropy import IGNORE
from components.training.loop import Batch
from components.training.parallel import own_share


class TaskBatches:
    """Fresh examples at every step. A row holds whole examples; all n see the same rows, and a head's target counts
    only within its own example."""

    def __init__(self, task: Task, config: TrainingConfig, n_future_tokens: int, device: torch.device) -> None:
        self.task, self.config, self.n, self.device = task, config, n_future_tokens, device

    def batch(self, step: int) -> Batch:
        config = self.config
        rows, length = config.sequences_per_step, config.context_length
        room = rows * (length + self.task.longest)  # what a row leaves empty is less than one example
        examples = self.task.examples(config.seed, step, room)
        tokens_GT, counted_GT, example_GT = packed(examples, rows, length)
        targets_KGT = np.full((self.n, *tokens_GT.shape), IGNORE)
        for i in range(min(self.n, length - 1)):
            ahead = i + 1
            inside = (example_GT[:, ahead:] == example_GT[:, :-ahead]) & counted_GT[:, ahead:]
            targets_KGT[i, :, :-ahead] = np.where(inside, tokens_GT[:, ahead:], IGNORE)
        mine = own_share(rows)
        tokens, targets = torch.from_numpy(tokens_GT)[mine], torch.from_numpy(targets_KGT)[:, mine]
        return tokens.to(self.device), targets.to(self.device)

    def where(self, step: int) -> str:
        config = self.config
        rows = f"{config.sequences_per_step} rows of {config.context_length} tokens"
        return f"examples made for seed {config.seed}, step {step} (from 0), {rows}"
