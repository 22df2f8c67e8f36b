"""The loop of decoding: sequences join, steps are made, sequences leave.

Within a step all is done for the whole batch by tensors, and nothing is read from them: what a step did is looked at
after it, or, where rows are fixed (see `live`), after a few, so that a GPU is not kept waiting. What is done per
sequence in Python: joining, leaving, `stop` and `on_step` if given, and, after the last step, sorting what was emitted
by prompt.

Shape suffixes: B rows of the batch, T tokens fed to each, J drafts (T - 1), V vocabulary, U symbols that may be
drafted, X columns of what a step reports, N steps, S stop tokens.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from components.decoding.draft_length import DraftLength, Experience
from components.decoding.graphs import Graphs
from components.decoding.kernels import first_best
from components.decoding.live import PARTS, Live
from components.decoding.network import Network
from components.decoding.room import check_room
from components.decoding.sampling import ACCEPT, CHOOSE, DRAFT, Samplers, Sampling, accept, draw

MOST_STEPS_AHEAD = 8
"""Steps between two looks at fixed rows: sequences that ended by a stop token are carried along until then."""

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
    """The steps' time by part, as `live.PARTS` names them; empty on a GPU, where steps are not timed in parts."""
    finished_seconds: list[float] = field(default_factory=list)
    """Per prompt, from the call to the look at its last token."""
    joined_seconds: list[float] = field(default_factory=list)
    """Per prompt, from the call until it was its turn to be read."""
    prefill_seconds: float = 0.0
    """Allocation, reading the prompts and the first token of each; on a GPU capturing steps too."""
    decode_seconds: float = 0.0
    """All steps, the time in `on_step` aside."""

    @property
    def tokens_per_forward(self) -> float:
        """E: tokens emitted per step and sequence (those of the prompt's own pass aside); 0 without a step."""
        sequence_steps = sum(len(step.accepted) for step in self.steps)
        emitted = sum(len(tokens) - 1 for tokens in self.tokens)
        return emitted / sequence_steps if sequence_steps else 0.0


