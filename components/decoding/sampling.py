"""Sampling with temperature, top-k and top-p, and the rule that keeps drafts from changing what is sampled.

A draft x with probability q(x) from its head is accepted with probability min(1, p(x) / q(x)), p being head 0's
distribution there; at the first one refused the token is drawn from the rest, max(p - q, 0) scaled to 1, and after the
last one accepted from p (Leviathan et al. 2023, Chen et al. 2023). Every token then has distribution p, whatever q.
Rows at temperature 0 have all of p and q on the first choice, and the rule becomes greedy matching.

Random numbers are a function of (seed, index of the new token, purpose), so what a row draws does not depend on its
neighbours. A draft thrown away unseen leaves its number to the next one for that index, of which it says nothing.

Shape suffixes: B sequences, T positions verified, J drafts (T - 1), V vocabulary, R rows of either, M most likely
symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DRAFT, ACCEPT, CHOOSE = range(3)
"""What a random number is for."""
FEW = (128, 2048)
"""So many of the most likely symbols are looked at before all are sorted: on a processor sorting 32,000 takes as long
as a small model's pass, and of a trained model's distribution a few are mostly enough."""
BLOCK = 64
"""Symbols whose weights are summed before it is looked in which of them a draw falls."""
BELOW_ONE = 1 - 2.0**-52


@dataclass(frozen=True)
class Sampling:
    """How the tokens of a prompt are chosen."""

    temperature: float = 0.0
    """Divides the logits; 0: always the most likely token."""
    top_k: int = 0
    """Only the `top_k` most likely tokens; 0: all."""
    top_p: float = 1.0
    """Only the most likely tokens that together reach this probability (at least one), among those `top_k` leaves."""
    seed: int = 0
    """Fixes what is drawn, for this prompt alone."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)!r}; it must be a whole number"
            for name in ("top_k", "seed")
            if not hasattr(getattr(self, name), "__index__")
        ]
        if faults:
            raise ValueError("\n".join(faults))
        if not 0 <= self.temperature < float("inf"):
            faults.append(f"temperature is {self.temperature}; it must be 0 (greedy) or more, and finite")
        if not 0 <= self.top_k < 1 << 63:
            faults.append(f"top_k is {self.top_k}; it must be 0 (all) or more, and fit 64 bits")
        if not 0 < self.top_p <= 1:
            faults.append(f"top_p is {self.top_p}; it must be above 0 and at most 1 (all)")
        if not -(1 << 63) <= self.seed < 1 << 63:
            faults.append(f"seed is {self.seed}; it must fit 64 bits")
        if faults:
            raise ValueError("\n".join(faults))


