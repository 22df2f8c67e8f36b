"""Means with their interval, of 95 % if not said otherwise, after Student: over seeds, which are few, as a normal
distribution flatters few; and over held-out windows of one model against another."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    seeds: int
    """Values it is the mean of, one a seed."""
    half_width: float | None
    """Of the interval; None with one seed, which tells nothing of others."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lowest and highest mean that these seeds allow."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    @property
    def zero_inside(self) -> bool | None:
        """Whether zero lies in the interval; None without one."""
        return None if self.half_width is None else abs(self.mean) <= self.half_width


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean of at least one value, with the interval that holds the mean of all seeds in such a share of sweeps."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(mean, 1, None)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, len(values), student_t(len(values) - 1, confidence) * error)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """The mean of value minus baseline, seed by seed: what a seed does to both drops out. None without pairs."""
    shared = sorted(values.keys() & baseline.keys())
    return estimate([values[seed] - baseline[seed] for seed in shared], confidence) if shared else None


def half_width_over_windows(mine: Sequence[tuple[float, int]], base: Sequence[tuple[float, int]]) -> float | None:
    """Half the 95 % interval of the difference in bits per byte of two models on the same windows of text, each given
    as (bits, bytes); None where they are not the same, or fewer than three.

    The difference is a ratio, bits over bytes, so its error is that of a ratio estimator (Cochran 1977, section 6.3).
    It tells how much other text of the kind would move the difference, not how much another seed would.
    """
    n_bytes = [of for _, of in base]
    if len(mine) < 3 or [of for _, of in mine] != n_bytes or not sum(n_bytes):
        return None
    gaps = [own - theirs for (own, _), (theirs, _) in zip(mine, base, strict=True)]
    ratio = sum(gaps) / sum(n_bytes)
    squares = sum((gap - ratio * of) ** 2 for gap, of in zip(gaps, n_bytes, strict=True))
    count = len(gaps)
    return student_t(count - 1) * math.sqrt(squares * count / (count - 1)) / sum(n_bytes)


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """The probability of at least so many successes, of a chance above 0 and below 1 each."""
    log_of = math.lgamma(trials + 1)
    return sum(
        math.exp(
            log_of
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(chance)
            + (trials - k) * math.log1p(-chance)
        )
        for k in range(successes, trials + 1)
    )


def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t that Student's distribution with so many degrees of freedom exceeds, up or down, in 1 - confidence."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle)): Abramowitz and Stegun 1964, 26.7.3 (odd degrees) and 26.7.4 (even)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for i in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * i / (i + 1)
    return (2 / math.pi) * (angle + sine * total) if odd else sine * total
