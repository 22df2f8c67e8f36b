"""The multi-token loss in the paper's memory order (section 2, equation 2 and Figure 2).

The loss is the plain sum over prediction heads of the mean cross entropy; head i (from 0) predicts the token
i + 1 ahead. Trunk forward; then head by head forward, loss and backward into a detached copy of the trunk's
output; then one backward through the trunk. Logits exist for one head and one chunk of positions at a time, so
their memory is C x V instead of K x B x T x V.

Shape suffixes: B batch, T positions, N = B x T, C positions of one chunk, D model width, V vocabulary,
K prediction heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.model.transformer import MultiTokenTransformer

IGNORE = -100
"""Target of a position that does not count."""


class HeadSums(NamedTuple):
    """Raw sums per head, float64, so that micro-batches and workers add up to the right means."""

    loss_K: Tensor
    """Cross entropy in nats, summed over counted targets."""
    correct_K: Tensor
    """Counted targets that no other symbol beats: the head's first choice, ties included."""
    count_K: Tensor
    """Counted targets."""


def window_targets(window_BS: Tensor, n_future_tokens: int) -> tuple[Tensor, Tensor]:
    """Split windows of T + n tokens into tokens_BT and targets_KBT; every position has all its targets."""
    T = window_BS.shape[1] - n_future_tokens
    targets = [window_BS[:, i + 1 : i + 1 + T] for i in range(n_future_tokens)]
    return window_BS[:, :T], torch.stack(targets)


def multi_token_backward(
    model: MultiTokenTransformer,
    tokens_BT: Tensor,
    targets_KBT: Tensor,
    scale_K: Tensor,
    chunk_tokens: int | None = None,
) -> HeadSums:
    """Add the gradient of sum_i scale_i * (summed cross entropy of head i) to the parameters' `.grad`.

    `scale_K` is one over the targets that count in the whole step, so that calls on parts of a batch add up to
    the gradient of equation 2. Targets equal to IGNORE do not count. Run it inside `torch.autocast` for bfloat16.
    `chunk_tokens` is how many positions have logits at a time; None: as many as suit the device.
    """
    chunk_tokens = chunk_tokens or (512 if tokens_BT.is_cpu else 4096)  # on a CPU what stays in its cache
    rotary = model.rotary(tokens_BT.shape[1], tokens_BT.device)
    z_BTD = model.forward_trunk(tokens_BT, rotary)
    detached_BTD = z_BTD.detach().requires_grad_()
    sums = []
    for i, targets_BT in enumerate(targets_KBT):
        h_BTD = model.forward_head(i, detached_BTD, rotary)
        gradient_BTD, head_sums = _unembed_backward(
            model.head_unembedding(i), h_BTD.detach(), targets_BT, scale_K[i], chunk_tokens
        )
        h_BTD.backward(gradient_BTD)  # type: ignore[no-untyped-call]
        sums.append(head_sums)
    z_BTD.backward(detached_BTD.grad)  # type: ignore[no-untyped-call]
    return HeadSums(*torch.stack(sums, dim=1))


@torch.no_grad()
def _unembed_backward(
    unembedding: nn.Linear, h_BTD: Tensor, targets_BT: Tensor, scale: Tensor, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Gradient with respect to `h_BTD`, and (loss, correct, count); adds to the unembedding's gradient.

    By hand, since the gradient of the cross entropy with respect to the logits, softmax minus one at the target,
    falls off while the loss is computed and can take the logits' place in memory.
    """
    device = h_BTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h_BTD.dtype
    exact = torch.promote_types(dtype, torch.float32)
    minus_one = torch.tensor(-1.0, dtype=exact, device=h_BTD.device)
    weight_VD, h_ND, targets_N = unembedding.weight.to(dtype), h_BTD.flatten(0, 1).to(dtype), targets_BT.flatten()
    gradient_VD, gradient_ND = gradient_of(unembedding.weight), torch.empty_like(h_ND)
    sums = torch.zeros(3, dtype=torch.float64, device=h_BTD.device)
    for start in range(0, len(h_ND), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        h_CD, targets_C = h_ND[chunk], targets_N[chunk]
        counts_C = targets_C != IGNORE
        index_C1 = targets_C.clamp(min=0)[:, None]
        logits_CV = (h_CD @ weight_VD.T).to(exact)
        best_C, target_C = logits_CV.amax(-1), logits_CV.gather(1, index_C1)[:, 0]
        gradient_CV = logits_CV.softmax(-1)
        log_p_C = target_C - best_C + gradient_CV.amax(-1).log()  # the largest probability never underflows
        correct_C = counts_C & (target_C == best_C)
        sums += torch.stack((-log_p_C.double() @ counts_C.double(), correct_C.sum(), counts_C.sum()))
        gradient_CV.scatter_add_(1, index_C1, minus_one.expand_as(index_C1))
        gradient_CV = gradient_CV.mul_((counts_C * scale).to(exact)[:, None]).to(dtype)
        gradient_ND[chunk] = gradient_CV @ weight_VD
        gradient_VD += gradient_CV.T @ h_CD
    return gradient_ND.view_as(h_BTD), sums


def gradient_of(parameter: Tensor) -> Tensor:
    """The parameter's gradient, to be added to; zeros if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
