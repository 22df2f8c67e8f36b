"""In which order training reads the windows: a pure function of (seed, step), without memory that grows."""

import hashlib

import numpy as np
import numpy.typing as npt

from components.shards.config import MAX_LOOKAHEAD

_ROUNDS = 8


def _permute(index: npt.NDArray[np.uint64], size: int, seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    """A keyed permutation of range(size), entry by entry: a Feistel network on the next power of four, walked
    until the value is inside (Black and Rogaway 2002)."""
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    digest = hashlib.shake_256(f"{seed}/{epoch}".encode()).digest(8 * _ROUNDS)
    keys = np.frombuffer(digest, dtype="<u8")

    def network(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = value >> half, value & mask
        for key in keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)  # wraps modulo 2^64, as meant
            mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            mixed ^= mixed >> np.uint64(29)
            left, right = right, left ^ (mixed & mask)
        return (left << half) | right

    value = network(index)
    while (outside := value >= size).any():
        value[outside] = network(value[outside])
    return value


class GlobalOrder:
    """The windows of every step. Window w is the tokens [w * context_length, (w + 1) * context_length) and what
    its targets need behind it; an epoch reads each once, in an order of its own; a step may span two epochs.

    Workers take slices of `starts(step)`, so any number of them sees the same global batches.
    """

    def __init__(self, n_tokens: int, context_length: int, sequences_per_step: int, seed: int) -> None:
        for name, value in (("context_length", context_length), ("sequences_per_step", sequences_per_step)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.n_windows = (n_tokens - MAX_LOOKAHEAD) // context_length
        if self.n_windows < 1:
            raise ValueError(
                f"the split has {n_tokens} tokens, too few for one window of context_length {context_length} and "
                f"the {MAX_LOOKAHEAD} tokens kept free behind it; lower the context length to at most "
                f"{max(0, n_tokens - MAX_LOOKAHEAD)} or give a larger corpus"
            )
        self.context_length = context_length
        self.sequences_per_step = sequences_per_step
        self.seed = seed

    def epoch(self, step: int) -> int:
        """The epoch, from 0, of the first window of `step`."""
        return step * self.sequences_per_step // self.n_windows

    def starts(self, step: int) -> npt.NDArray[np.int64]:
        """Positions of the first tokens of the windows of `step` (from 0). Shape (sequences_per_step,)."""
        first = step * self.sequences_per_step
        place = np.arange(first, first + self.sequences_per_step, dtype=np.uint64)
        epochs, index = place // np.uint64(self.n_windows), place % np.uint64(self.n_windows)
        windows = np.empty_like(index)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            of_epoch = epochs == epoch
            windows[of_epoch] = _permute(index[of_epoch], self.n_windows, self.seed, epoch)
        return windows.astype(np.int64) * self.context_length
