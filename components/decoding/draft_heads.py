"""What the prediction heads that draft (1 and above) see at the last token of each sequence, by arrangement.

`parallel`: all read the trunk's output. `causal`: a stack of layers upon head 0, each with a cache of its own.
`linear`: matrices on the trunk's output. `anticausal`: nothing to compute, as their states lie on the way to head 0.
(`replicated` heads are unembeddings, and stand in `network`.) All return the first J heads' states h_JQD, normed, for
the shared unembedding, at the rows Q that are asked about.

Shape suffixes as in `layer`, J drafting heads, Q rows asked about.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.decoding.cache import Cache, Pass
from components.decoding.kernels import matrix, rms_divide, turn
from components.decoding.layer import LayerWeights, Stack, angles, attention_weight, folded, gated, padded
from components.model.config import ModelConfig
from components.model.transformer import Layer

# Below this width the drafting heads' products run as one batched product, above it packed and one by one:
# measured for widths 256 and 768; small ones are bound by calls, large ones by memory.
_BATCHED_BELOW_DIM = 512


class DraftLayers:
    """Prediction heads 1.. side by side on the trunk's output: one norm, and attention of all in one call.

    Keys and values are made at all rows, queries and what follows at those asked about alone.
    """

    def __init__(
        self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype, row_invariant: bool
    ) -> None:
        self.config = config
        H, E = config.n_attention_heads, config.head_dim
        weights = [attention_weight(layer, config).to(dtype) for layer in layers]
        queries, keys_values = zip(*(w.split((H * E, 2 * config.kv_heads * E)) for w in weights), strict=True)
        self.batched = config.dim < _BATCHED_BELOW_DIM and not row_invariant
        if self.batched:
            rest = (
                [layer.attention.out.weight.to(dtype) for layer in layers],
                [(layer.ffn.gate_up.weight * folded(layer.ffn_norm.weight)).to(dtype) for layer in layers],
                [layer.ffn.down.weight.to(dtype) for layer in layers],
            )
            stacks = (torch.stack(parts).transpose(1, 2).contiguous() for parts in (queries, keys_values, *rest))
            self.queries_JDF, self.keys_values_JDF, self.out_JDD, self.gate_up_JDF, self.down_JFD = stacks
        else:
            self.queries = [matrix(weight, row_invariant) for weight in queries]
            self.keys_values = [matrix(weight, row_invariant) for weight in keys_values]
            self.rest = [LayerWeights(layer, config, dtype, row_invariant, with_qkv=False) for layer in layers]

    def forward(
        self, J: int, z_RD: Tensor, where: Pass, rows_Q: Tensor, asked: Pass, cache: Cache, eps: Tensor
    ) -> Tensor:
        """Append all rows to the cache; the states at the rows `rows_Q` of them, which stand as `asked` says."""
        H, KV, E = self.config.n_attention_heads, self.config.kv_heads, self.config.head_dim
        R, Q = z_RD.shape[0], rows_Q.shape[0]
        normed_PD = rms_divide(padded(z_RD), eps)
        z_QD = padded(z_RD[rows_Q])
        asked_QD = padded(normed_PD[rows_Q])
        if self.batched:
            kv_JRF = torch.matmul(normed_PD, self.keys_values_JDF[:J])
            q_JQF = torch.matmul(asked_QD, self.queries_JDF[:J])
        else:
            kv_JRF = torch.stack([product(normed_PD) for product in self.keys_values[:J]])
            q_JQF = torch.stack([product(asked_QD) for product in self.queries[:J]])
        kv_RNE = kv_JRF[:, :R].transpose(0, 1).reshape(R, J, 2, KV, E).transpose(1, 2).reshape(R, 2 * J * KV, E)
        kv_RNE = turn(kv_RNE, angles(where.angles_R1C, J * KV, J * KV), cache.dtype)
        k_RJKE, v_RJKE = kv_RNE.view(R, 2, J, KV, E).unbind(1)
        cache.write(0, J, where, k_RJKE, v_RJKE)
        q_QNE = turn(q_JQF[:, :Q].transpose(0, 1).reshape(Q, J * H, E), asked.angles_R1C, cache.dtype)
        y_QJD = cache.attend(0, J, asked, q_QNE).view(Q, J, H * E)
        y_JPD = torch.zeros((J, z_QD.shape[0], H * E), dtype=z_QD.dtype, device=z_QD.device)
        y_JPD[:, :Q] = y_QJD.transpose(0, 1)
        if self.batched:
            x_JPD = torch.baddbmm(z_QD.expand(J, -1, -1), y_JPD, self.out_JDD[:J])
            gate_up_JPF = torch.bmm(rms_divide(x_JPD, eps), self.gate_up_JDF[:J])
            x_JPD = torch.baddbmm(x_JPD, gated(gate_up_JPF), self.down_JFD[:J])
        else:
            x_JPD = torch.stack([self.rest[j].feed_forward(y_JPD[j], z_QD, eps) for j in range(J)])
        return rms_divide(x_JPD[:, :Q], eps)


class DraftChain:
    """Prediction heads 1.. one upon another, the first of them on head 0."""

    def __init__(
        self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype, row_invariant: bool
    ) -> None:
        self.stack = Stack(layers, config, dtype, row_invariant)

    def forward(
        self, J: int, x_RD: Tensor, where: Pass, rows_Q: Tensor, asked: Pass, cache: Cache, eps: Tensor
    ) -> Tensor:
        """Append all rows to the cache, from head 0's states x_RD: every head reads the one below at all of them."""
        _, states = self.stack.forward(x_RD, where, cache, eps, kept=range(1, J + 1), depth=J)
        return rms_divide(torch.stack([state_RD[rows_Q] for state_RD in states]), eps)


class DraftMatrices:
    """Prediction heads 1.. as matrices on the trunk's output."""

    def __init__(self, matrices: Sequence[nn.Linear], dtype: torch.dtype, row_invariant: bool) -> None:
        self.products = [matrix(linear.weight.to(dtype), row_invariant) for linear in matrices]

    def forward(self, J: int, z_QD: Tensor, eps: Tensor) -> Tensor:
        z_PD = padded(z_QD)
        x_JPD = torch.stack([product(z_PD) for product in self.products[:J]])
        return rms_divide(x_JPD[:, : z_QD.shape[0]], eps)
