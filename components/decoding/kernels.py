"""Matrix products for few rows, and the element-wise pieces that a layer needs around them.

Decoding reads every weight for a handful of rows. A small float32 weight is best left to torch.mm, whose cost is
the call; a large one, and any bfloat16 one, to oneDNN with the weight packed in advance, which streams it at about
twice the rate of F.linear. The packing operators are internal to torch: they are tried and compared at first use.

Shape suffixes: R rows (sequence times position), I input width, O output width, N attention heads, E width of one,
C pairs of it.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_ROWS = {torch.bfloat16: 4, torch.float32: 6}
"""On a processor fewer rows are padded to this many, with which packed products stream fastest: on one with AVX-512
(Zen 4) and two threads one row of bfloat16 at 23 GB/s of weights and four at 26, one of float32 at 15 to 19 and six at
22 to 24."""
NARROW = 384
"""Up to this width the layers of float32 models lie in the processor's caches, and padding costs what it saves."""
# Rows the packed layout is chosen for. It serves 1 to 64 rows alike; a hint of 1 would choose one that does not.
_ROWS_HINT = 16
# Weights of a float32 matrix up to which torch.mm is the faster, for several rows and, on one thread, for a single
# one. Measured on an AVX-512 processor (Zen 4, 1 MB of L2 a core).
_MM_FASTER_UP_TO, _MM_FASTER_FOR_ONE_ROW_UP_TO = 120_000, 800_000
# Rows of a row-invariant product at once: at so many a product is bound by arithmetic, so more gain nothing.
BLOCK = 64


class PlainMatrix:
    """x_RI -> x_RI W^T by torch.mm."""

    def __init__(self, weight_OI: Tensor) -> None:
        self.weight_IO = weight_OI.t().contiguous()

    def __call__(self, x_RI: Tensor) -> Tensor:
        return torch.mm(x_RI, self.weight_IO)

    def plus(self, x_RI: Tensor, residual_RO: Tensor) -> Tensor:
        """x W^T + residual"""
        return torch.addmm(residual_RO, x_RI, self.weight_IO)


class PackedMatrix:
    """The same with the weight in oneDNN's own layout. (Its fused additions are no faster than separate ones.)"""

    def __init__(self, weight_OI: Tensor) -> None:
        ops: Any = torch.ops.mkldnn
        self.weight = ops._reorder_linear_weight(weight_OI.contiguous(), _ROWS_HINT)
        self._product: Callable[..., Tensor] = ops._linear_pointwise.default

    def __call__(self, x_RI: Tensor) -> Tensor:
        return self._product(x_RI, self.weight, None, "none", [], "")

    def plus(self, x_RI: Tensor, residual_RO: Tensor) -> Tensor:
        return self(x_RI).add_(residual_RO)


class MixedMatrix:
    """Plain for few rows on one thread, packed for more of either: a second thread helps only the packed form."""

    def __init__(self, weight_OI: Tensor) -> None:
        self._one, self._more = PlainMatrix(weight_OI), PackedMatrix(weight_OI)

    def __call__(self, x_RI: Tensor) -> Tensor:
        return self._suited(x_RI)(x_RI)

    def plus(self, x_RI: Tensor, residual_RO: Tensor) -> Tensor:
        return self._suited(x_RI).plus(x_RI, residual_RO)

    def _suited(self, x_RI: Tensor) -> PlainMatrix | PackedMatrix:
        return self._one if x_RI.shape[0] == 1 and torch.get_num_threads() == 1 else self._more


class NotInvariant(Exception):
    """A product whose rows come out differently beside other rows, whatever their number."""


class RowInvariantMatrix:
    """A product that gives a row the same bits whatever rows stand beside it, however many.

    Libraries choose their code by the number of rows, and so, for some numbers, another order of summation. Which
    numbers agree with a full block is found by trying them (`_agreeing`); others are padded to the next that does,
    and more than a block are done block by block.
    """

    def __init__(self, inner: "PlainMatrix | PackedMatrix", weight: Tensor) -> None:
        self.inner = inner
        self._shape, self._dtype, self._device = tuple(weight.shape), weight.dtype, weight.device
        self._try()

    def _try(self) -> None:
        self._threads = torch.get_num_threads()
        self._padded = _padded_counts(self.inner, self._shape, self._dtype, self._device)

    def __call__(self, x_RI: Tensor) -> Tensor:
        if torch.get_num_threads() != self._threads:
            self._try()
        R = x_RI.shape[0]
        if R > BLOCK:
            return torch.cat([self(part) for part in torch.split(x_RI, BLOCK)])
        padded = self._padded[R]
        if padded == R:
            return self.inner(x_RI)
        return self.inner(F.pad(x_RI, (0, 0, 0, padded - R)))[:R]

    def plus(self, x_RI: Tensor, residual_RO: Tensor) -> Tensor:
        return self(x_RI).add_(residual_RO)


Matrix = PlainMatrix | PackedMatrix | MixedMatrix | RowInvariantMatrix

_known_counts: dict[tuple[object, ...], tuple[int, ...] | None] = {}


