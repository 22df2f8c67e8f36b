"""What the prediction heads that draft (1 and above) see at the last token of each sequence, by arrangement.

`parallel`: all read the trunk's output, so they run as one layer with the attention heads of all of them.
`causal`: a stack of layers upon head 0, each with a cache of its own. `linear`: matrices on the trunk's output.
`anticausal`: nothing to compute, as their states lie on the way to head 0. (`replicated` heads are unembeddings, and
stand in `network`.) All return h_JBD, normed, for the shared unembedding.

Shape suffixes as in `layer`, and J drafting heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.decoding.kernels import matrix, rms_divide, turn
from components.decoding.layer import Cache, Pass, Stack, angles, attend, folded, gated, side_by_side
from components.model.config import ModelConfig
from components.model.transformer import Layer

# Below this width the drafting heads' products run as one batched product, above it packed and one by one:
# measured for widths 256 and 768; small ones are bound by calls, large ones by memory.
_BATCHED_BELOW_DIM = 512


class DraftLayers:
    """Prediction heads 1..k-1 as one layer: J times the attention heads, one norm, one read of z."""

    def __init__(self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype, self.J = config, dtype, len(layers)
        widths = [heads * config.head_dim for heads in (config.n_attention_heads, config.kv_heads, config.kv_heads)]
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in layers:
            qkv = side_by_side(layer.attention.qkv.weight * folded(layer.attention_norm.weight), config)
            for rows, part in zip((queries, keys, values), qkv.split_with_sizes(widths), strict=True):
                rows.append(part)
        self.queries = matrix(torch.cat(queries).to(dtype))
        self.keys_values = matrix(torch.cat(keys + values).to(dtype))
        rest = (
            [layer.attention.out.weight.to(dtype) for layer in layers],
            [(layer.ffn.gate_up.weight * folded(layer.ffn_norm.weight)).to(dtype) for layer in layers],
            [layer.ffn.down.weight.to(dtype) for layer in layers],
        )
        self.batched = config.dim < _BATCHED_BELOW_DIM
        if self.batched:
            stacks = (torch.stack(weights).transpose(1, 2).contiguous() for weights in rest)
            self.out_JDD, self.gate_up_JDF, self.down_JFD = stacks
        else:
            self.out, self.gate_up, self.down = ([matrix(weight) for weight in weights] for weights in rest)

    def forward(self, z_RD: Tensor, last_B: Tensor, where: Pass, cache: Cache, eps: Tensor) -> Tensor:
        """Append all rows to the cache; the heads' output, normed, at the rows `last_B`: h_JBD."""
        H, KV, E = self.J * self.config.n_attention_heads, self.J * self.config.kv_heads, self.config.head_dim
        normed_RD = rms_divide(z_RD, eps)
        kv_RNE = self.keys_values(normed_RD).view(-1, 2 * KV, E)
        cache.write(0, where.slots_R, turn(kv_RNE, angles(where.angles_R1C, KV, KV), self.dtype))
        q_BNE = self.queries(normed_RD[last_B]).view(-1, H, E)
        q_BNE = turn(q_BNE, where.angles_R1C[last_B], self.dtype)
        (keys,), (values,) = cache.filled(where.B, where.S)
        y_JBD = attend(q_BNE, keys, values, where).view(where.B, self.J, -1).transpose(0, 1)
        return rms_divide(self._rest(y_JBD, z_RD[last_B], eps), eps)

    def _rest(self, y_JBD: Tensor, z_BD: Tensor, eps: Tensor) -> Tensor:
        """Output projection, feed-forward and residuals of every head."""
        if self.batched:
            x_JBD = torch.baddbmm(z_BD.expand(self.J, -1, -1), y_JBD, self.out_JDD)
            gate_up_JBF = torch.bmm(rms_divide(x_JBD, eps), self.gate_up_JDF)
            return torch.baddbmm(x_JBD, gated(gate_up_JBF), self.down_JFD)
        states = []
        for j in range(self.J):
            x_BD = self.out[j].plus(y_JBD[j].contiguous(), z_BD)
            states.append(self.down[j].plus(gated(self.gate_up[j](rms_divide(x_BD, eps))), x_BD))
        return torch.stack(states)


class DraftChain:
    """Prediction heads 1..k-1 one upon another, the first of them on head 0."""

    def __init__(self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype) -> None:
        self.stack = Stack(layers, config, dtype)

    def forward(self, x_RD: Tensor, last_B: Tensor, where: Pass, cache: Cache, eps: Tensor) -> Tensor:
        """Append all rows to the cache, from head 0's states x_RD; the heads' states at the rows `last_B`."""
        _, states = self.stack.forward(x_RD, where, cache, eps, kept=range(1, len(self.stack) + 1))
        return rms_divide(torch.stack([state_RD[last_B] for state_RD in states]), eps)


class DraftMatrices:
    """Prediction heads 1..k-1 as one matrix on the trunk's output."""

    def __init__(self, matrices: Sequence[nn.Linear], dtype: torch.dtype) -> None:
        self.J = len(matrices)
        self.product = matrix(torch.cat([linear.weight for linear in matrices]).to(dtype))

    def forward(self, z_BD: Tensor, eps: Tensor) -> Tensor:
        x_BJD = self.product(z_BD).view(z_BD.shape[0], self.J, -1)
        return rms_divide(x_BJD.transpose(0, 1), eps)
