"""The sequences being decoded together: their caches, lengths and masks, and the two passes of a step.

Sequences differ in length, accept different numbers of drafts and end at different steps. A row's length says
which slots of its cache count; what lies beyond (rejected drafts, padding, finished sequences) is either outside
the slice that is read or hidden by the mask, and is overwritten before the length reaches it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from components.decoding.layer import Pass
from components.decoding.network import Network


class Batch:
    """Live sequences in slots 0..B-1. `rows[slot]` is the caller's number of the sequence in that slot."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], capacity: int, k: int) -> None:
        B, device = len(prompts), network.device
        self.network, self.capacity, self.k = network, capacity, k
        self.rows = list(range(B))
        self.lengths = [0] * B
        """Positions that the main cache holds for good, per slot."""
        self.cache = network.main_cache(B, capacity)
        self.draft_cache = network.draft_cache(k, B, capacity)
        self._places = torch.arange(capacity, device=device)
        self._offsets = self._places.new_tensor([b * capacity for b in range(B)])[:, None]
        # triangle[j, c] hides c > capacity + j: slicing it at capacity - length gives any uniform causal mask
        hidden = torch.arange(capacity + k, device=device) > capacity + torch.arange(k, device=device)[:, None]
        self._triangle = torch.zeros(hidden.shape, dtype=network.dtype, device=device)
        self._triangle.masked_fill_(hidden, -torch.inf)
        self._fed = 0  # tokens per slot in the last main pass
        self._states: list[Tensor] = []  # of that pass, what the drafting heads read
        # per slot: the slot in the last main pass, first position and number of what it added for good
        self._added: list[tuple[int, int, int]] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Read the prompts, padded at the end (nothing attends to what comes after it); the first choices."""
        B, T = len(prompts), max(map(len, prompts))
        tokens_R = self._tensor([token for p in prompts for token in (*p, *([0] * (T - len(p))))])
        self._states, h_RD = self.network.main(tokens_R, self._pass([0] * B, T, T), self.cache, self.k)
        self._fed = T
        self.lengths = [len(p) for p in prompts]
        self._added = [(b, 0, len(p)) for b, p in enumerate(prompts)]
        last_B = self._tensor([b * T + len(p) - 1 for b, p in enumerate(prompts)])
        choices: list[int] = self.network.choose(h_RD[last_B]).tolist()
        return choices

    def verify(self, tokens: list[list[int]]) -> list[list[int]]:
        """Feed T tokens per slot after its length; head 0's choice after each of them, (B, T)."""
        B, T = len(tokens), len(tokens[0])
        tokens_R = self._tensor([token for row in tokens for token in row])
        where = self._pass(self.lengths, T, max(self.lengths) + T)
        self._states, h_RD = self.network.main(tokens_R, where, self.cache, self.k)
        self._fed = T
        self._added = [(b, self.lengths[b], 0) for b in range(B)]
        choices: list[list[int]] = self.network.choose(h_RD).view(B, T).tolist()
        return choices

    def keep(self, slot: int, count: int) -> None:
        """The first `count` tokens fed to this slot stand; the others are as if never fed."""
        source, start, _ = self._added[slot]
        self._added[slot] = (source, start, count)
        self.lengths[slot] = start + count

    def drop(self, slot: int) -> None:
        """Take a finished sequence out: the last slot moves into its place."""
        last = len(self.rows) - 1
        if slot != last:
            self.cache.move_row(last, slot, self.lengths[last])
            if self.draft_cache is not None:
                self.draft_cache.move_row(last, slot, self.lengths[last])
        self.rows[slot], self.lengths[slot], self._added[slot] = self.rows[-1], self.lengths[-1], self._added[-1]
        for values in (self.rows, self.lengths, self._added):
            values.pop()

    def draft(self) -> list[list[int]]:
        """Choices of heads 1..k-1 at each slot's last position, (B, k - 1)."""
        B, T = len(self.rows), self._fed
        if self.draft_cache is None:
            last_B = self._tensor([source * T + count - 1 for source, _, count in self._added])
            return self._draft(self._states, last_B, None)
        if self.network.config.arrangement == "causal":
            return self._draft_along_a_chain()
        (z_RD,) = self._states
        if B == 1:
            source, start, count = self._added[0]
            slots_R = self._places[start : start + count]
            where = Pass(1, start + count, slots_R, self.network.angles_PC[slots_R][:, None], None)
            return self._draft([z_RD[source * T : source * T + count]], self._places[count - 1 : count], where)
        rows: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        last: list[int] = []
        for slot, (source, start, count) in enumerate(self._added):
            rows += range(source * T, source * T + count)
            slots += range(slot * self.capacity + start, slot * self.capacity + start + count)
            places += range(start, start + count)
            last.append(len(rows) - 1)
        S, mask = max(self.lengths), None
        if min(self.lengths) < S:
            mask = self._mask(self._places[:S] >= self._tensor(self.lengths)[:, None, None, None])
        angles_R1C = self.network.angles_PC[self._tensor(places)][:, None]
        where = Pass(B, S, self._tensor(slots), angles_R1C, mask)
        return self._draft([z_RD[self._tensor(rows)]], self._tensor(last), where)

    def _draft_along_a_chain(self) -> list[list[int]]:
        """Where drafting heads read each other, all of them see every position that was added. Shorter slots are
        padded with their last row, at positions that count as not yet filled."""
        T = max(count for _, _, count in self._added)
        rows = [source * self._fed + min(j, count - 1) for source, _, count in self._added for j in range(T)]
        last_B = self._tensor([slot * T + count - 1 for slot, (_, _, count) in enumerate(self._added)])
        where = self._pass([start for _, start, _ in self._added], T, max(self.lengths))
        (x_RD,) = self._states
        return self._draft([x_RD[self._tensor(rows)]], last_B, where)

    def _draft(self, states: Sequence[Tensor], last_B: Tensor, where: Pass | None) -> list[list[int]]:
        drafts: list[list[int]] = self.network.draft(self.k, states, last_B, where, self.draft_cache).tolist()
        return drafts

    def _pass(self, starts: Sequence[int], T: int, S: int) -> Pass:
        """T rows per slot from position `starts` on, each seeing what is not after it, among S positions."""
        B, shortest, longest = len(starts), min(starts), max(starts)
        mask = None
        if shortest == longest:
            if T > 1 and longest:
                mask = self._triangle[:T, self.capacity - longest : self.capacity + T]
            positions_BT = self._places[longest : longest + T].expand(B, T)
        else:
            positions_BT = self._tensor(starts)[:, None] + self._places[:T]
            mask = self._mask(self._places[:S] > positions_BT[:, None, :, None])
        slots_R = (positions_BT + self._offsets[:B]).view(-1)
        angles_R1C = self.network.angles_PC[positions_BT.reshape(-1)][:, None]
        return Pass(B, S, slots_R, angles_R1C, mask, causal=not longest)

    def _mask(self, hidden: Tensor) -> Tensor:
        mask = torch.zeros(hidden.shape, dtype=self.network.dtype, device=self.network.device)
        return mask.masked_fill_(hidden, -torch.inf)

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.network.device)
