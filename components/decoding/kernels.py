"""Matrix products for few rows: a weight is packed once for oneDNN where that works, else left to F.linear.

Decoding reads every weight for a handful of rows, so it is bound by memory and by calls. The packed form streams
weights at twice the rate of F.linear here and takes a residual, a product or the SwiGLU gate into the same call.
Both operators are internal to torch, hence the trial in `packing_works` and the plain form beside it.

Shape suffixes: R rows (sequence times position), I input width, O output width.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows the packed layout is chosen for. It serves 1 to 64 rows alike; a hint of 1 would choose one that does not.
_ROWS_HINT = 4


class PlainMatrix:
    """x_RI -> x_RI W^T, with what can follow it."""

    packed = False

    def __init__(self, weight_OI: Tensor) -> None:
        self.weight = weight_OI.contiguous()

    def __call__(self, x_RI: Tensor) -> Tensor:
        return F.linear(x_RI, self.weight)

    def plus(self, x_RI: Tensor, residual_RO: Tensor) -> Tensor:
        """x W^T + residual"""
        return self(x_RI).add_(residual_RO)

    def times(self, x_RI: Tensor, other_RO: Tensor) -> Tensor:
        """x W^T * other"""
        return self(x_RI).mul_(other_RO)

    def silu(self, x_RI: Tensor) -> Tensor:
        """silu(x W^T)"""
        return F.silu(self(x_RI), inplace=True)


class PackedMatrix(PlainMatrix):
    """The same with the weight in oneDNN's own layout and the operation after it fused."""

    packed = True

    def __init__(self, weight_OI: Tensor) -> None:
        ops: Any = torch.ops.mkldnn
        self.weight = ops._reorder_linear_weight(weight_OI.contiguous(), _ROWS_HINT)
        self._product: Callable[..., Tensor] = ops._linear_pointwise.default
        self._with_other: Callable[..., Tensor] = ops._linear_pointwise.binary

    def __call__(self, x_RI: Tensor) -> Tensor:
        return self._product(x_RI, self.weight, None, "none", [], "")

    def plus(self, x_RI: Tensor, residual_RO: Tensor) -> Tensor:
        return self._with_other(x_RI, residual_RO, self.weight, None, "add")

    def times(self, x_RI: Tensor, other_RO: Tensor) -> Tensor:
        return self._with_other(x_RI, other_RO, self.weight, None, "mul")

    def silu(self, x_RI: Tensor) -> Tensor:
        return self._product(x_RI, self.weight, None, "swish", [], "")


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether packed products exist here and agree with F.linear on a small example."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    weight, other = (torch.randn(shape, generator=generator).to(dtype) for shape in ((96, 64), (5, 96)))
    tolerance = 1e-4 if dtype == torch.float32 else 0.3
    try:
        with torch.inference_mode():
            plain, packed = PlainMatrix(weight), PackedMatrix(weight)
            for rows in (1, 5):
                x = torch.randn((rows, 64), generator=generator).to(dtype)
                pairs = [
                    (packed(x), plain(x)),
                    (packed.plus(x, other[:rows]), plain.plus(x, other[:rows])),
                    (packed.times(x, other[:rows]), plain.times(x, other[:rows])),
                    (packed.silu(x), plain.silu(x)),
                ]
                if not all(torch.allclose(a, b, atol=tolerance, rtol=tolerance / 10) for a, b in pairs):
                    return False
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):  # other torch, other processor
        return False
    return True


def matrix(weight_OI: Tensor) -> PlainMatrix:
    """The fastest form of a weight for few rows on its device. The tensor itself need not be kept."""
    packs = weight_OI.device.type == "cpu" and packing_works(weight_OI.dtype)
    return PackedMatrix(weight_OI) if packs else PlainMatrix(weight_OI)


def rms_divide(x: Tensor, sqrt_width_eps: Tensor) -> Tensor:
    """x / sqrt(|x|^2 + width * eps) over the last axis, computed in float32.

    Times sqrt(width) this is RMSNorm without its weight; both factors are folded into the matrix that follows.
    Three calls, where F.rms_norm on a CPU makes seven.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x / torch.hypot(length, sqrt_width_eps)).to(x.dtype)


def turn(x_RNE: Tensor, angles_RNC: Tensor, dtype: torch.dtype) -> Tensor:
    """Rotary positions as one complex product; pairs (2j, 2j + 1) of the last axis are the complex numbers."""
    pairs = x_RNE.float().view(*x_RNE.shape[:-1], -1, 2)
    turned = torch.view_as_real(torch.view_as_complex(pairs) * angles_RNC)
    return turned.view(x_RNE.shape).to(dtype)
