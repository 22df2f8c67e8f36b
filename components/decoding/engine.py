"""Decoding by one loop over one network: next-token (k = 1) and self-speculative (k > 1), greedy or sampled.

A step of self-speculative decoding (paper section 3.2; blockwise parallel decoding, Stern et al. 2018): heads 2..k
draft k - 1 tokens after the last token emitted; the trunk and head 1 read that token and the drafts; the drafts
that head 1 would have chosen too are emitted, and head 1's own choice after them. So each step emits 1 to k tokens,
the ones that next-token decoding would emit, or, sampled, tokens of the same distribution (`sampling`). With k = 1
nothing is drafted and nothing else is done.
"""

import copy
import operator
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from components.decoding.draft_length import DraftLength, Experience
from components.decoding.kernels import NotInvariant, first_best
from components.decoding.live import PARTS, Live
from components.decoding.network import Network
from components.decoding.room import check_room
from components.decoding.sampling import ACCEPT, CHOOSE, DRAFT, Samplers, Sampling, accept, draw
from components.model.transformer import MultiTokenTransformer

OnStep = Callable[[Mapping[int, list[int]]], None]
"""Told the new tokens of the prompts that got some, by the prompt's number."""
AcceptedCounts = Callable[[int, int], Tensor]
"""(sequences, k) to numbers of drafts in 0..k-1, (B,): what counts as accepted in a synthetic run."""


@dataclass(frozen=True)
class Step:
    """One pass over the sequences then live."""

    k: int
    accepted: list[int]
    """Drafts accepted by each sequence (before a stop or limit cuts the run)."""
    seconds: float
    """Drafting and verification."""
    caught_up: int = 0
    """Positions per sequence that heads unused for a while had to make up for in this step; 0 in a step like others."""


@dataclass(frozen=True)
class Generation:
    """What was generated, one entry per prompt, and what it took."""

    tokens: list[list[int]]
    """New tokens, the one that stopped the sequence included."""
    runs: list[list[int]]
    """Lengths of the runs emitted together; they sum to len(tokens). The first is the prompt's own: 1 token."""
    steps: list[Step] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """The steps' time by part, as `live.PARTS` names them."""
    finished_seconds: list[float] = field(default_factory=list)
    """Per prompt, from the call to its last token."""
    joined_seconds: list[float] = field(default_factory=list)
    """Per prompt, from the call until it was its turn to be read."""
    prefill_seconds: float = 0.0
    """Allocation, reading the prompts and the first token of each."""
    decode_seconds: float = 0.0
    """All steps, the time in `on_step` aside."""

    @property
    def tokens_per_forward(self) -> float:
        """E: tokens emitted per step and sequence (those of the prompt's own pass aside); 0 without a step."""
        sequence_steps = sum(len(step.accepted) for step in self.steps)
        emitted = sum(len(tokens) - 1 for tokens in self.tokens)
        return emitted / sequence_steps if sequence_steps else 0.0


class Decoder:
    """A model made ready for generation in one dtype, on the device its weights are on.

    row_invariant: give every token the same bits whatever is computed beside it, so that greedy self-speculative
    decoding equals next-token decoding bit for bit in any dtype, and no sequence depends on its neighbours in a batch.
    None: in bfloat16, where rounding decides many a near-tie and this costs next to nothing, but not in float32.
    draft_vocabulary: the only symbols that may be drafted, the frequent ones say: reading less of the unembedding
    makes drafting cheaper, and what is emitted stays the same.
    ValueError: the device's products cannot be had row-invariant, or a symbol is outside the vocabulary.
    """

    def __init__(
        self,
        model: MultiTokenTransformer,
        dtype: torch.dtype = torch.float32,
        row_invariant: bool | None = None,
        draft_vocabulary: Sequence[int] | None = None,
    ) -> None:
        self.config = model.config
        self.dtype = dtype
        asked, row_invariant = row_invariant, dtype == torch.bfloat16 if row_invariant is None else row_invariant
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
        if batch is not None and batch < 1:
            raise ValueError(f"batch is {batch}; it must be at least 1")
        if not prompts:
            return Generation([], [])
        loop = _Loop(
            self.network, prompts, limits, samplings, k, min(batch or len(prompts), len(prompts)),
            frozenset(stop_ids), stop, draw_accepted, self._experience,
        )  # fmt: skip
        return loop.run(on_step)

    def _checked_limits(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int | Sequence[int], k: int | str
    ) -> list[int]:
        n, vocabulary = self.config.n_future_tokens, self.config.vocabulary_size
        if isinstance(k, bool) or not (k == "adaptive" or isinstance(k, int)):
            raise ValueError(f"k is {k!r}; it must be a whole number in 1..{n}, or 'adaptive'")
        if k != "adaptive" and not (isinstance(k, int) and 1 <= k <= n):
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


