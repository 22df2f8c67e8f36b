"""Examples of a task, and rows of them: what training takes and a test scores.

Shape suffixes: E examples, L tokens of the longest, G rows of a step, T positions of a row, K prediction heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TRAIN, TEST = 0, 1
"""What randomness is for."""


@dataclass(frozen=True)
class Examples:
    """Token sequences of several lengths."""

    tokens_EL: Array
    """int64; zeros behind an example's end."""
    length_E: Array
    counted_EL: Array
    """bool: tokens that count, as targets of the loss or of a score."""

    def __len__(self) -> int:
        return len(self.length_E)

    def take(self, which: Array) -> "Examples":
        """Those at these places, or where a mask is true."""
        length_E = self.length_E[which]
        L = int(length_E.max(initial=0))
        return Examples(self.tokens_EL[which, :L], length_E, self.counted_EL[which, :L])

    @staticmethod
    def joined(parts: "list[Examples]") -> "Examples":
        """One after the other."""
        L = max(part.tokens_EL.shape[1] for part in parts)

        def wide(values_EL: Array) -> Array:
            return np.pad(values_EL, ((0, 0), (0, L - values_EL.shape[1])))

        return Examples(
            np.concatenate([wide(part.tokens_EL) for part in parts]),
            np.concatenate([part.length_E for part in parts]),
            np.concatenate([wide(part.counted_EL) for part in parts]),
        )


@dataclass(frozen=True)
class Scored:
    """Part of a test: examples whose counted tokens are to be predicted by the next-token head."""

    name: str
    """What the metric is called."""
    examples: Examples
    whole: bool
    """Whether an example is right only if all its counted tokens are: greedy decoding then gives exactly these, as it
    goes on from what it got right so far. Else every token is scored by itself."""

    @property
    def items(self) -> int:
        """What the share is of."""
        return len(self.examples) if self.whole else int(self.examples.counted_EL.sum())


class Task(Protocol):
    """Examples without end, and a test that training never sees."""

    @property
    def longest(self) -> int:
        """Most tokens of an example of training."""

    def examples(self, seed: int, step: int, tokens: int) -> Examples:
        """Training's of one step, at least `tokens` tokens of them: a pure function of these three."""

    def test(self, items: int) -> list[Scored]:
        """The test, the same for every seed: `items` examples a part. They differ, and may be fewer where there are no
        more, but in arithmetic, whose questions are drawn as training's are: in a small ring some come again."""

    def shown(self) -> str:
        """A few examples of training as a person reads them."""


def randomness(seed: int, purpose: int, step: int = 0) -> np.random.Generator:
    """A generator for (seed, purpose, step) alone."""
    return np.random.default_rng((purpose, step, seed))  # a long seed last: numpy cuts numbers into words


def scattered(values: Array) -> Array:
    """Numbers scattered over 64 bits (splitmix64's finalizer)."""
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: Array = values ^ (values >> np.uint64(31))
    return out


def different(draw: Callable[[], Examples], count: int) -> Examples:
    """Different examples out of draws: so many, or until three draws in a row bring no more."""
    found, barren = _once(draw()), 0
    while len(found) < count and barren < 3:
        known, found = len(found), _once(Examples.joined([found, draw()]))
        barren = barren + 1 if len(found) == known else 0
    return found.take(np.arange(min(count, len(found))))


def _once(examples: Examples) -> Examples:
    """Each where it stands first."""
    _, first_E = np.unique(examples.tokens_EL, axis=0, return_index=True)
    return examples.take(np.sort(first_E))


def packed(examples: Examples, rows: int, length: int) -> tuple[Array, Array, Array]:
    """As many rows of `length` tokens, filled with whole examples in their order: (tokens_GT, counted_GT, example_GT),
    the last with a number for each example of a row and -1 behind the last.

    ValueError where an example is longer than a row, or there are too few for every row to have some.
    """
    if (longest := int(examples.length_E.max())) > length:
        raise ValueError(f"an example has {longest} tokens, more than a row of {length}: raise context_length")
    end_E = np.cumsum(examples.length_E)
    tokens_GT = np.zeros((rows, length), np.int64)
    counted_GT = np.zeros((rows, length), bool)
    example_GT = np.full((rows, length), -1)
    inside_EL = np.arange(examples.tokens_EL.shape[1]) < examples.length_E[:, None]
    first = 0
    for row in range(rows):
        before = end_E[first - 1] if first else 0
        last = int(np.searchsorted(end_E, before + length, side="right"))
        if last == first:
            raise ValueError(f"{len(examples)} examples do not fill {rows} rows of {length} tokens")
        inside = inside_EL[first:last]
        filled = slice(0, int(end_E[last - 1] - before))
        tokens_GT[row, filled] = examples.tokens_EL[first:last][inside]
        counted_GT[row, filled] = examples.counted_EL[first:last][inside]
        example_GT[row, filled] = np.repeat(np.arange(last - first), examples.length_E[first:last])
        first = last
    return tokens_GT, counted_GT, example_GT


def enough(draw: Callable[[np.random.Generator], Examples], random: np.random.Generator, tokens: int) -> Examples:
    """Draws until there are as many tokens."""
    parts = [draw(random)]
    while sum(int(part.length_E.sum()) for part in parts) < tokens:
        parts.append(draw(random))
    return Examples.joined(parts)
