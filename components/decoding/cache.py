"""Key/value caches, and attention of a few new rows over what they hold.

A cache holds `layers` layers (of the way to head 0, or of the drafting heads) for a fixed number of slots, one per
sequence. Two forms with the same methods: `BagCache` for processors, `DenseCache` for everything else.

Shape suffixes: B sequences, T positions of a pass, R rows (B times T), J layers taken together, H attention heads,
K key/value heads of one layer, E width of one head, S positions read.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PAGE = 64
"""Positions whose keys lie together, and the step in which the number of positions read grows."""
MOST_BAGS = 12
"""Lists of what sums take that are kept: one per sequences, tokens a row, pages and layers."""


@dataclass(frozen=True)
class Pass:
    """Where the rows of one pass stand. Every layer reads the same, so it is built once per pass."""

    slots: tuple[int, ...]
    slots_B: Tensor
    positions_BT: Tensor
    S: int
    """Positions read, of each sequence alike: a multiple of PAGE that takes in the longest one's last."""
    mask_BT1S: Tensor
    """Added to the scores: -inf at positions after a row's own."""
    angles_R1C: Tensor
    """Rotary angles of the rows as complex numbers."""
    slot_R: Tensor
    position_R: Tensor
    page_R: Tensor
    """The page that a row's position is on, and its place there."""
    place_R: Tensor

    @property
    def B(self) -> int:
        return len(self.slots)

    @property
    def T(self) -> int:
        return self.positions_BT.shape[1]

    def last(self) -> "Pass":
        """Of each sequence the last row alone, for reading."""
        T = self.T
        if T == 1:
            return self
        per_row = (self.angles_R1C, self.slot_R, self.position_R, self.page_R, self.place_R)
        last = (part[T - 1 :: T] for part in per_row)
        return Pass(self.slots, self.slots_B, self.positions_BT[:, -1:], self.S, self.mask_BT1S[:, -1:], *last)


def locate(slots: tuple[int, ...], slots_B: Tensor, positions_BT: Tensor, longest: int, angles_PC: Tensor) -> Pass:
    """The pass of rows at these positions of these slots, none of them at `longest` or after."""
    S = -(-longest // PAGE) * PAGE
    hidden = torch.arange(S, device=slots_B.device) > positions_BT[:, :, None, None]
    mask = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)
    position_R = positions_BT.reshape(-1)
    angles_R1C = angles_PC[position_R][:, None]
    slot_R = slots_B[:, None].expand_as(positions_BT).reshape(-1)
    page_R, place_R = position_R // PAGE, position_R % PAGE
    return Pass(slots, slots_B, positions_BT, S, mask, angles_R1C, slot_R, position_R, page_R, place_R)


