"""Sums of loss and top-1 of every prediction head on given tokens: exact, in float64, whatever the batching.

Shape suffixes: B sequences, T positions fed to the model, S tokens of a sequence (positions and targets), D model
width, N scored positions of a chunk, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from components.artifacts import HeadScore
from components.model.transformer import MultiTokenTransformer

LOGITS_AT_ONCE = 1 << 24
"""Values of the largest logits tensor: 64 MiB in float32."""


@dataclass
class HeadSums:
    """Running sums per head; index 0 is the next-token head."""

    loss: list[float]
    """Cross entropy in nats."""
    correct: list[int]
    """Targets that are the head's first choice."""
    targets: list[int]
    """Targets scored."""
    target_bytes: int = 0
    """UTF-8 bytes that the targets of the next-token head stand for."""
    by_sequence: list[tuple[float, int]] = field(default_factory=list)
    """Of the next-token head: (cross entropy in nats, bytes) of each sequence, in the order that they came in."""

    @staticmethod
    def zero(n_future_tokens: int) -> "HeadSums":
        return HeadSums([0.0] * n_future_tokens, [0] * n_future_tokens, [0] * n_future_tokens)

    def scores(self) -> tuple[HeadScore, ...]:
        """Means per head. ValueError when nothing was scored."""
        if not all(self.targets):
            raise ValueError("no target was scored; the split is empty or shorter than a window")
        return tuple(
            HeadScore(loss / n, correct / n)
            for loss, correct, n in zip(self.loss, self.correct, self.targets, strict=True)
        )

    def bits_per_byte(self) -> float:
        """Bits that the next-token head needs per byte of text. What a document mark costs counts, though it
        stands for no byte, so that tokenizers compare."""
        return self.loss[0] / math.log(2) / self.target_bytes if self.target_bytes else math.nan


@torch.inference_mode()
def add_head_sums(
    model: MultiTokenTransformer,
    tokens_BS: Tensor,
    is_target_BS: Tensor,
    byte_lengths_V: Tensor,
    sums: HeadSums,
) -> None:
    """Score one batch into `sums`: the first T = S - n tokens are fed, head i (from 0) predicts token t + i + 1 at
    position t, and counts where that token is a target."""
    n = model.config.n_future_tokens
    T = tokens_BS.shape[1] - n
    rotary = model.rotary(T, tokens_BS.device)
    z_BTD = model.forward_trunk(model.embedding(tokens_BS[:, :T]), rotary)
    rows = max(1, LOGITS_AT_ONCE // model.config.vocabulary_size)
    loss_B = torch.zeros(len(tokens_BS), dtype=torch.float64, device=tokens_BS.device)
    bytes_B = torch.zeros(len(tokens_BS), dtype=torch.int64, device=tokens_BS.device)
    for i, h_BTD in enumerate(model.forward_heads(z_BTD, rotary, n)):
        counted_BT = is_target_BS[:, i + 1 : i + 1 + T]
        row_N = counted_BT.nonzero()[:, 0]
        h_ND = h_BTD[counted_BT]
        target_N = tokens_BS[:, i + 1 : i + 1 + T][counted_BT]
        chunks = (torch.split(of_all, rows) for of_all in (h_ND, target_N, row_N))
        for h, target, row in zip(*chunks, strict=True):
            logits_NV = model.head_unembedding(i)(h).float()
            loss_N = F.cross_entropy(logits_NV, target, reduction="none").double()
            sums.loss[i] += loss_N.sum().item()
            sums.correct[i] += int((logits_NV.argmax(-1) == target).sum())
            if i == 0:
                loss_B.index_add_(0, row, loss_N)
        sums.targets[i] += target_N.numel()
        if i == 0:
            bytes_B.index_add_(0, row_N, byte_lengths_V[target_N].long())
            sums.target_bytes += int(bytes_B.sum())
    sums.by_sequence += zip(loss_B.tolist(), bytes_B.tolist(), strict=True)


def window_starts(split_tokens: int, context_length: int, n_future_tokens: int, targets: int) -> list[int]:
    """First tokens of the windows: whole, disjoint, spread evenly over the split; `targets` // context_length of
    them or all there are.

    The last context_length tokens of the split are kept for the targets beyond the last window, so that models
    with different n are scored on the same windows. ValueError when not even one window fits.
    """
    if split_tokens < context_length + n_future_tokens:
        raise ValueError(
            f"the test split has {split_tokens} tokens; one window needs {context_length + n_future_tokens} "
            f"(a context of {context_length} and {n_future_tokens} future tokens): give a larger corpus, or lower "
            f"evaluation.context_length, in an experiment sizes.NAME.training.context_length"
        )
    blocks = max(1, split_tokens // context_length - 1)
    windows = min(blocks, max(1, targets // context_length))
    return [index * blocks // windows * context_length for index in range(windows)]


def score_windows(
    model: MultiTokenTransformer,
    window: Callable[[int, int], Tensor],
    starts: Sequence[int],
    context_length: int,
    batch_size: int,
    byte_lengths_V: Tensor,
) -> Iterator[HeadSums]:
    """Running sums after every batch of windows; `window(start, length)` gives tokens of the split.

    Every head is scored at each of the context_length positions of a window, so on equally many targets.
    """
    n = model.config.n_future_tokens
    device = model.embedding.weight.device
    sums = HeadSums.zero(n)
    for first in range(0, len(starts), batch_size):
        rows = [window(start, context_length + n) for start in starts[first : first + batch_size]]
        tokens_BS = torch.stack(rows).to(device)
        add_head_sums(model, tokens_BS, torch.ones_like(tokens_BS, dtype=torch.bool), byte_lengths_V, sums)
        yield sums


def score_completions(
    model: MultiTokenTransformer,
    sequences: Sequence[tuple[list[int], list[int]]],
    batch_size: int,
    byte_lengths_V: Tensor,
) -> Iterator[HeadSums]:
    """Running sums after every batch of (prompt, completion) token lists: each head is scored on every completion
    token. ValueError for a prompt shorter than the number of heads, whose furthest head has no place to stand."""
    n = model.config.n_future_tokens
    device = model.embedding.weight.device
    sums = HeadSums.zero(n)
    by_length = sorted(sequences, key=lambda pair: len(pair[0]) + len(pair[1]))
    for first in range(0, len(by_length), batch_size):
        batch = by_length[first : first + batch_size]
        longest = max(len(prompt) + len(completion) for prompt, completion in batch)
        tokens_BS = torch.zeros(len(batch), longest + n, dtype=torch.long)
        is_target_BS = torch.zeros(len(batch), longest + n, dtype=torch.bool)
        for row, (prompt, completion) in enumerate(batch):
            if len(prompt) < n:
                raise ValueError(f"a prompt of {len(prompt)} tokens cannot be scored with {n} heads")
            end = len(prompt) + len(completion)
            tokens_BS[row, :end] = torch.tensor(prompt + completion)
            is_target_BS[row, len(prompt) : end] = True
        add_head_sums(model, tokens_BS.to(device), is_target_BS.to(device), byte_lengths_V, sums)
        yield sums