class _Loop:
    """One call of `Decoder.generate`: sequences join, steps are made, sequences leave.

    Within a step all is done for the whole batch by tensors. What is done per sequence in Python: joining, leaving,
    `stop` and `on_step` if given, and, after the last step, sorting what was emitted by prompt.
    """

    def __init__(
        self,
        network: Network,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        samplings: Sequence[Sampling],
        k: int | str,
        batch: int,
        stop_ids: Collection[int],
        stop: Callable[[int, list[int]], bool] | None,
        draw_accepted: AcceptedCounts | None,
        experience: Experience,
    ) -> None:
        self.started = time.perf_counter()
        self.network, self.prompts, self.limits, self.samplings = network, prompts, limits, samplings
        self.stop, self.draw_accepted = stop, draw_accepted
        n = network.config.n_future_tokens
        most = n if k == "adaptive" else int(k)
        self.k = most
        self.length = DraftLength(n, experience) if k == "adaptive" and n > 1 else None
        # the last token is never fed, but drafts beside the last but one may lie beyond the limit
        capacity = max(len(p) + limit for p, limit in zip(prompts, limits, strict=True)) + most - 1
        network.prepare(0, most > 1)
        check_room(network, batch, capacity, most, any(s.temperature > 0 for s in samplings), max(map(len, prompts)))
        network.prepare(capacity, most > 1)
        self.live = Live(network, batch, capacity, most - 1)
        device = self.device = network.device
        self.stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device) if stop_ids else None
        self.waiting = list(range(len(prompts)))[::-1]
        self.sampled = any(s.temperature > 0 for s in samplings)
        self.rows: list[int] = []
        """The prompt's number of every live sequence."""
        self.rows_B, self.last_B, self.made_B, self.limits_B = (torch.zeros(0, dtype=torch.long, device=device),) * 4
        self.samplers = Samplers.of([], device)
        self.drafted: Tensor | None = None
        """Logits of the next drafts, where verification made them at once, (B, J, U)."""
        self.emitted: list[tuple[Tensor, Tensor, Tensor]] = []
        """Per step: the prompts' numbers, tokens, and how many of these each got."""
        self.texts: list[list[int]] = [[] for _ in prompts] if stop is not None else []
        self.finished, self.joined = [0.0] * len(prompts), [0.0] * len(prompts)
        self.steps: list[Step] = []
        self.last_k = 0
        self.prefill_seconds = time.perf_counter() - self.started

    def run(self, on_step: OnStep | None) -> Generation:
        while True:
            told = len(self.emitted)
            if self.waiting and self.live.free:
                began = time.perf_counter()
                while self.waiting and self.live.free:
                    self._join(self.waiting.pop())
                self.prefill_seconds += time.perf_counter() - began
            if len(self.emitted) > told and on_step is not None:
                on_step(self._news(told))
            if not self.rows:
                if self.waiting:
                    continue
                break
            told = len(self.emitted)
            self._step()
            if on_step is not None:
                on_step(self._news(told))
        decode_seconds = sum(step.seconds for step in self.steps)
        seconds = dict(self.live.seconds)
        seconds["host"] = decode_seconds - sum(seconds[part] for part in PARTS if part != "host")
        found = _by_prompt(self.emitted)
        tokens, runs = ([found[row][part] for row in range(len(self.prompts))] for part in range(2))
        return Generation(
            tokens, runs, self.steps, seconds, self.finished, self.joined, self.prefill_seconds, decode_seconds
        )

    def _join(self, row: int) -> None:
        """Read a prompt and emit the token after it."""
        self.joined[row] = time.perf_counter() - self.started
        logits_1V = self.live.join(self.prompts[row])
        sampler = Samplers.of([self.samplings[row]], self.device)
        if self.samplings[row].temperature > 0:
            u_11 = sampler.uniform(torch.zeros((1, 1), dtype=torch.long, device=self.device), CHOOSE)
            first_1 = draw(sampler.probabilities(logits_1V[None])[:, 0], u_11[:, 0])
        else:
            first_1 = first_best(logits_1V)
        self.rows.append(row)
        self.rows_B = torch.cat((self.rows_B, first_1.new_tensor([row])))
        self.last_B = torch.cat((self.last_B, first_1))
        self.made_B = torch.cat((self.made_B, first_1.new_zeros(1)))
        self.limits_B = torch.cat((self.limits_B, first_1.new_tensor([self.limits[row]])))
        self.samplers = self.samplers.joined(sampler)
        self.drafted = None
        self._emit(first_1[:, None], torch.ones_like(first_1), len(self.rows) - 1)

    def _step(self) -> None:
        began = time.perf_counter()
        live, B = self.live, len(self.rows)
        live.caught_up = 0
        k = self.k if self.length is None else self.length.choose(B)
        J, tokens_BT, q_BJV, at_once, drafted_before = k - 1, self.last_B[:, None], None, False, False
        if J:
            drafted_before = self.drafted is not None and self.drafted.shape[1] >= J
            logits_BJU = self.drafted if self.drafted is not None and drafted_before else live.draft(J)
            with live.timed("accept"):
                drafts_BJ, q_BJV = self._drafts(logits_BJU[:, :J])
                tokens_BT = torch.cat((tokens_BT, drafts_BJ), 1)
            at_once = live.drafts_at_once(J)
        logits_BTV, logits_JBTV = live.verify(tokens_BT, J if at_once else 0)
        with live.timed("accept"):
            accepted_B, tokens_BT = self._accept(tokens_BT, logits_BTV, q_BJV)
            live.keep(accepted_B)
            self.drafted = None
            if logits_JBTV is not None:
                every_B = torch.arange(B, device=self.device)
                self.drafted = logits_JBTV[:, every_B, accepted_B].transpose(0, 1)
            accepted = accepted_B.tolist()
            self._emit(tokens_BT, accepted_B + 1)
        caught_up = live.caught_up if live.caught_up > max(1, self.last_k) else 0
        if self.length is not None:
            # where heads had to catch up, or drafts were made before and during the step, it took longer than usual
            usual = not caught_up and at_once == drafted_before
            self.length.saw(B, k, accepted, time.perf_counter() - began, usual)
        self.steps.append(Step(k, accepted, time.perf_counter() - began, caught_up))
        self.last_k = k

    def _drafts(self, logits_BJU: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens drafted, and, if any sequence is sampled, the distributions they were drawn from."""
        ids_U = self.network.draft_ids
        if not self.sampled:
            chosen_BJ = first_best(logits_BJU)
            return chosen_BJ if ids_U is None else ids_U[chosen_BJ], None
        q_BJU = self.samplers.probabilities(logits_BJU)
        index_BJ = self.made_B[:, None] + torch.arange(logits_BJU.shape[1], device=self.device)
        chosen_BJ = draw(q_BJU, self.samplers.uniform(index_BJ, DRAFT))
        if ids_U is None:
            return chosen_BJ, q_BJU
        q_BJV = q_BJU.new_zeros((*q_BJU.shape[:2], self.network.config.vocabulary_size))
        q_BJV[..., ids_U] = q_BJU
        return ids_U[chosen_BJ], q_BJV

    def _accept(self, fed_BT: Tensor, logits_BTV: Tensor, q_BJV: Tensor | None) -> tuple[Tensor, Tensor]:
        """How many drafts stand, and the tokens emitted: those and one more; what follows in a row is to be ignored."""
        drafts_BJ, (B, T) = fed_BT[:, 1:], fed_BT.shape
        if self.sampled:
            index_BT = self.made_B[:, None] + torch.arange(T, device=self.device)
            p_BTV = self.samplers.probabilities(logits_BTV)
            q_BJV = p_BTV[:, :0] if q_BJV is None else q_BJV
            accept_BJ = self.samplers.uniform(index_BT[:, :-1], ACCEPT)
            choose_BT = self.samplers.uniform(index_BT, CHOOSE)
            accepted_B, last_B = accept(p_BTV, q_BJV, drafts_BJ, accept_BJ, choose_BT)
            tokens_BT = torch.cat((drafts_BJ, drafts_BJ.new_zeros((B, 1))), 1)
            tokens_BT = tokens_BT.scatter(1, accepted_B[:, None], last_B[:, None])
        else:
            tokens_BT = first_best(logits_BTV)
            accepted_B = (drafts_BJ == tokens_BT[:, :-1]).long().cumprod(1).sum(1)
        if self.draw_accepted is not None and T > 1:
            accepted_B = self.draw_accepted(B, T)
        return accepted_B, tokens_BT

    def _emit(self, tokens_BT: Tensor, counts_B: Tensor, first: int = 0) -> None:
        """Append to the live sequences from `first` on the first `counts` of their tokens, or fewer if something ends
        them there, and let those leave."""
        made_B, limits_B, rows_B = self.made_B[first:], self.limits_B[first:], self.rows_B[first:]
        T = tokens_BT.shape[1]
        counts_B = torch.minimum(counts_B, limits_B - made_B)
        ended_B = made_B + counts_B == limits_B
        if self.stop_ids is not None:
            places_T = torch.arange(T, device=self.device)
            stops_BT = torch.isin(tokens_BT, self.stop_ids) & (places_T < counts_B[:, None])
            stopped_B = stops_BT.any(1)
            counts_B = torch.where(stopped_B, stops_BT.long().argmax(1) + 1, counts_B)
            ended_B = made_B + counts_B == limits_B
            ended_B |= stopped_B
        if self.stop is not None:
            counts_B, ended_B = self._ask_stop(self.stop, rows_B.tolist(), tokens_BT.tolist(), counts_B, ended_B)
        self.made_B[first:] += counts_B
        self.last_B[first:] = tokens_BT.gather(1, counts_B[:, None] - 1)[:, 0]
        self.emitted.append((rows_B, tokens_BT, counts_B))
        if bool(ended_B.any()):
            self._leave([first + row for row in ended_B.nonzero()[:, 0].tolist()])

    def _ask_stop(
        self,
        stop: Callable[[int, list[int]], bool],
        rows: list[int],
        tokens: list[list[int]],
        counts_B: Tensor,
        ended_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The caller's rule, after every token in turn."""
        counts, ended = counts_B.tolist(), ended_B.tolist()
        for i, row in enumerate(rows):
            for place in range(counts[i]):
                self.texts[row].append(tokens[i][place])
                if stop(row, self.texts[row]):
                    counts[i], ended[i] = place + 1, True
                    break
        return counts_B.new_tensor(counts), ended_B.new_tensor(ended)

    def _leave(self, places: list[int]) -> None:
        now = time.perf_counter() - self.started
        for place in places:
            self.finished[self.rows[place]] = now
        kept = self.live.leave(places)
        self.rows = [self.rows[place] for place in kept.tolist()]
        self.rows_B, self.last_B = self.rows_B[kept], self.last_B[kept]
        self.made_B, self.limits_B = self.made_B[kept], self.limits_B[kept]
        self.samplers = self.samplers.kept(kept)
        if self.drafted is not None:
            self.drafted = self.drafted[kept]

    def _news(self, told: int) -> dict[int, list[int]]:
        """What was emitted from entry `told` on, by prompt."""
        return {row: tokens for row, (tokens, _) in _by_prompt(self.emitted[told:]).items()}


def _by_prompt(emitted: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[int, tuple[list[int], list[int]]]:
    """Tokens, and lengths of runs, of every prompt that got some."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for entry in emitted:
        for row, new, count in zip(*(part.tolist() for part in entry), strict=True):
            tokens, runs = found.setdefault(row, ([], []))
            tokens += new[:count]
            runs.append(count)
    return found
