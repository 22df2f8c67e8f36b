"""Matrix products for few rows, and the two element-wise pieces that a layer needs around them.

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
from torch import Tensor

# Rows the packed layout is chosen for. It serves 1 to 64 rows alike; a hint of 1 would choose one that does not.
_ROWS_HINT = 4
# Weights of a float32 matrix up to which torch.mm is the faster, for several rows and, on one thread, for a single
# one. Measured on an AVX-512 processor (Zen 4, 1 MB of L2 a core).
_MM_FASTER_UP_TO, _MM_FASTER_FOR_ONE_ROW_UP_TO = 120_000, 800_000


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
    """Plain for one row on one thread, packed for more of either: a second thread helps only the packed form."""

    def __init__(self, weight_OI: Tensor) -> None:
        self._one, self._more = PlainMatrix(weight_OI), PackedMatrix(weight_OI)

    def __call__(self, x_RI: Tensor) -> Tensor:
        return self._suited(x_RI)(x_RI)

    def plus(self, x_RI: Tensor, residual_RO: Tensor) -> Tensor:
        return self._suited(x_RI).plus(x_RI, residual_RO)

    def _suited(self, x_RI: Tensor) -> PlainMatrix | PackedMatrix:
        return self._one if x_RI.shape[0] == 1 and torch.get_num_threads() == 1 else self._more


Matrix = PlainMatrix | PackedMatrix | MixedMatrix


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


def matrix(weight_OI: Tensor) -> Matrix:
    """The fastest form of a weight for few rows on its device. The tensor itself need not be kept."""
    if weight_OI.device.type != "cpu" or not packing_works(weight_OI.dtype):
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


def turn(x_RNE: Tensor, angles_RNC: Tensor, dtype: torch.dtype) -> Tensor:
    """Rotary positions as one complex product; pairs (2j, 2j + 1) of the last axis are the complex numbers."""
    R, N, E = x_RNE.shape
    pairs = x_RNE.float().view(R, N, E // 2, 2)
    return torch.view_as_real(torch.view_as_complex(pairs) * angles_RNC).view(R, N, E).to(dtype)
