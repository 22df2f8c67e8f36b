"""Sampling with temperature, top-k and top-p, and the rule that keeps drafts from changing what is sampled.

A draft x with probability q(x) from its head is accepted with probability min(1, p(x) / q(x)), p being head 0's
distribution there; at the first one refused the token is drawn from the rest, max(p - q, 0) scaled to 1, and after the
last one accepted from p (Leviathan et al. 2023, Chen et al. 2023). Every token then has distribution p, whatever q.
Rows at temperature 0 have all of p and q on the first choice, and the rule becomes greedy matching.

Random numbers are a function of (seed, index of the new token, purpose), so what a row draws does not depend on its
neighbours. A draft thrown away unseen leaves its number to the next one for that index, of which it says nothing.

Shape suffixes: B sequences, T positions verified, J drafts (T - 1), V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DRAFT, ACCEPT, CHOOSE = range(3)
"""What a random number is for."""


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
        faults = []
        if not 0 <= self.temperature < float("inf"):
            faults.append(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k < 0:
            faults.append(f"top_k is {self.top_k}; it must be 0 (all) or more")
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

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device, cuts: bool = False) -> "Samplers":
        """cuts: rows that come later will use top-k or top-p."""
        return cls(
            torch.tensor([row.temperature for row in rows], dtype=torch.float32, device=device),
            torch.tensor([row.top_k for row in rows], dtype=torch.long, device=device),
            torch.tensor([row.top_p for row in rows], dtype=torch.float32, device=device),
            torch.tensor([row.seed for row in rows], dtype=torch.long, device=device),
            cuts or any(row.top_k > 0 or row.top_p < 1 for row in rows),
        )

    def joined(self, others: "Samplers") -> "Samplers":
        parts = zip(self._parts(), others._parts(), strict=True)
        temperature_B, top_k_B, top_p_B, seed_B = (torch.cat(pair) for pair in parts)
        return Samplers(temperature_B, top_k_B, top_p_B, seed_B, self.cuts or others.cuts)

    def kept(self, rows: Tensor) -> "Samplers":
        temperature_B, top_k_B, top_p_B, seed_B = (part[rows] for part in self._parts())
        return Samplers(temperature_B, top_k_B, top_p_B, seed_B, self.cuts)

    def put(self, row: int, others: "Samplers") -> None:
        """Give a row the only one of others, in place."""
        for part, other in zip(self._parts(), others._parts(), strict=True):
            part[row] = other[0]

    def _parts(self) -> tuple[Tensor, ...]:
        return self.temperature_B, self.top_k_B, self.top_p_B, self.seed_B

    def probabilities(self, logits_BTV: Tensor) -> Tensor:
        """The distributions that tokens are drawn from, float32; all on the first choice at temperature 0."""
        logits_BTV = logits_BTV.float()
        best = logits_BTV.argmax(-1, keepdim=True)
        greedy_B11 = (self.temperature_B == 0)[:, None, None]
        temperature = torch.where(self.temperature_B == 0, 1.0, self.temperature_B)[:, None, None]
        # from the largest down, so that no temperature is too small to divide by
        p_BTV = ((logits_BTV - logits_BTV.amax(-1, keepdim=True)) / temperature).softmax(-1)
        if self.cuts:
            p_BTV = self._cut(p_BTV)
        return torch.where(greedy_B11, torch.zeros_like(p_BTV).scatter_(-1, best, 1.0), p_BTV)

    def _cut(self, p_BTV: Tensor) -> Tensor:
        """Leave out what top-k and top-p leave out."""
        sorted_BTV, order_BTV = p_BTV.sort(dim=-1, descending=True, stable=True)
        V = p_BTV.shape[-1]
        most = torch.where(self.top_k_B > 0, self.top_k_B, V)[:, None, None]
        sorted_BTV = sorted_BTV.masked_fill(torch.arange(V, device=p_BTV.device) >= most, 0.0)
        sorted_BTV = sorted_BTV / sorted_BTV.sum(-1, keepdim=True)
        before_BTV = sorted_BTV.cumsum(-1, dtype=torch.float64) - sorted_BTV
        # a top_p of 1 keeps all, whatever rounding makes of the sum
        limit = torch.where(self.top_p_B < 1, self.top_p_B, torch.inf)[:, None, None]
        kept = before_BTV < limit
        kept[..., 0] = True
        sorted_BTV = sorted_BTV.masked_fill(~kept, 0.0)
        p_BTV = torch.zeros_like(p_BTV).scatter_(-1, order_BTV, sorted_BTV)
        return p_BTV / p_BTV.sum(-1, keepdim=True)

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


def draw(weights_V: Tensor, uniform: Tensor) -> Tensor:
    """The symbol at which the sum of the weights (any total) passes a share `uniform` of it, over the last axis."""
    cumulative = weights_V.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(cumulative, uniform[..., None] * cumulative[..., -1:], right=True)
    return found[..., 0].clamp_(max=weights_V.shape[-1] - 1)


def accept(
    p_BTV: Tensor, q_BJV: Tensor, drafts_BJ: Tensor, accept_BJ: Tensor, choose_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """The number of drafts accepted, and the token drawn after them, per sequence.

    p: head 0's distributions before each draft and after the last, q: those that the drafts were drawn from;
    `accept_BJ`, `choose_BT`: random numbers in [0, 1).
    """
    B, _, V = p_BTV.shape
    of_draft = (p_BTV[:, :-1].gather(-1, drafts_BJ[..., None]), q_BJV.gather(-1, drafts_BJ[..., None]))
    p_BJ, q_BJ = (values[..., 0].double() for values in of_draft)
    accepted_B = (accept_BJ * q_BJ < p_BJ).long().cumprod(1).sum(1)
    at = accepted_B[:, None, None].expand(B, 1, V)
    p_BV = p_BTV.gather(1, at)[:, 0]
    q_BV = torch.cat((q_BJV, torch.zeros_like(p_BTV[:, :1])), 1).gather(1, at)[:, 0]
    rest_BV = (p_BV - q_BV).clamp_(min=0)
    # rounding may leave nothing of a difference that is not quite zero
    rest_BV = torch.where(rest_BV.sum(-1, keepdim=True) > 0, rest_BV, p_BV)
    return accepted_B, draw(rest_BV, choose_BT.gather(1, accepted_B[:, None])[:, 0])
