"""Held-out text looked at while training: the loss of every head and the run of its drafts that would be accepted, so
that curves over training (paper Figures 5 and S12) come out of any run.

Shape suffixes: W windows, B windows of one pass, T positions, N = B x T, C positions of one chunk, D model width,
V vocabulary, K prediction heads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.acceptance import accepted_runs, step_histogram, tokens_per_forward_of
from components.model.transformer import MultiTokenTransformer
from components.training.config import TrainingConfig
from components.training.loss import CHUNK_TOKENS, window_targets
from components.training.parallel import rank_and_workers, sum_over_workers
from components.training.placement import Placement


@dataclass(frozen=True)
class HeldOut:
    """Windows of context + n tokens that training does not see, the same on every worker."""

    windows_WS: Tensor
    sequences: int
    """Windows taken through the model at a time."""


@torch.no_grad()
def look(
    model: MultiTokenTransformer, placement: Placement, heldout: HeldOut, config: TrainingConfig
) -> dict[str, float]:
    """One line of metrics: `heldout/loss/head_i` in nats and `heldout/top1/head_i` (heads count from 1), and
    `heldout/tokens_per_forward` with all heads under teacher forcing (`model.acceptance`).

    All workers call it together; each takes its share of the windows, those beyond the last being given no weight.
    Attention is the fused kernel's, as in evaluation: in bfloat16 on a CPU training's own rounds otherwise.
    """
    K, device = model.config.n_future_tokens, model.norm.weight.device
    rank, workers = rank_and_workers()
    share = -(-len(heldout.windows_WS) // workers)
    sums_K3 = torch.zeros(K, 3, dtype=torch.float64, device=device)
    histogram_K = torch.zeros(K, dtype=torch.float64, device=device)
    placement.begin_step(K)
    for start in range(rank * share, (rank + 1) * share, heldout.sequences):
        wanted = torch.arange(start, min(start + heldout.sequences, (rank + 1) * share))
        there = wanted < len(heldout.windows_WS)
        window_BS = heldout.windows_WS[wanted.clamp(max=len(heldout.windows_WS) - 1)].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            choices_KBT = _score(model, placement, window_BS, there.to(device), sums_K3)
        for choices_KT in choices_KBT[:, there].unbind(1):
            runs = accepted_runs(choices_KT).tolist()
            histogram_K += torch.tensor(step_histogram(runs, K), dtype=torch.float64, device=device)
    placement.end_look()
    sum_over_workers(sums_K3)
    values = {"heldout/tokens_per_forward": tokens_per_forward_of(sum_over_workers(histogram_K).tolist())}
    for i, (loss, correct, count) in enumerate(sums_K3.tolist()):
        values |= {f"heldout/loss/head_{i + 1}": loss / count, f"heldout/top1/head_{i + 1}": correct / count}
    return values


def _score(
    model: MultiTokenTransformer, placement: Placement, window_BS: Tensor, there_B: Tensor, sums_K3: Tensor
) -> Tensor:
    """First choices of every head, choices_KBT; adds (loss, correct, count) of the windows that are there."""
    tables = placement.tables
    tokens_BT, targets_KBT = window_targets(window_BS, model.config.n_future_tokens)
    rotary = model.rotary(tokens_BT.shape[1], tokens_BT.device)
    x_BTD = F.embedding(tokens_BT, tables.embedding_VD).float()
    z_BTD = model.forward_trunk(x_BTD, rotary)
    choices_KBT = torch.empty_like(targets_KBT)
    counts_N = there_B[:, None].expand_as(tokens_BT).flatten()
    for i, h_BTD in enumerate(model.forward_heads(z_BTD, rotary, len(targets_KBT))):
        weight_VD = tables.unembeddings[i if len(tables.unembeddings) > 1 else 0]
        h_ND, choices_N = h_BTD.flatten(0, 1).to(weight_VD.dtype), choices_KBT[i].view(-1)
        rows = CHUNK_TOKENS.get(h_ND.device.type, 4096)
        for start in range(0, len(h_ND), rows):
            chunk = slice(start, start + rows)
            logits_CV = (h_ND[chunk] @ weight_VD.T).float()
            target_C, counts_C = targets_KBT[i].flatten()[chunk], counts_N[chunk].double()
            choices_N[chunk] = logits_CV.argmax(-1)
            loss_C = F.cross_entropy(logits_CV, target_C, reduction="none").double()
            correct_C = (choices_N[chunk] == target_C).double()
            sums_K3[i] += torch.stack((loss_C @ counts_C, correct_C @ counts_C, counts_C.sum()))
    return choices_KBT
