"""The sequences being decoded together: their caches, lengths, drafts, and the passes of a step.

Sequences differ in length, accept different numbers of drafts, and come and go at different steps. All that is known
of them stands in tensors with a row per sequence, and a slot of the caches belongs to each. A row's length says which
positions of its slot count; what lies beyond (rejected drafts, earlier sequences) is hidden by the mask and
overwritten before the length reaches it.

On a processor rows are as many as sequences, and move up when one leaves. With `fixed_rows` each slot is a row for
good, empty or not, and every tensor keeps its place in memory: what captured graphs need, and what a GPU, bound by its
memory, pays nothing for.

Shape suffixes as in `network`; B sequences, T tokens fed to each, S states that drafting reads, M latest positions.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from components.decoding.cache import Pass, locate
from components.decoding.network import Network

PARTS = ("verify", "heads", "unembedding", "accept", "host")
"""What a step's time is split into: the way to head 0, the drafting heads, all unembeddings, accepting and choosing
(with sampling), and what the loop around does."""
GRAIN = 256
"""Positions by which what fixed rows read grows: each number is a graph of its own."""
MOST_ROWS_AT_ONCE = 64
"""Rows of the unembedding beyond which all heads at all positions together are not even tried: products are bound by
arithmetic there."""


class _Timer:
    """Adds the time of a block to a part's."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self._seconds, self._part = seconds, part

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._part] += time.perf_counter() - self._started


