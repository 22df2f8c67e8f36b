"""The multi-token loss in the paper's memory order (section 2, equation 2 and Figure 2; for causal heads Figure S11).

The loss is the sum over prediction heads of the mean cross entropy, each head's weight (1 in the paper) before it; head
i (from 0) predicts the token i + 1 ahead. Trunk forward; then head by head forward, loss and backward into a detached
copy of the trunk's output; then one backward through the trunk. Heads that stand one upon another go forward together
and come back from the outermost inwards. Logits exist for one head and one chunk of positions at a time, so their
memory is C x V instead of K x B x T x V.

Layers are differentiated by autograd. Embedding and unembeddings, the tables, are done by hand: their gradients add up
where they are kept, without a copy of the table on the way.

Shape suffixes: B batch, T positions, N = B x T, C positions of one chunk, D model width, V vocabulary,
K prediction heads that count.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import MultiTokenTransformer
from components.training.cross_entropy import cross_entropy_gradient
from components.training.placement import Placement, Tables
from components.training.trace import part

CHUNK_TOKENS = {"cpu": 512, "cuda": 8192}
"""Positions with logits at a time: on a CPU what stays in its cache; on a GPU so many that products run at full speed,
half a gigabyte of bfloat16 at a vocabulary of 32,000."""


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


def product_dtype(tokens: Tensor, default: torch.dtype) -> torch.dtype:
    """The precision of matrix products on the tokens' device: autocast's where it is on."""
    device = tokens.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else default


def multi_token_backward(
    model: MultiTokenTransformer,
    tokens_BT: Tensor,
    targets_KBT: Tensor,
    scale_K: Tensor,
    chunk_tokens: int | None = None,
    placement: Placement | None = None,
) -> HeadSums:
    """Add the gradient of sum_i scale_i * (summed cross entropy of head i) to the parameters' gradients.

    `targets_KBT` has the targets of the first K heads; further ones are left out. `scale_K` is a head's weight over
    the targets that count in the whole step, so that calls on parts of a batch add up to the gradient of equation 2.
    Targets equal to IGNORE do not count. Run it inside `torch.autocast` for bfloat16.
    `chunk_tokens` is how many positions have logits at a time; None: as many as suit the device. `placement` says where
    the tables are and is told how far the backward pass has come; None: the model has everything itself.
    """
    K, chunk_tokens = len(targets_KBT), chunk_tokens or CHUNK_TOKENS.get(tokens_BT.device.type, 4096)
    tables = placement.tables if placement else Tables.of(model, product_dtype(tokens_BT, model.norm.weight.dtype))
    rotary = model.rotary(tokens_BT.shape[1], tokens_BT.device)
    x_BTD = F.embedding(tokens_BT, tables.embedding_VD)
    x_BTD = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32)).requires_grad_()
    with part("trunk forward"):
        z_BTD = model.forward_trunk(x_BTD, rotary)
    outputs: dict[int | None, Tensor] = {None: z_BTD}
    leaves: dict[int | None, Tensor] = {None: z_BTD.detach().requires_grad_()}
    sums: dict[int, Tensor] = {}

    def head_forward(i: int) -> None:
        outputs[i] = model.forward_head(i, leaves[model.head_below(i)], rotary)
        leaves[i] = outputs[i].detach().requires_grad_()

    def head_backward(i: int) -> None:
        leaf_BTD = leaves.pop(i)
        if placement:
            placement.before_head(i)
        if i < K:
            h_BTD = model.norm(leaf_BTD)
            own = i if len(tables.unembeddings) > 1 else 0
            with part("unembedding"):
                gradient_BTD, sums[i] = _unembed_backward(
                    h_BTD.detach(), targets_KBT[i], scale_K[i], tables, own, chunk_tokens
                )
            torch.autograd.backward(h_BTD, gradient_BTD)
        torch.autograd.backward(outputs.pop(i), leaf_BTD.grad)
        if placement:
            placement.head_done(i)

    if chain := model.config.chain[: model.config.head_layers_run(K)]:
        for i in chain:
            with part(f"head {i + 1}"):
                head_forward(i)
        for i in reversed(chain):
            with part(f"head {i + 1}"):
                head_backward(i)
    else:
        for i in range(K):
            with part(f"head {i + 1}"):
                head_forward(i)
                head_backward(i)
    if placement:
        placement.before_trunk()
    with part("trunk backward"):
        torch.autograd.backward(z_BTD, leaves[None].grad)
    add_rows(tables.embedding_gradient_VD, tokens_BT, x_BTD.grad)
    return HeadSums(*torch.stack([sums[i] for i in range(K)], dim=1))


@torch.no_grad()
def _unembed_backward(
    h_BTD: Tensor, targets_BT: Tensor, scale: Tensor, tables: Tables, table: int, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Gradient with respect to `h_BTD`, and (loss, correct, count); adds to the unembedding's gradient."""
    weight_VD, gradient_VD = tables.unembeddings[table], tables.unembedding_gradients[table]
    h_ND, targets_N = h_BTD.flatten(0, 1).to(weight_VD.dtype), targets_BT.flatten()
    gradient_ND = torch.empty_like(h_ND)
    sums = torch.zeros(3, dtype=torch.float64, device=h_BTD.device)
    chunks = -(-len(h_ND) // chunk_tokens)
    for h_CD, targets_C, out_CD in zip(
        h_ND.tensor_split(chunks), targets_N.tensor_split(chunks), gradient_ND.tensor_split(chunks), strict=True
    ):
        logits_CV = h_CD @ weight_VD.T
        gradient_CV, sums_of_chunk = cross_entropy_gradient(logits_CV, targets_C, scale, tables.compiled)
        del logits_CV
        torch.mm(gradient_CV, weight_VD, out=out_CD)
        add_product(gradient_VD, gradient_CV.T, h_CD)
        sums += sums_of_chunk
        del gradient_CV  # the next chunk's logits can have its memory
    return gradient_ND.view_as(h_BTD), sums


def add_product(sum_MN: Tensor, a_MC: Tensor, b_CN: Tensor) -> None:
    """sum += a b, the sum in float32 whatever the factors' precision."""
    if sum_MN.is_cuda and a_MC.dtype != sum_MN.dtype:
        torch.addmm(sum_MN, a_MC, b_CN, out_dtype=sum_MN.dtype, out=sum_MN)
    else:
        sum_MN += a_MC @ b_CN


@torch.no_grad()
def add_rows(gradient_VD: Tensor, tokens_BT: Tensor, rows_BTD: Tensor | None) -> None:
    """Add to the embedding's gradient what its rows got; the same bits every time, on a GPU too."""
    assert rows_BTD is not None
    rows_ND, tokens_N = rows_BTD.flatten(0, 1).to(gradient_VD.dtype), tokens_BT.flatten()
    if gradient_VD.is_cpu:
        gradient_VD.index_add_(0, tokens_N, rows_ND)
    else:  # atomic additions would come in any order
        gradient_VD.index_put_((tokens_N,), rows_ND, accumulate=True)