@dataclass(frozen=True)
class Samplers:
    """`Sampling` of several rows as tensors."""

    temperature_B: Tensor
    top_k_B: Tensor
    top_p_B: Tensor
    seed_B: Tensor
    cuts: bool
    """Whether any of the rows, or of those that may come, uses top-k or top-p: known without asking the device."""
    greedy: bool
    """The same of temperature 0."""

    @classmethod
    def of(
        cls, rows: Sequence[Sampling], device: torch.device, to_come: Sequence[Sampling] | None = None
    ) -> "Samplers":
        """to_come: all rows that there will be; those of now, if they are not among them, are never looked at."""
        every = rows if to_come is None else to_come
        # as float32 has it: the smallest temperatures are 0 there
        temperatures = torch.tensor([row.temperature for row in every], dtype=torch.float32, device="cpu")
        return cls(
            torch.tensor([row.temperature for row in rows], dtype=torch.float32, device=device),
            torch.tensor([row.top_k for row in rows], dtype=torch.long, device=device),
            torch.tensor([row.top_p for row in rows], dtype=torch.float32, device=device),
            torch.tensor([row.seed for row in rows], dtype=torch.long, device=device),
            any(row.top_k > 0 or row.top_p < 1 for row in every),
            bool((temperatures == 0).any()),
        )

    def joined(self, others: "Samplers") -> "Samplers":
        parts = zip(self._parts(), others._parts(), strict=True)
        temperature_B, top_k_B, top_p_B, seed_B = (torch.cat(pair) for pair in parts)
        cuts, greedy = self.cuts or others.cuts, self.greedy or others.greedy
        return Samplers(temperature_B, top_k_B, top_p_B, seed_B, cuts, greedy)

    def kept(self, rows: Tensor) -> "Samplers":
        temperature_B, top_k_B, top_p_B, seed_B = (part[rows] for part in self._parts())
        return Samplers(temperature_B, top_k_B, top_p_B, seed_B, self.cuts, self.greedy)

    def put(self, row: int, others: "Samplers") -> None:
        """Give a row the only one of others, in place."""
        for part, other in zip(self._parts(), others._parts(), strict=True):
            part[row] = other[0]

    def _parts(self) -> tuple[Tensor, ...]:
        return self.temperature_B, self.top_k_B, self.top_p_B, self.seed_B

    def probabilities(self, logits_BTV: Tensor) -> Tensor:
        """The distributions that tokens are drawn from, float32; all on the first choice at temperature 0."""
        logits_BTV = logits_BTV.float()
        greedy_B11 = (self.temperature_B == 0)[:, None, None]
        temperature_B11 = self.temperature_B[:, None, None].masked_fill(greedy_B11, 1.0)
        # from the largest down, so that no temperature is too small to divide by
        p_BTV = (logits_BTV - logits_BTV.amax(-1, keepdim=True)).div_(temperature_B11).softmax(-1)
        if self.cuts:
            p_BTV = self._cut(p_BTV)
        if self.greedy:
            best_BT1 = logits_BTV.argmax(-1, keepdim=True)
            p_BTV = torch.where(greedy_B11, torch.zeros_like(p_BTV).scatter_(-1, best_BT1, 1.0), p_BTV)
        return p_BTV

    def _cut(self, p_BTV: Tensor) -> Tensor:
        """Leave out what top-k and top-p leave out."""
        B, T, V = p_BTV.shape
        p_RV = p_BTV.reshape(B * T, V)
        top_k_R = self.top_k_B.masked_fill(self.top_k_B == 0, V).repeat_interleave(T)
        top_p_R = self.top_p_B.repeat_interleave(T)
        cuts_R = (top_k_R < V) | (top_p_R < 1)
        if p_RV.device.type != "cpu":  # which rows need more is not known without asking the device
            return torch.where(cuts_R[:, None], _most_likely(p_RV, top_k_R, top_p_R, V)[0], p_RV).view(B, T, V)
        left_R = cuts_R.nonzero()[:, 0]
        for M in (*(M for M in FEW if M < V), V):
            if len(left_R):
                cut_RV, found_R = _most_likely(p_RV[left_R], top_k_R[left_R], top_p_R[left_R], M)
                p_RV[left_R[found_R]] = cut_RV[found_R]
                left_R = left_R[~found_R]
        return p_RV.view(B, T, V)

    def uniform(self, index_BT: Tensor, purpose: int) -> Tensor:
        """Numbers in [0, 1) for the new tokens of these indices, float64."""
        return uniform(self.seed_B[:, None], index_BT, purpose)


def uniform(seed: Tensor, index: Tensor, purpose: int) -> Tensor:
    """A number in [0, 1) with 53 bits for every (seed, index, purpose): two rounds of splitmix64's finaliser."""
    return (_mixed(_mixed(seed) + (index * 4 + purpose)) >> 11 & (1 << 53) - 1).double() * 2.0**-53


