"""What changes over a training, as functions of the step: the learning rate (paper Table S13: linear warm-up, then
cosine) and how many prediction heads count."""

import math
from collections import Counter
from collections.abc import Callable

from components.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of step `step`, counted from 0.

    Warm-up: peak * (step + 1) / warmup_steps. Then a cosine that reaches peak * decay_ratio at the last step.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    last = config.steps - 1
    progress = (step - warmup) / (last - warmup) if last > warmup else 1.0
    floor = config.decay_ratio
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def active_heads(config: TrainingConfig, step: int, n_future_tokens: int) -> int:
    """Heads that count in the loss of step `step`, counted from 0: the first so many (Aynetdinov & Akbik 2025, section
    3: the number changes by one in n equal stages)."""
    stage = step * n_future_tokens // config.steps
    if config.curriculum == "forward":
        return min(n_future_tokens, stage + 1)
    if config.curriculum == "reverse":
        return max(1, n_future_tokens - stage)
    return n_future_tokens


def mean_over_steps(
    config: TrainingConfig, n_future_tokens: int, cost: Callable[[int], float], first: int = 0, end: int | None = None
) -> float:
    """The mean of `cost` of the heads that count, over the steps from `first` up to before `end` (default: all)."""
    steps = range(first, config.steps if end is None else end)
    if config.curriculum == "none" or not steps:
        return cost(n_future_tokens)
    counts = Counter(active_heads(config, step, n_future_tokens) for step in steps)
    return sum(times * cost(k) for k, times in counts.items()) / len(steps)
