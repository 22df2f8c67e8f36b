"""Greedy decoding: next-token (k = 1) and self-speculative (k > 1) by the same loop over the same network.

A step of self-speculative decoding (paper section 3.2; blockwise parallel decoding, Stern et al. 2018): heads 2..k
draft k - 1 tokens after the last token emitted; the trunk and head 1 read that token and the drafts; the drafts
that head 1 would have chosen too are emitted, and head 1's own choice after them. So each step emits 1 to k tokens,
the ones that next-token decoding would emit. With k = 1 nothing is drafted and nothing else is done.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch

from components.decoding.batch import Batch
from components.decoding.network import Network
from components.model.transformer import MultiTokenTransformer


@dataclass(frozen=True)
class Generation:
    """What was generated, one entry per prompt, and what it took."""

    tokens: list[list[int]]
    """New tokens, the one that stopped the sequence included."""
    runs: list[list[int]]
    """Lengths of the runs emitted together; they sum to len(tokens). The first is the prompt's own: 1 token."""
    accepted: list[list[int]] = field(default_factory=list)
    """Per step, the number of drafts accepted by each sequence then live (before a stop or limit cuts the run)."""
    step_seconds: list[float] = field(default_factory=list)
    """Per step: drafting and verification."""
    prefill_seconds: float = 0.0
    """Allocation, reading the prompts and the first token of each."""
    decode_seconds: float = 0.0
    """All steps, the time in `on_step` aside."""

    @property
    def steps(self) -> int:
        """Passes over the batch after the prompts were read."""
        return len(self.step_seconds)

    @property
    def tokens_per_forward(self) -> float:
        """E: tokens emitted per step and sequence (those of the prompt's own pass aside); 0 without a step."""
        sequence_steps = sum(map(len, self.accepted))
        emitted = sum(len(tokens) - 1 for tokens in self.tokens)
        return emitted / sequence_steps if sequence_steps else 0.0


class Decoder:
    """A model made ready for generation in one dtype, on the device its weights are on."""

    def __init__(self, model: MultiTokenTransformer, dtype: torch.dtype = torch.float32) -> None:
        self.config = model.config
        self.dtype = dtype
        self._network = Network(model, dtype)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        k: int = 1,
        stop_ids: Collection[int] = frozenset(),
        stop: Callable[[int, list[int]], bool] | None = None,
        on_step: Callable[[list[list[int]]], None] | None = None,
        draw_accepted: Callable[[], int] | None = None,
    ) -> Generation:
        """Continue every prompt greedily, all as one batch.

        prompts: token ids, of any lengths. max_new_tokens: for all, or one limit per prompt. k: prediction heads
        used, 1 for next-token decoding. A sequence ends after a token of `stop_ids`, or when `stop(row, tokens)`
        is true of its new tokens so far; both are asked after every token in turn, whatever k. on_step: called
        with the new tokens per prompt after the prompts were read and after every step. draw_accepted: for
        timing only: that many drafts count as accepted, in 0..k-1, whether they are right or not; the work is
        all done, the text is invalid.
        ValueError: k, a prompt or a limit out of range.
        """
        limits = self._checked_limits(prompts, max_new_tokens, k)
        result = Generation([[] for _ in prompts], [[] for _ in prompts])
        if not prompts:
            return result
        # the last token is never fed, but drafts beside the last but one may lie beyond the limit
        capacity = max(len(p) + limit for p, limit in zip(prompts, limits, strict=True)) + k - 1
        self._network.prepare(k, capacity)
        started = time.perf_counter()
        batch = Batch(self._network, prompts, capacity, k)

        def emit(choices: list[list[int]]) -> tuple[list[int], list[list[int]]]:
            """Append each slot's run until something ends it and drop the ended: the others' last tokens, and what
            is new per prompt."""
            new: list[list[int]] = [[] for _ in prompts]
            last = [0] * len(choices)
            for slot in reversed(range(len(choices))):
                row = batch.rows[slot]
                tokens, ended = result.tokens[row], False
                for token in choices[slot]:
                    tokens.append(token)
                    new[row].append(token)
                    ended = len(tokens) == limits[row] or token in stop_ids
                    ended = ended or (stop is not None and stop(row, tokens))
                    if ended:
                        break
                result.runs[row].append(len(new[row]))
                last[slot] = tokens[-1]
                if ended:
                    batch.drop(slot)
                    last[slot] = last[-1]
                    last.pop()
            return last, new

        last, new = emit([[token] for token in batch.prefill(prompts)])
        prefill_seconds = time.perf_counter() - started
        if on_step is not None:
            on_step(new)
        while last:
            started = time.perf_counter()
            drafts = batch.draft() if k > 1 else [[] for _ in last]
            choices = batch.verify([[token, *row] for token, row in zip(last, drafts, strict=True)])
            accepted = []
            for slot, (draft, choice) in enumerate(zip(drafts, choices, strict=True)):
                count = _matches(draft, choice) if draw_accepted is None else draw_accepted()
                accepted.append(count)
                batch.keep(slot, count + 1)
                choices[slot] = choice[: count + 1]
            last, new = emit(choices)
            result.accepted.append(accepted)
            result.step_seconds.append(time.perf_counter() - started)
            if on_step is not None:
                on_step(new)
        decode_seconds = sum(result.step_seconds)
        return Generation(
            result.tokens, result.runs, result.accepted, result.step_seconds, prefill_seconds, decode_seconds
        )

    def _checked_limits(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int | Sequence[int], k: int
    ) -> list[int]:
        n, vocabulary = self.config.n_future_tokens, self.config.vocabulary_size
        if not 1 <= k <= n:
            raise ValueError(f"k is {k}; this model has {n} prediction head(s), so k must be in 1..{n}")
        for row, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {row} is empty; start it with at least one token, such as the BOS mark")
            if min(prompt) < 0 or max(prompt) >= vocabulary:
                wrong = next(token for token in prompt if not 0 <= token < vocabulary)
                raise ValueError(
                    f"prompt {row} holds token {wrong}; the model's vocabulary is 0..{vocabulary - 1}: "
                    "was it encoded with this checkpoint's tokenizer?"
                )
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        if len(limits) != len(prompts):
            raise ValueError(f"max_new_tokens has {len(limits)} limits for {len(prompts)} prompts; give one each")
        if any(limit < 1 for limit in limits):
            raise ValueError(f"max_new_tokens is {max_new_tokens}; every limit must be at least 1")
        return limits


def _matches(draft: list[int], choice: list[int]) -> int:
    """Drafts up to the first one that head 1 would not have chosen."""
    for count, (drafted, chosen) in enumerate(zip(draft, choice, strict=False)):
        if drafted != chosen:
            return count
    return len(draft)
