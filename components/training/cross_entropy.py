"""Cross entropy and its gradient with respect to the logits, in one go.

Shape suffixes: C positions of one chunk, V vocabulary.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

IGNORE = -100
"""Target of a position that does not count."""


def cross_entropy_gradient(logits_CV: Tensor, targets_C: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of `scale` times the summed cross entropy with respect to the logits, in their precision, and the
    unscaled (loss, correct, count).

    By hand, since the gradient, softmax minus one at the target, falls off while the loss is computed.
    """
    exact = torch.promote_types(logits_CV.dtype, torch.float32)
    counts_C = targets_C != IGNORE
    scale_C, index_C1 = (counts_C * scale).to(exact), targets_C.clamp(min=0)[:, None]
    best_C, target_C = logits_CV.amax(-1).to(exact), logits_CV.gather(1, index_C1)[:, 0].to(exact)
    p_CV = logits_CV.to(exact).softmax(-1)
    if torch.compiler.is_compiling() and logits_CV.is_cuda:  # saves a pass over them there, costs a slow one elsewhere
        p_best_C = p_CV.gather(1, logits_CV.max(-1, keepdim=True).indices)[:, 0]
    else:
        p_best_C = p_CV.amax(-1)
    log_p_C = target_C - best_C + p_best_C.log()  # the largest probability never underflows
    at_target_C1 = torch.expm1(log_p_C).mul(scale_C).to(logits_CV.dtype)[:, None]
    correct_C = counts_C & (target_C == best_C)
    sums = torch.stack((-log_p_C.double() @ counts_C.double(), correct_C.sum(), counts_C.sum()))
    return p_CV.mul_(scale_C[:, None]).to(logits_CV.dtype).scatter_(1, index_C1, at_target_C1), sums


@functools.cache
def compiled_cross_entropy_gradient() -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`cross_entropy_gradient` as one or two passes over the logits."""
    return torch.compile(cross_entropy_gradient, dynamic=False)