def _mixed(x: Tensor) -> Tensor:
    """splitmix64 (Steele et al. 2014) on int64, which wraps around."""
    x = x - 7046029254386353131
    x = (x ^ _shifted(x, 30)) * -4658895280553007687
    x = (x ^ _shifted(x, 27)) * -7723592293110705685
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Right shift that brings in zeros."""
    return x >> bits & (1 << 64 - bits) - 1


def _most_likely(p_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor, M: int) -> tuple[Tensor, Tensor]:
    """What top-k and top-p leave, scaled to 1, and in which rows the M most likely symbols, all that is looked at, were
    enough to tell."""
    V = p_RV.shape[1]
    top_RM, order_RM = p_RV.topk(M) if M < V else p_RV.sort(descending=True, stable=True)
    top_RM = top_RM.masked_fill(torch.arange(M, device=p_RV.device) >= top_k_R[:, None], 0.0)
    reached_RM = top_RM.cumsum(-1, dtype=torch.float64)
    total_R = torch.where(top_k_R < V, reached_RM[:, -1], p_RV.sum(-1, dtype=torch.float64))
    # a top_p of 1 keeps all, whatever rounding makes of the sum
    enough_R = torch.where(top_p_R < 1, top_p_R.double(), torch.inf) * total_R
    left_out_RM = reached_RM - top_RM >= enough_R[:, None]
    left_out_RM[:, 0] = False
    top_RM = top_RM.masked_fill(left_out_RM, 0.0)
    top_RM = top_RM / top_RM.sum(-1, keepdim=True)
    # of the `top_k` most likely the whole must be known first
    found_R = (top_k_R <= M) | ((top_k_R >= V) & (reached_RM[:, -1] >= enough_R))
    return torch.zeros_like(p_RV).scatter_(1, order_RM, top_RM), found_R | (M == V)


def draw(weights_V: Tensor, uniform: Tensor) -> Tensor:
    """The symbol at which the sum of the weights (any total) passes a share `uniform` of it, over the last axis."""
    blocks_KS = F.pad(weights_V, (0, -weights_V.shape[-1] % BLOCK))
    blocks_KS = blocks_KS.view(*weights_V.shape[:-1], -1, BLOCK)
    sums_K = blocks_KS.sum(-1, dtype=torch.float64)
    block_1, place_1 = _passes(sums_K, uniform[..., None] * sums_K.sum(-1, keepdim=True))
    inside_S = blocks_KS.gather(-2, block_1[..., None].expand(*block_1.shape, BLOCK))[..., 0, :]
    found_1 = block_1 * BLOCK + _passes(inside_S, place_1)[0]
    return found_1[..., 0].clamp_(max=weights_V.shape[-1] - 1)


def _passes(weights_V: Tensor, sum_1: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum of weights passes `sum`, which is below the whole but for rounding (never a symbol of no
    weight, unless all have none), and what `sum` is above what stands before that."""
    running_V = weights_V.cumsum(-1, dtype=torch.float64)
    sum_1 = torch.minimum(sum_1, running_V[..., -1:] * BELOW_ONE)
    found_1 = torch.searchsorted(running_V, sum_1, right=True).clamp_(max=weights_V.shape[-1] - 1)
    return found_1, sum_1 - running_V.gather(-1, (found_1 - 1).clamp_(min=0)).masked_fill(found_1 == 0, 0.0)


def accept(
    p_BTV: Tensor, q_BJV: Tensor, drafts_BJ: Tensor, accept_BJ: Tensor, choose_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """The number of drafts accepted, and the token drawn after them, per sequence.

    p: head 0's distributions before each draft and after the last, q: those that the drafts were drawn from;
    `accept_BJ`, `choose_BT`: random numbers in [0, 1).
    """
    (B, _, V), J = p_BTV.shape, q_BJV.shape[1]
    of_draft = (p_BTV[:, :-1].gather(-1, drafts_BJ[..., None]), q_BJV.gather(-1, drafts_BJ[..., None]))
    p_BJ, q_BJ = (values[..., 0].double() for values in of_draft)
    accepted_B = (accept_BJ * q_BJ < p_BJ).long().cumprod(1).sum(1)
    at = accepted_B[:, None, None].expand(B, 1, V)
    p_BV = p_BTV.gather(1, at)[:, 0]
    rest_BV = p_BV
    if J:
        q_BV = q_BJV.gather(1, at.clamp(max=J - 1))[:, 0]
        rest_BV = (p_BV - q_BV).clamp_(min=0)
        # after the last one accepted all is left; and rounding may leave nothing of a difference that is not quite zero
        whole_B1 = (accepted_B[:, None] == J) | (rest_BV.sum(-1, keepdim=True) == 0)
        rest_BV = torch.where(whole_B1, p_BV, rest_BV)
    return accepted_B, draw(rest_BV, choose_BT.gather(1, accepted_B[:, None])[:, 0])