class Loop:
    """One call of `Decoder.generate`."""

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
        fixed_rows: bool,
    ) -> None:
        self.started = time.perf_counter()
        self.network, self.prompts, self.limits, self.samplings = network, prompts, limits, samplings
        self.stop, self.draw_accepted, self.fixed_rows = stop, draw_accepted, fixed_rows
        n = network.config.n_future_tokens
        most = n if k == "adaptive" else int(k)
        self.k = most
        self.length = DraftLength(n, experience) if k == "adaptive" and n > 1 else None
        # the last token is never fed, but drafts beside the last but one may lie beyond the limit
        capacity = max(len(p) + limit for p, limit in zip(prompts, limits, strict=True)) + most - 1
        network.prepare(0, most > 1)
        self.sampled = any(s.temperature > 0 for s in samplings)
        check_room(network, batch, capacity, most, self.sampled, max(map(len, prompts)))
        network.prepare(capacity, most > 1)
        self.live = Live(network, batch, capacity, most - 1, fixed_rows)
        device = self.device = network.device
        self.graphs = Graphs(device) if fixed_rows and device.type == "cuda" else None
        self.stop_ids = frozenset(stop_ids)
        self.stop_ids_S = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
        self.waiting = list(range(len(prompts)))[::-1]
        self.rows: list[int | None] = [None] * self.live.B
        """The prompt's number of every row; None: there is no sequence in it."""
        self.numbers: tuple[int | None, ...] = ()
        """The same as it is now, for keeping."""
        # a row is live as long as it has made less than its limit
        self.last_B, self.made_B, self.limits_B = (torch.zeros_like(self.live.slots_B) for _ in range(3))
        self.samplers = Samplers.of([Sampling()] * self.live.B, device, samplings)
        self.accepted_B: Tensor | None = None
        """What `draw_accepted` drew for this step."""
        self.drafted_BJU: Tensor | None = None
        """Logits of the next drafts, where verification made them at once; of fixed rows for all J heads in use."""
        self.has_drafted = 0
        """For how many drafts they are good now."""
        self.emitted: list[tuple[Sequence[int | None], Tensor]] = []
        """Per step: the rows' prompts, and what it reported."""
        self.texts: list[list[int]] = [[] for _ in prompts]
        """New tokens, where `stop` asks for them."""
        self.made = [0] * len(prompts)
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
            if all(row is None for row in self.rows):
                if self.waiting:
                    continue
                break
            told = len(self.emitted)
            self._steps(ahead=on_step is None and self.stop is None)
            if on_step is not None:
                on_step(self._news(told))
        decode_seconds = sum(step.seconds for step in self.steps)
        seconds = dict(self.live.seconds) if self.device.type == "cpu" else {}
        if seconds:
            seconds["host"] = decode_seconds - sum(seconds[part] for part in PARTS if part != "host")
        found = _by_prompt(self.emitted)
        tokens, runs = ([found[row][part] for row in range(len(self.prompts))] for part in range(2))
        return Generation(
            tokens, runs, self.steps, seconds, self.finished, self.joined, self.prefill_seconds, decode_seconds
        )

    def _join(self, number: int) -> None:
        """Read a prompt and emit the token after it."""
        self.joined[number] = time.perf_counter() - self.started
        row = self.live.free[-1] if self.fixed_rows else self.live.B
        logits_1V = self.live.join(self.prompts[number])
        sampler = Samplers.of([self.samplings[number]], self.device)
        if self.samplings[number].temperature > 0:
            u_11 = sampler.uniform(torch.zeros((1, 1), dtype=torch.long, device=self.device), CHOOSE)
            first_1 = draw(sampler.probabilities(logits_1V[None])[:, 0], u_11[:, 0])
        else:
            first_1 = first_best(logits_1V)
        limit = self.limits[number]
        if self.fixed_rows:
            self.rows[row] = number
            self.last_B[row], self.made_B[row], self.limits_B[row] = first_1[0], 1, limit
            self.samplers.put(row, sampler)
        else:
            self.rows.append(number)
            self.last_B = torch.cat((self.last_B, first_1))
            self.made_B = torch.cat((self.made_B, first_1.new_ones(1)))
            self.limits_B = torch.cat((self.limits_B, first_1.new_tensor([limit])))
            self.samplers = self.samplers.joined(sampler)
            self.drafted_BJU = None
        self.numbers = tuple(self.rows)
        self.has_drafted = 0
        token = int(first_1)
        self.emitted.append(((number,), torch.tensor([[token, 1, 0, 0]])))
        self.made[number] = 1
        if self._asked_to_stop(number, [token]) or token in self.stop_ids or limit == 1:
            self._leave([row])

    def _steps(self, ahead: bool) -> None:
        """One step, or, of fixed rows, `ahead` some before looking at what they did."""
        began, captured = time.perf_counter(), self._capturing()
        live, B = self.live, self.live.B
        k = self.k if self.length is None else self.length.choose(B)
        J = k - 1
        asking = time.perf_counter()
        at_once = bool(J) and live.drafts_at_once(J)
        began += time.perf_counter() - asking  # what it measures now and then is not the step's
        from_last = J > 0 and self.has_drafted >= J
        lacking = 0 if from_last else live.lacking(J)
        caught_up = lacking if lacking > max(1, self.last_k) else 0
        steady = not caught_up and lacking <= k and from_last == at_once
        trying = self.length is not None and self.length.trying
        count = self._steps_to(k) if self.fixed_rows and ahead and steady and not trying else 1
        reports, usual = [], not caught_up and at_once == from_last
        for _ in range(count):
            if self.draw_accepted is not None and J:
                self._set_accepted(self.draw_accepted(B, k))
            report_BX, as_usual = self._pass(k, at_once, from_last)
            reports.append(report_BX)
            usual = usual and as_usual
        whole_NBX = torch.stack(reports).cpu() if self.fixed_rows else reports[0][None]
        accepted = self._look(whole_NBX, k)
        captured = self._capturing() - captured
        self.prefill_seconds += captured
        seconds = time.perf_counter() - began - captured
        for step in accepted:
            if self.length is not None:
                # where heads had to catch up, or drafts were made before and during the step, it took longer
                self.length.saw(B, k, step, seconds / count, usual)
            # steps after which all had ended are part of the others' time
            self.steps.append(Step(k, step, seconds / len(accepted), caught_up))
        self.last_k = k

    def _capturing(self) -> float:
        """Seconds spent on capturing so far."""
        return 0.0 if self.graphs is None else self.graphs.seconds

    def _steps_to(self, k: int) -> int:
        """Steps of which only the last may bring a sequence to its limit, as far as the device may run ahead."""
        left = min(self.limits[row] - self.made[row] for row in self.rows if row is not None)
        return max(1, min(MOST_STEPS_AHEAD, -(-left // k)))

    def _pass(self, k: int, at_once: bool, from_last: bool) -> tuple[Tensor, bool]:
        """A step, replayed where that can be: what it reports, (B, X), and whether it took its usual time."""
        self.has_drafted = k - 1 if at_once else 0
        if self.graphs is None:
            return self._step(k, at_once, from_last), True
        noted = self.live.noted()
        report_BX, replayed = self.graphs.run(
            (at_once, from_last, *self.live.shape(k, from_last)),
            lambda: self._step(k, at_once, from_last),
            self.live.held,
            lambda: self.live.take_back(noted),
        )
        if replayed:
            self.live.replayed(k, at_once, from_last)
        return report_BX.clone(), replayed

    def _step(self, k: int, at_once: bool, from_last: bool) -> Tensor:
        """Draft, verify, accept; by tensors alone. Columns of the report: k tokens; how many of them are emitted;
        drafts accepted, before a stop or limit cuts the run; whether the sequence ends here."""
        live, J, tokens_BT, q_BJV = self.live, k - 1, self.last_B[:, None], None
        if J:
            logits_BJU = self.drafted_BJU if from_last else live.draft(J)
            assert logits_BJU is not None
            with live.timed("accept"):
                drafts_BJ, q_BJV = self._drafts(logits_BJU[:, :J])
                tokens_BT = torch.cat((tokens_BT, drafts_BJ), 1)
        logits_BTV, logits_JBTV = live.verify(tokens_BT, J if at_once else 0)
        with live.timed("accept"):
            accepted_B, tokens_BT = self._accept(tokens_BT, logits_BTV, q_BJV)
            counts_B = torch.minimum(accepted_B + 1, self.limits_B - self.made_B)
            ended_B = self.made_B + counts_B == self.limits_B
            if self.stop_ids:
                places_T = torch.arange(k, device=self.device)
                stops_BT = (tokens_BT[..., None] == self.stop_ids_S).any(-1) & (places_T < counts_B[:, None])
                stopped_B = stops_BT.any(1)
                counts_B = torch.where(stopped_B, stops_BT.long().argmax(1) + 1, counts_B)
                ended_B = stopped_B | (self.made_B + counts_B == self.limits_B)
            live.keep(accepted_B, ended_B if self.fixed_rows else None)
            if logits_JBTV is not None:
                self._keep_drafted(logits_JBTV, accepted_B)
            if self.fixed_rows:
                self.last_B.copy_(tokens_BT.gather(1, (counts_B[:, None] - 1).clamp_(min=0))[:, 0])
                self.made_B.copy_(torch.where(ended_B, self.limits_B, self.made_B + counts_B))
            else:
                self.last_B = tokens_BT.gather(1, counts_B[:, None] - 1)[:, 0]
                self.made_B = self.made_B + counts_B
            return torch.cat((tokens_BT, counts_B[:, None], accepted_B[:, None], ended_B[:, None].long()), 1)

    def _keep_drafted(self, logits_JBTV: Tensor, accepted_B: Tensor) -> None:
        """Of drafts at all positions those behind the last accepted one, for the next step."""
        every_B = torch.arange(self.live.B, device=self.device)
        drafted_BJU = logits_JBTV[:, every_B, accepted_B].transpose(0, 1)
        if not self.fixed_rows:
            self.drafted_BJU = drafted_BJU
            return
        B, J, U = drafted_BJU.shape
        if self.drafted_BJU is None:
            self.drafted_BJU = drafted_BJU.new_zeros((B, self.k - 1, U))
        self.drafted_BJU[:, :J].copy_(drafted_BJU)

    def _set_accepted(self, accepted_B: Tensor) -> None:
        """Where the next step finds what counts as accepted, (B,)."""
        if self.accepted_B is not None and self.fixed_rows:
            self.accepted_B.copy_(accepted_B)
        else:
            self.accepted_B = accepted_B.to(self.device)

    def _look(self, whole_NBX: Tensor, k: int) -> list[list[int]]:
        """What steps did: drafts accepted by the sequences that were live in each. Those that ended leave."""
        accepted, ended = [], []
        for report_BX in whole_NBX:
            counts, found, ends = report_BX[:, k:].T.tolist()
            if self.stop is not None:
                self._ask_stop(report_BX, k, counts, ends)
            rows = [row for row, count in enumerate(counts) if count]
            if not rows:  # all had ended before
                break
            accepted.append([found[row] for row in rows])
            self.emitted.append((self.numbers, report_BX))
            for row in rows:
                self.made[self.numbers[row]] += counts[row]  # type: ignore[index]
            ended += [row for row in rows if ends[row]]
        if self.fixed_rows:
            lengths = (len(self.prompts[i]) + self.made[i] for i in self.numbers if i is not None)
            self.live.longest = max(lengths)
        if ended:
            self._leave(ended)
        return accepted

    def _ask_stop(self, report_BX: Tensor, k: int, counts: list[int], ends: list[int]) -> None:
        """The caller's rule, after every token in turn; what it cuts is cut from the report."""
        for row, number in enumerate(self.numbers):
            tokens = report_BX[row, : counts[row]].tolist()
            if number is not None and (kept := self._asked_to_stop(number, tokens)):
                counts[row], ends[row] = kept, 1
                report_BX[row, k] = kept

    def _asked_to_stop(self, number: int, tokens: Sequence[int]) -> int:
        """With how many of a prompt's new tokens `stop` ends it; 0: it goes on."""
        if self.stop is not None:
            for place, token in enumerate(tokens):
                self.texts[number].append(token)
                if self.stop(number, self.texts[number]):
                    return place + 1
        return 0

    def _leave(self, places: list[int]) -> None:
        now = time.perf_counter() - self.started
        for place in places:
            number = self.rows[place]
            assert number is not None
            self.finished[number] = now
        kept = self.live.leave(places)
        if self.fixed_rows:
            for place in places:
                self.rows[place] = None
                self.made_B[place] = self.limits_B[place]
        else:
            self.rows = [self.rows[place] for place in kept.tolist()]
            self.last_B, self.made_B, self.limits_B = self.last_B[kept], self.made_B[kept], self.limits_B[kept]
            self.samplers = self.samplers.kept(kept)
            if self.drafted_BJU is not None:
                self.drafted_BJU = self.drafted_BJU[kept]
        self.numbers = tuple(self.rows)

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
        if self.accepted_B is not None and T > 1:
            accepted_B = self.accepted_B
        return accepted_B, tokens_BT

    def _news(self, told: int) -> dict[int, list[int]]:
        """What was emitted from entry `told` on, by prompt."""
        return {row: tokens for row, (tokens, _) in _by_prompt(self.emitted[told:]).items()}


def _by_prompt(emitted: Sequence[tuple[Sequence[int | None], Tensor]]) -> dict[int, tuple[list[int], list[int]]]:
    """Tokens, and lengths of runs, of every prompt that got some."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for numbers, report_BX in emitted:
        for number, report in zip(numbers, report_BX.tolist(), strict=True):
            count = report[-3]
            if number is not None and count:
                tokens, runs = found.setdefault(number, ([], []))
                tokens += report[:count]
                runs.append(count)
    return found