class BagCache:
    """Attention as weighted sums of rows (`embedding_bag`), which read the cache at nearly the memory's bandwidth.

    Scores are sums over a head's width of rows that each hold one number for a page of positions, so keys lie as
    (page, E, PAGE); the result is a sum over positions of rows of values. Both sums run in order, one row after the
    other, so hidden positions, with weight 0, leave the bits as they are: however long the batch's longest sequence
    is, and however many rows there are, a row's result is the same.

    Torch's other attention on a processor takes three to five times as long for one to four rows of bfloat16. The
    sums come back in the cache's number format, so bfloat16 models are cached in float16, which rounds eight times
    finer, unless `network` finds weights with which it might overflow.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        slots: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.kv_heads, self.slots, self.head_dim, self.dtype = kv_heads, slots, head_dim, dtype
        self.pages = -(-capacity // PAGE)
        # zeros: what a mask hides still enters the sum with weight 0, so it must be finite
        self.keys = torch.zeros((layers, slots, kv_heads, self.pages, head_dim, PAGE), dtype=dtype, device=device)
        self.values = torch.zeros((layers, slots, kv_heads, self.pages * PAGE, head_dim), dtype=dtype, device=device)
        self._views: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._bags: dict[tuple[tuple[int, ...], int, int, int, int], tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        """What each sum takes, by what it depends on; the one used last at the end."""

    def write(self, first: int, count: int, where: Pass, keys_RJKE: Tensor, values_RJKE: Tensor) -> None:
        """Put the rows' keys and values of `count` layers from `first` on in their places."""
        keys, values, _, _ = self._layers(first, count)
        keys.index_put_((where.slot_R, where.page_R, where.place_R), keys_RJKE)
        values.index_put_((where.slot_R, where.position_R), values_RJKE)

    def attend(self, first: int, count: int, where: Pass, q_RNE: Tensor) -> Tensor:
        """Attention of all rows, (R, N * E). N: the layers' query heads, one layer after the other; their scale is
        in q already."""
        _, _, keys, values = self._layers(first, count)
        R, N, E = q_RNE.shape
        pages = where.S // PAGE
        kind = (where.slots, where.T, pages, count, N)
        bags = self._bags.pop(kind, None) or self._make_bags(where.slots_B, *kind[1:])
        self._bags[kind] = bags
        if len(self._bags) > MOST_BAGS:
            del self._bags[next(iter(self._bags))]
        key_rows, key_starts, value_rows, value_starts = bags
        weights = q_RNE.unsqueeze(2).expand(R, N, pages, E).reshape(-1)
        scores = _sums(keys, key_rows, key_starts, weights)
        scores_BTNS = scores.view(where.B, where.T, N, where.S) + where.mask_BT1S
        shares = scores_BTNS.softmax(-1).to(self.dtype).view(-1)
        return _sums(values, value_rows, value_starts, shares).view(R, N * E)

    def lists(self) -> list[object]:
        """What `attend` has read beside the cache of late."""
        return list(self._bags.values())

    def _layers(self, first: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of some layers, keys and values as they are written (leading axes: slot, page, place; slot, position) and
        as rows to be summed."""
        if (first, count) not in self._views:
            keys, values = self.keys[first : first + count], self.values[first : first + count]
            self._views[first, count] = (
                keys.permute(1, 3, 5, 0, 2, 4),
                values.permute(1, 3, 0, 2, 4),
                keys.view(-1, PAGE),
                values.view(-1, self.head_dim),
            )
        return self._views[first, count]

    def _make_bags(
        self, slots_B: Tensor, T: int, pages: int, count: int, N: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rows that each sum takes, and where each sum's begin, for keys and for values."""
        device, B, E, S = self.keys.device, slots_B.shape[0], self.head_dim, pages * PAGE
        head = torch.arange(N, device=device)
        layer, kv_head = head // (N // count), head % (N // count) // (N // count // self.kv_heads)
        block_BN = (layer * self.slots + slots_B[:, None]) * self.kv_heads + kv_head
        page = torch.arange(pages, device=device)[:, None]
        key = (block_BN[:, None, :, None, None] * self.pages + page) * E + torch.arange(E, device=device)
        value = block_BN[:, None, :, None] * (self.pages * PAGE) + torch.arange(S, device=device)
        key_rows = key.expand(B, T, N, pages, E).reshape(-1)
        value_rows = value.expand(B, T, N, S).reshape(-1)
        starts = (torch.arange(0, rows.numel(), step, device=device) for rows, step in ((key_rows, E), (value_rows, S)))
        key_starts, value_starts = starts
        return key_rows, key_starts, value_rows, value_starts


def _sums(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sums of rows of a table times weights, one from each of `starts` to the next: `F.embedding_bag` without its
    checks."""
    return torch.embedding_bag(table, rows, starts, False, 0, False, weights, False, None)[0]


class DenseCache:
    """The same with one tensor of keys and one of values per layer, and torch's attention over them."""

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        slots: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.slots, self.dtype = slots, dtype
        shape = (layers, slots, kv_heads, -(-capacity // PAGE) * PAGE, head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))

    def write(self, first: int, count: int, where: Pass, keys_RJKE: Tensor, values_RJKE: Tensor) -> None:
        for cached, rows in ((self.keys, keys_RJKE), (self.values, values_RJKE)):
            cached[first : first + count].permute(1, 3, 0, 2, 4).index_put_((where.slot_R, where.position_R), rows)

    def lists(self) -> list[object]:
        """Nothing beside the cache is read."""
        return []

    def attend(self, first: int, count: int, where: Pass, q_RNE: Tensor) -> Tensor:
        B, T, (R, N, E) = where.B, where.T, q_RNE.shape
        everyone = where.slots == tuple(range(B))
        keys_BKSE, values_BKSE = (
            part[:, :B] if everyone else part.index_select(1, where.slots_B)
            for part in (cached[first : first + count, :, :, : where.S] for cached in (self.keys, self.values))
        )
        q_BNTE = q_RNE.view(B, T, N, E).transpose(1, 2)
        y_BNTE = F.scaled_dot_product_attention(
            q_BNTE,
            keys_BKSE.transpose(0, 1).flatten(1, 2),
            values_BKSE.transpose(0, 1).flatten(1, 2),
            where.mask_BT1S.transpose(1, 2).to(self.dtype),
            scale=1.0,
            enable_gqa=keys_BKSE.shape[0] * keys_BKSE.shape[2] != N,
        )
        return y_BNTE.transpose(1, 2).reshape(R, N * E)


Cache = BagCache | DenseCache


@functools.cache
def bags_are_fast() -> bool:
    """Whether this processor has the vector code that weighted sums of rows run by."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
