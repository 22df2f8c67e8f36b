"""Decoding by one loop over one network: next-token (k = 1) and self-speculative (k > 1), greedy or sampled.

A step of self-speculative decoding (paper section 3.2; blockwise parallel decoding, Stern et al. 2018): heads 2..k
draft k - 1 tokens after the last token emitted; the trunk and head 1 read that token and the drafts; the drafts
that head 1 would have chosen too are emitted, and head 1's own choice after them. So each step emits 1 to k tokens,
the ones that next-token decoding would emit, or, sampled, tokens of the same distribution (`sampling`). With k = 1
nothing is drafted and nothing else is done.
"""

import copy
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch

from components.decoding.draft_length import Experience
from components.decoding.kernels import NotInvariant
from components.decoding.loop import AcceptedCounts, Generation, Loop, OnStep
from components.decoding.network import Network
from components.decoding.sampling import Sampling
from components.model.transformer import MultiTokenTransformer


class Decoder:
    """A model made ready for generation in one dtype, on the device its weights are on.

    row_invariant: give every token the same bits whatever is computed beside it, so that greedy self-speculative
    decoding equals next-token decoding bit for bit in any dtype, and no sequence depends on its neighbours in a batch.
    None: in bfloat16 on a processor, where rounding decides many a near-tie and this costs next to nothing.
    draft_vocabulary: the only symbols that may be drafted, the frequent ones say: reading less of the unembedding
    makes drafting cheaper, and what is emitted stays the same.
    fixed_rows: keep each sequence of a batch in one row, those that have ended too, and look at the results every few
    steps, as captured graphs need it; None: on a GPU.
    ValueError: the device's products cannot be had row-invariant, or a symbol is outside the vocabulary.
    """

    def __init__(
        self,
        model: MultiTokenTransformer,
        dtype: torch.dtype = torch.float32,
        row_invariant: bool | None = None,
        draft_vocabulary: Sequence[int] | None = None,
        fixed_rows: bool | None = None,
    ) -> None:
        self.config = model.config
        self.dtype = dtype
        on_gpu = model.embedding.weight.device.type == "cuda"
        self.fixed_rows = on_gpu if fixed_rows is None else fixed_rows
        asked = row_invariant
        if row_invariant is None:
            row_invariant = dtype == torch.bfloat16 and not on_gpu
        if draft_vocabulary is not None:
            draft_vocabulary = list(dict.fromkeys(int(token) for token in draft_vocabulary))
            wrong = [token for token in draft_vocabulary if not 0 <= token < self.config.vocabulary_size]
            if wrong or not draft_vocabulary:
                raise ValueError(
                    f"draft_vocabulary holds {wrong[0] if wrong else 'no symbols'}; it must list symbols in "
                    f"0..{self.config.vocabulary_size - 1}"
                )
        try:
            self.network = Network(model, dtype, row_invariant, draft_vocabulary)
        except NotInvariant as error:
            if asked is None:
                row_invariant = False
                self.network = Network(model, dtype, row_invariant, draft_vocabulary)
            else:
                raise ValueError(
                    f"row_invariant: {error} give a row other bits beside other rows; use row_invariant=False, where "
                    "near-ties may be decided differently by k and batch"
                ) from None
        self.row_invariant = row_invariant
        self._experience = Experience(self.config.n_future_tokens)

    @property
    def device(self) -> torch.device:
        return self.network.device

    def fresh(self) -> "Decoder":
        """The same weights, without what adaptive decoding has measured so far."""
        other = copy.copy(self)
        other._experience = Experience(self.config.n_future_tokens)
        return other

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        k: int | Literal["adaptive"] = 1,
        stop_ids: Collection[int] = frozenset(),
        stop: Callable[[int, list[int]], bool] | None = None,
        on_step: OnStep | None = None,
        sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 (frozen)
        batch: int | None = None,
        draw_accepted: AcceptedCounts | None = None,
    ) -> Generation:
        """Continue every prompt.

        prompts: token ids, of any lengths. max_new_tokens: for all, or one limit per prompt. k: prediction heads
        used, 1 for next-token decoding; "adaptive" chooses before every step (`draft_length`). A sequence ends after
        a token of `stop_ids`, or when `stop(row, tokens)` is true of its new tokens so far; both are asked after every
        token in turn, whatever k. on_step: told the new tokens after prompts were read and after every step.
        sampling: for all, or one per prompt. batch: sequences decoded together, as others end the next ones take their
        place; None: all. draw_accepted: for timing only: so many drafts count as accepted, whether they are right or
        not; the work is all done, the text is invalid.
        ValueError: k, a prompt, a limit or the batch out of range, or more than the memory that is free.
        """
        limits = self._checked_limits(prompts, max_new_tokens, k)
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(prompts):
            raise ValueError(f"sampling has {len(samplings)} entries for {len(prompts)} prompts; give one each")
        if batch is not None and not (hasattr(batch, "__index__") and batch >= 1):
            raise ValueError(f"batch is {batch!r}; it must be a whole number, at least 1")
        if not prompts:
            return Generation([], [])
        loop = Loop(
            self.network, prompts, limits, samplings, k, min(batch or len(prompts), len(prompts)),
            frozenset(stop_ids), stop, draw_accepted, self._experience, self.fixed_rows,
        )  # fmt: skip
        return loop.run(on_step)

    def _checked_limits(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int | Sequence[int], k: int | str
    ) -> list[int]:
        n, vocabulary = self.config.n_future_tokens, self.config.vocabulary_size
        if isinstance(k, bool) or not (k == "adaptive" or hasattr(k, "__index__")):
            raise ValueError(f"k is {k!r}; it must be a whole number in 1..{n}, or 'adaptive'")
        if k != "adaptive" and not 1 <= int(k) <= n:
            why = "it was trained without further heads, so there is nothing to draft with" if n == 1 else ""
            raise ValueError(
                f"k is {k!r}; this model has {n} prediction head(s), so k must be in 1..{n}"
                + (f", or 'adaptive': {why}" if why else ", or 'adaptive'")
            )
        for row, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {row} is empty; start it with at least one token, such as the BOS mark")
            if min(prompt) < 0 or max(prompt) >= vocabulary:
                wrong = next(token for token in prompt if not 0 <= token < vocabulary)
                raise ValueError(
                    f"prompt {row} holds token {wrong}; the model's vocabulary is 0..{vocabulary - 1}: "
                    "was it encoded with this checkpoint's tokenizer?"
                )
        every = [max_new_tokens] * len(prompts) if not isinstance(max_new_tokens, Sequence) else list(max_new_tokens)
        try:
            limits = [operator.index(limit) for limit in every]
        except TypeError:
            raise ValueError(
                f"max_new_tokens is {max_new_tokens!r}; it must be a whole number, or one a prompt"
            ) from None
        if len(limits) != len(prompts):
            raise ValueError(f"max_new_tokens has {len(limits)} limits for {len(prompts)} prompts; give one each")
        if any(limit < 1 for limit in limits):
            raise ValueError(f"max_new_tokens is {max_new_tokens}; every limit must be at least 1")
        return limits
