"""Cross entropy and its gradient with respect to the logits, in one go, in the form that suits the device.

Shape suffixes: C positions of one chunk, V vocabulary.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

IGNORE = -100
"""Target of a position that does not count."""


def cross_entropy_gradient(
    logits_CV: Tensor, targets_C: Tensor, scale: Tensor, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """The gradient of `scale` times the summed cross entropy with respect to the logits, in their precision, and the
    unscaled (loss, correct, count). The gradient may take the memory of the logits.

    By hand, since the gradient, softmax minus one at the target, falls off while the loss is computed. On a GPU one
    kernel does it where Triton works; elsewhere it is compiled if `compiled`.
    """
    if logits_CV.is_cuda and logits_CV.dtype != torch.float64 and (kernel := _kernel()):
        return kernel(logits_CV, targets_C, scale, IGNORE)
    return (_compiled() if compiled else composed)(logits_CV, targets_C, scale)


def composed(logits_CV: Tensor, targets_C: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """`cross_entropy_gradient` of torch's operations, which a compiler fuses into one or two passes over the logits."""
    exact = torch.promote_types(logits_CV.dtype, torch.float32)
    counts_C = targets_C != IGNORE
    scale_C, index_C1 = (counts_C * scale).to(exact), targets_C.clamp(min=0)[:, None]
    best_C, target_C = logits_CV.amax(-1).to(exact), logits_CV.gather(1, index_C1)[:, 0].to(exact)
    p_CV = logits_CV.to(exact).softmax(-1)
    log_p_C = target_C - best_C + p_CV.amax(-1).log()  # the largest probability never underflows
    at_target_C1 = torch.expm1(log_p_C).mul(scale_C).to(logits_CV.dtype)[:, None]
    correct_C = counts_C & (target_C == best_C)
    sums = torch.stack((-log_p_C.double() @ counts_C.double(), correct_C.sum(), counts_C.sum()))
    return p_CV.mul_(scale_C[:, None]).to(logits_CV.dtype).scatter_(1, index_C1, at_target_C1), sums


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(composed, dynamic=False)


@functools.cache
def _kernel() -> Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]] | None:
    """The kernel, once it has run; torch brings Triton along on most systems with GPUs, but no C compiler."""
    try:
        from components.training.cross_entropy_kernel import in_place

        logits, target = torch.zeros(1, 2, device="cuda"), torch.zeros(1, dtype=torch.long, device="cuda")
        in_place(logits, target, torch.ones((), dtype=torch.float64, device="cuda"), IGNORE)
    except (ImportError, RuntimeError) as error:
        warnings.warn(f"a slower cross entropy that takes more memory stands in for the kernel: {error}", stacklevel=2)
        return None
    return in_place