class Live:
    """Sequences in slots of the caches."""

    def __init__(self, network: Network, slots: int, capacity: int, heads: int, fixed_rows: bool = False) -> None:
        """heads: drafting heads that may be used; positions below `capacity` fit."""
        self.network, self.heads, self.capacity, self.fixed_rows = network, heads, capacity, fixed_rows
        self.device = network.device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.cache = network.main_cache(slots, capacity)
        layered = heads > 0 and network.heads_have_layers
        self.draft_cache = network.draft_cache(heads, slots, capacity) if layered else None
        # what heads with layers read of every position: those not used for a while catch up from it
        shape = (slots, capacity, network.config.dim)
        self._read = torch.zeros(shape, dtype=network.dtype, device=self.device) if layered else None
        self._behind = [0] * heads if layered else []
        """Per drafting head with layers, latest positions that its cache may lack, in any sequence."""
        self._fed: tuple[Tensor | None, int] = (None, 0)
        self.free = list(range(slots))[::-1]
        self.slots = list(range(slots)) if fixed_rows else []
        """The slot of every row."""
        self.slots_B = torch.tensor(self.slots, dtype=torch.long, device=self.device)
        self.lengths_B = torch.zeros_like(self.slots_B)
        """Positions that the main cache holds for good."""
        self.longest = 0
        """With fixed rows: no sequence is longer. Read from the device it would stop the host."""
        self._state_SBD: Tensor | None = None
        """What heads without layers read, at each sequence's last position."""

    @property
    def B(self) -> int:
        return len(self.slots)

    def timed(self, part: str) -> "_Timer":
        return _Timer(self.seconds, part)

    def join(self, prompt: Sequence[int]) -> Tensor:
        """Read a prompt, by itself, into a free slot; head 0's logits after it, (1, V). Its row is the last, or, of
        fixed rows, the slot's own."""
        slot, T = self.free.pop(), len(prompt)
        slot_1 = torch.tensor([slot], device=self.device)
        places_1T = torch.arange(T, device=self.device)[None]
        where = locate((slot,), slot_1, places_1T, T, self.network.angles_PC)
        tokens = torch.tensor(prompt, device=self.device)
        read_SRD, h_RD = self.network.main(tokens, where, self.cache, self.heads > 0, first_read=True)
        state_S1D = None
        if self._read is not None and self.draft_cache is not None:
            assert read_SRD is not None
            self._read[slot, :T] = read_SRD[0]
            last = torch.tensor([T - 1], device=self.device)
            self.network.draft_layer_states(
                self.heads, read_SRD[0], where, last, where.last(), self.draft_cache, first_read=True
            )
        elif self.heads:
            assert read_SRD is not None
            state_S1D = read_SRD[:, -1:]
        if self.fixed_rows:
            self.lengths_B[slot] = T
            self.longest = max(self.longest, T)
            if state_S1D is not None:
                if self._state_SBD is None:
                    self._state_SBD = state_S1D.new_zeros((state_S1D.shape[0], self.B, state_S1D.shape[2]))
                self._state_SBD[:, slot] = state_S1D[:, 0]
        else:
            self.slots.append(slot)
            self.slots_B = torch.cat((self.slots_B, slot_1))
            self.lengths_B = torch.cat((self.lengths_B, slot_1.new_tensor([T])))
            if state_S1D is not None:
                before = self._state_SBD
                self._state_SBD = state_S1D if before is None else torch.cat((before, state_S1D), 1)
        return self.network.logits(h_RD[-1:])

    def leave(self, rows: Sequence[int]) -> Tensor:
        """Take sequences out; the rows that stay, in order. Fixed rows all stay."""
        gone = set(rows)
        self.free += [self.slots[row] for row in gone]
        if self.fixed_rows:
            return self.slots_B
        staying = [row for row in range(self.B) if row not in gone]
        kept = torch.tensor(staying, dtype=torch.long, device=self.device)
        self.slots = [self.slots[row] for row in staying]
        self.slots_B, self.lengths_B = self.slots_B[kept], self.lengths_B[kept]
        if self._state_SBD is not None:
            self._state_SBD = self._state_SBD[:, kept]
        return kept

    def verify(self, tokens_BT: Tensor, heads: int = 0) -> tuple[Tensor, Tensor | None]:
        """Feed tokens after each sequence's length: head 0's logits after each, (B, T, V), and with `heads` > 0 those
        of as many drafting heads after each as well, (J, B, T, V), all by one reading of the unembedding."""
        B, T = tokens_BT.shape
        with self.timed("verify"):
            where = self._latest(self.lengths_B + T, T)
            read_SRD, h_RD = self.network.main(tokens_BT.reshape(-1), where, self.cache, self.heads > 0)
            self._fed = (read_SRD, T)
            if self._read is not None:
                assert read_SRD is not None
                self._read[where.slot_R, where.position_R] = read_SRD[0]
                self._behind = [missing + T for missing in self._behind]
        if not heads:
            with self.timed("unembedding"):
                return self.network.logits(h_RD).view(B, T, -1), None
        assert read_SRD is not None
        with self.timed("heads"):
            if self.draft_cache is None:
                h_JRD = self.network.draft_states(heads, read_SRD)
            else:
                assert max(self._behind[:heads]) == T, self._behind
                self._behind[:heads] = [0] * heads
                h_JRD = self.network.draft_layer_states(heads, read_SRD[0], where, None, where, self.draft_cache)
        with self.timed("unembedding"):
            logits = self.network.logits(torch.cat((h_RD[None], h_JRD)).flatten(0, 1))
            logits = logits.view(1 + heads, B, T, -1)
            return logits[0], logits[1:]

    def drafts_at_once(self, heads: int) -> bool:
        """Whether `verify` can draft with so many heads, and whether that takes less time: they share head 0's
        unembedding, and reading it once for more rows is faster than twice for few. They must have seen all before."""
        network, T = self.network, heads + 1
        if network.config.arrangement == "replicated" or network.draft_ids is not None:
            return False
        if self.B * T * T > MOST_ROWS_AT_ONCE:
            return False
        seconds = network.unembedding_seconds
        return seconds(self.B * T * T) < seconds(self.B * T) + seconds(self.B * heads)

    def keep(self, accepted_B: Tensor, ended_B: Tensor | None = None) -> None:
        """Of the tokens fed last the first and so many more stand; the others are as if never fed. ended_B: of these
        rows nothing stands."""
        stand_B = accepted_B + 1
        self.lengths_B += stand_B if ended_B is None else stand_B.masked_fill(ended_B, 0)
        read_SRD, T = self._fed
        if self.heads and self.draft_cache is None:
            assert read_SRD is not None
            state_SBD = read_SRD[:, torch.arange(self.B, device=self.device) * T + accepted_B]
            if self.fixed_rows and self._state_SBD is not None:
                self._state_SBD.copy_(state_SBD)
            else:
                self._state_SBD = state_SBD
        self.longest = min(self.longest + T, self.capacity)

    def lacking(self, heads: int) -> int:
        """Latest positions that the caches of the first heads may lack; 0 where they have none."""
        return max(self._behind[:heads], default=0) if self.draft_cache is not None else 0

    def held(self) -> list[object]:
        """What captured steps read, and a cache might give up."""
        return [*self.cache.lists(), *(self.draft_cache.lists() if self.draft_cache is not None else ())]

    def shape(self, k: int, from_last: bool) -> tuple[int, ...]:
        """All that the passes of a step with k tokens a row depend on beside tensors and whether it drafts at once.
        from_last: its drafts are there already."""
        M = 0 if from_last or k == 1 else max(1, self.lacking(k - 1))
        return k, M, self.reads(k), self.reads(M)

    def replayed(self, k: int, at_once: bool, from_last: bool) -> None:
        """What `draft`, `verify` and `keep` note in Python, for a step that did not come by here."""
        J = min(k - 1, len(self._behind))
        if not from_last:
            self._behind[:J] = [0] * J
        self._behind = [missing + k for missing in self._behind]
        if at_once:
            self._behind[:J] = [0] * J
        self.longest = min(self.longest + k, self.capacity)

    def noted(self) -> tuple[list[int], int]:
        """What Python notes, for taking it back."""
        return list(self._behind), self.longest

    def take_back(self, noted: tuple[list[int], int]) -> None:
        """As it was noted before a step that failed."""
        self._behind, self.longest = list(noted[0]), noted[1]

    def draft(self, heads: int) -> Tensor:
        """Logits of the first drafting heads at each sequence's last position, (B, J, U)."""
        with self.timed("heads"):
            if self.draft_cache is None:
                assert self._state_SBD is not None
                h_JBD = self.network.draft_states(heads, self._state_SBD)
            else:
                h_JBD = self._catch_up(heads)
        with self.timed("unembedding"):
            return self.network.draft_logits(heads, h_JBD).transpose(0, 1)

    def _catch_up(self, heads: int) -> Tensor:
        """Give the caches of the first heads what they lack, from the trunk states kept; their states at each
        sequence's last position. Sequences that lack fewer positions have some made a second time."""
        assert self._read is not None
        assert self.draft_cache is not None
        M = max(1, self.lacking(heads))
        self._behind[:heads] = [0] * heads
        where = self._latest(self.lengths_B, M)
        z_RD = self._read[where.slot_R, where.position_R]
        last_B = torch.arange(M - 1, self.B * M, M, device=self.device)
        return self.network.draft_layer_states(heads, z_RD, where, last_B, where.last(), self.draft_cache)

    def _latest(self, ends_B: Tensor, T: int) -> Pass:
        """The T positions before these ends; before a sequence's start its first position takes their place."""
        positions_BT = (ends_B[:, None] - T + torch.arange(T, device=self.device)).clamp_(min=0)
        longest = self.reads(T) if self.fixed_rows else int(ends_B.max())
        return locate(tuple(self.slots), self.slots_B, positions_BT, longest, self.network.angles_PC)

    def reads(self, T: int) -> int:
        """Positions that a pass of T tokens a row reads, of fixed rows."""
        return min(self.capacity, -(-(self.longest + T) // GRAIN) * GRAIN)
