"""The learning rate as a function of the step (paper Table S13: linear warm-up, then cosine)."""

import math

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
