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
from components.decoding.layer import LayerWeights, Stack, angles, attention_weight, padded
from components.model.config import ModelConfig
from components.model.transformer import Layer


class DraftLayers:
    """Prediction heads 1.. side by side on the trunk's output: one norm, and attention of all in one call.

    Keys and values are made at all rows, queries and what follows at those asked about alone.
    """

    def __init__(self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype, row_invariant: bool) -> None:
        self.config = config
        H, E = config.n_attention_heads, config.head_dim
        weights = [attention_weight(layer, config).to(dtype) for layer in layers]
        queries, keys_values = zip(*(torch.split(w, [H * E, 2 * config.kv_heads * E]) for w in weights), strict=True)
        self.queries = [matrix(weight, row_invariant) for weight in queries]
        self.keys_values = [matrix(weight, row_invariant) for weight in keys_values]
        self.rest = [LayerWeights(layer, config, dtype, row_invariant, with_qkv=False) for layer in layers]

    def forward(
        self, J: int, z_RD: Tensor, where: Pass, rows_Q: Tensor | None, asked: Pass, cache: Cache, eps: Tensor
    ) -> Tensor:
        """Append all rows to the cache; the states at the rows `rows_Q` of them (None: at all), which stand as `asked`
        says."""
        H, KV, E = self.config.n_attention_heads, self.config.kv_heads, self.config.head_dim
        R = z_RD.shape[0]
        z_PD = padded(z_RD)
        normed_PD = rms_divide(z_PD, eps)
        asked_PD, z_QD = normed_PD, z_PD
        if rows_Q is not None:
            asked_PD, z_QD = padded(normed_PD[rows_Q]), padded(z_RD[rows_Q])
        Q = R if rows_Q is None else rows_Q.shape[0]
        kv_PF = torch.cat([product(normed_PD) for product in self.keys_values[:J]], 1)
        q_PF = torch.cat([product(asked_PD) for product in self.queries[:J]], 1)
        angles_RNC = angles(where.angles_R1C, KV, KV).repeat(1, J, 1)
        kv_RJNE = turn(kv_PF[:R].reshape(R, J * 2 * KV, E), angles_RNC, cache.dtype).view(R, J, 2 * KV, E)
        cache.write(0, J, where, kv_RJNE[:, :, :KV], kv_RJNE[:, :, KV:])
        q_QNE = turn(q_PF[:Q].view(Q, J * H, E), asked.angles_R1C, cache.dtype)
        y_JQD = cache.attend(0, J, asked, q_QNE).view(Q, J, H * E).transpose(0, 1).to(z_RD.dtype)
        states = [self.rest[j].feed_forward(padded(y_JQD[j].contiguous()), z_QD, eps)[:Q] for j in range(J)]
        return rms_divide(torch.stack(states), eps)


class DraftChain:
    """Prediction heads 1.. one upon another, the first of them on head 0."""

    def __init__(self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype, row_invariant: bool) -> None:
        self.stack = Stack(layers, config, dtype, row_invariant)

    def forward(
        self, J: int, x_RD: Tensor, where: Pass, rows_Q: Tensor | None, cache: Cache, eps: Tensor, first_read: bool
    ) -> Tensor:
        """Append all rows to the cache, from head 0's states x_RD: every head reads the one below at all of them."""
        _, states = self.stack.forward(x_RD, where, cache, eps, range(1, J + 1), first_read, depth=J)
        states_JRD = torch.stack(states)
        return rms_divide(states_JRD if rows_Q is None else states_JRD[:, rows_Q], eps)


class DraftMatrices:
    """Prediction heads 1.. as matrices on the trunk's output."""

    def __init__(self, matrices: Sequence[nn.Linear], dtype: torch.dtype, row_invariant: bool) -> None:
        self.products = [matrix(linear.weight.to(dtype), row_invariant) for linear in matrices]

    def forward(self, J: int, z_QD: Tensor, eps: Tensor) -> Tensor:
        z_PD = padded(z_QD)
        x_JPD = torch.stack([product(z_PD) for product in self.products[:J]])
        return rms_divide(x_JPD[:, : z_QD.shape[0]], eps)