def _padded_counts(
    inner: PlainMatrix | PackedMatrix, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[int, ...]:
    """Entry R: the rows to compute for R, up to a block. Tried once per shape and number of threads. NotInvariant where
    none agree."""
    key = (type(inner), shape, dtype, device, torch.get_num_threads())
    if key not in _known_counts:
        _known_counts[key] = _agreeing(inner, shape[1], dtype, device)
    found = _known_counts[key]
    if found is None:
        raise NotInvariant(f"products of {shape} in {dtype} on {device}")
    return found


def _agreeing(
    inner: PlainMatrix | PackedMatrix, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[int, ...] | None:
    """Compare random rows in a block, on one thread, with the same rows at other places and in smaller numbers, on one
    thread and on all: two orders of summation agree in all of a block's random sums by chance alone, which does not
    happen."""
    generator = torch.Generator().manual_seed(0)
    x_RI = torch.randn((BLOCK, width), generator=generator).to(device, dtype)
    # all small numbers, and of large ones some: a matrix of 32,000 symbols takes milliseconds a time
    candidates = [R for R in range(4, BLOCK) if R <= 16 or R % 8 == 0]
    threads = torch.get_num_threads()
    agreeing = set(candidates)
    try:
        torch.set_num_threads(1)
        expected = inner(x_RI)
        for number in {1, threads}:
            torch.set_num_threads(number)
            places = inner(x_RI), inner(x_RI.roll(1, 0)).roll(-1, 0)
            if not all(torch.equal(found, expected) for found in places):
                return None
            for R in candidates:
                start = BLOCK - R  # others than the first rows, so that places differ as well
                if not torch.equal(inner(x_RI[start:]), expected[start:]):
                    agreeing.discard(R)
    finally:
        torch.set_num_threads(threads)
    agreeing.add(BLOCK)
    return tuple(min(count for count in agreeing if count >= R) for R in range(BLOCK + 1))


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether packed products exist here and agree with F.linear on a small example."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((96, 64), generator=generator).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    try:
        with torch.inference_mode():
            packed = PackedMatrix(weight)
            for rows in (1, 5):
                x = torch.randn((rows, 64), generator=generator).to(dtype)
                expected = torch.nn.functional.linear(x, weight)
                if not torch.allclose(packed(x), expected, atol=tolerance, rtol=tolerance / 10):
                    return False
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):  # another torch, another processor
        return False
    return True


def matrix(weight_OI: Tensor, row_invariant: bool = False) -> Matrix:
    """The fastest form of a weight for few rows on its device. The tensor itself need not be kept. NotInvariant where
    that is asked for and cannot be had."""
    packed = weight_OI.device.type == "cpu" and packing_works(weight_OI.dtype)
    if row_invariant:
        inner = PackedMatrix(weight_OI) if packed else PlainMatrix(weight_OI)
        return RowInvariantMatrix(inner, weight_OI)
    if not packed:
        return PlainMatrix(weight_OI)
    if weight_OI.dtype == torch.float32:
        if weight_OI.numel() <= _MM_FASTER_UP_TO:
            return PlainMatrix(weight_OI)
        if weight_OI.numel() <= _MM_FASTER_FOR_ONE_ROW_UP_TO:
            return MixedMatrix(weight_OI)
    return PackedMatrix(weight_OI)


def rms_divide(x: Tensor, sqrt_width_eps: Tensor) -> Tensor:
    """x / sqrt(|x|^2 + width * eps) over the last axis, computed in float32.

    Times sqrt(width) this is RMSNorm without its weight; both factors are folded into the matrix that follows.
    Three calls, where F.rms_norm on a CPU makes seven.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x / torch.hypot(length, sqrt_width_eps)).to(x.dtype)


def first_best(logits: Tensor) -> Tensor:
    """argmax over the last axis, the lowest index on a tie.

    On a processor by the largest of every 128 first, which runs by vector code: a fifth of torch.argmax's time.
    """
    V = logits.shape[-1]
    if V < 1024 or logits.device.type != "cpu":
        return logits.argmax(-1)
    whole = V // 128 * 128
    blocks = logits[..., :whole].reshape(*logits.shape[:-1], -1, 128)
    peaks = blocks.amax(-1)
    block = peaks.argmax(-1, keepdim=True)
    inside = blocks.gather(-2, block[..., None].expand(*block.shape, 128))[..., 0, :].argmax(-1)
    found: Tensor = block[..., 0] * 128 + inside
    if whole == V:
        return found
    last, place = logits[..., whole:].max(-1)
    return torch.where(last > peaks.gather(-1, block)[..., 0], whole + place, found)


def turn(x_RNE: Tensor, angles_RNC: Tensor, dtype: torch.dtype) -> Tensor:
    """Rotary positions as one complex product; pairs (2j, 2j + 1) of the last axis are the complex numbers."""
    R, N, E = x_RNE.shape
    pairs = x_RNE.float().view(R, N, E // 2, 2)
    return torch.view_as_real(torch.view_as_complex(pairs) * angles_RNC).view(R, N, E).to(dtype)
