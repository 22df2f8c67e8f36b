"""Transformer layers for inference, with key/value caches, written for few rows at a time.

Against `components.model.transformer`, which defines what is computed: the norms' weights and the scale of the
scores are folded into the matrices, rotary pairs are laid side by side, and matrices are packed.

Shape suffixes: B sequences, T positions of a pass, R rows (B times T), P rows with padding, D model width,
N attention heads of q, k and v together, H of q, KV of k, E width of one, C pairs of it.
"""

import math
from collections.abc import Container, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.decoding.cache import Cache, Pass
from components.decoding.kernels import LEAST_ROWS, NARROW, matrix, rms_divide, turn
from components.model.config import ModelConfig
from components.model.transformer import Layer


class LayerWeights:
    """The matrices of one layer as decoding reads them."""

    def __init__(
        self, layer: Layer, config: ModelConfig, dtype: torch.dtype, row_invariant: bool, with_qkv: bool = True
    ) -> None:
        if with_qkv:
            self.qkv = matrix(attention_weight(layer, config).to(dtype), row_invariant)
        self.out = matrix(layer.attention.out.weight.to(dtype), row_invariant)
        gate_up = layer.ffn.gate_up.weight * folded(layer.ffn_norm.weight)
        self.gate_up = matrix(gate_up.to(dtype), row_invariant)
        self.down = matrix(layer.ffn.down.weight.to(dtype), row_invariant)

    def feed_forward(self, y_PD: Tensor, x_PD: Tensor, eps: Tensor) -> Tensor:
        """What follows attention: its output projection onto the residual x, and the SwiGLU block."""
        x_PD = self.out.plus(y_PD, x_PD)
        return self.down.plus(gated(self.gate_up(rms_divide(x_PD, eps))), x_PD)


class Stack:
    """Layers one upon another that share a cache: those on the way to head 0, or the drafting heads of `causal`."""

    def __init__(self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype, row_invariant: bool) -> None:
        self.config = config
        self.layers = [LayerWeights(layer, config, dtype, row_invariant) for layer in layers]

    def __len__(self) -> int:
        return len(self.layers)

    def forward(
        self,
        x_RD: Tensor,
        where: Pass,
        cache: Cache,
        eps: Tensor,
        kept: Container[int] = (),
        first_read: bool = False,
        depth: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Append all rows to the cache. The last layer's output, and the residual stream after each number of layers
        that is in `kept`, in rising order; after 0 layers it is the input.

        first_read: one sequence's first positions, which see only each other, so nothing is read from the cache.
        depth: layers to run (default: all).
        """
        H, KV, E = self.config.n_attention_heads, self.config.kv_heads, self.config.head_dim
        R = x_RD.shape[0]
        x_PD = padded(x_RD)
        angles_RNC = angles(where.angles_R1C, H + KV, KV)
        states: list[Tensor] = []
        layers = self.layers[:depth]
        for i, layer in enumerate(layers):
            if i in kept:
                states.append(x_PD[:R])
            qkv_RNE = layer.qkv(rms_divide(x_PD, eps))[:R].view(R, H + 2 * KV, E)
            q_RNE, k_RNE, v_RNE = torch.split(turn(qkv_RNE, angles_RNC, cache.dtype), [H, KV, KV], dim=1)
            cache.write(i, 1, where, k_RNE[:, None], v_RNE[:, None])
            y_RD = among_themselves(q_RNE, k_RNE, v_RNE) if first_read else cache.attend(i, 1, where, q_RNE)
            x_PD = layer.feed_forward(padded(y_RD.to(x_RD.dtype)), x_PD, eps)
        if len(layers) in kept:
            states.append(x_PD[:R])
        return x_PD[:R], states


def attention_weight(layer: Layer, config: ModelConfig) -> Tensor:
    """The rows of q, k and v, in float32: with the norm before them and the scale of the scores folded in, and the
    rows of q and k reordered within each attention head, so that rotary pairs (j, j + E/2) are neighbours.

    The scores, sums over a head's width, are the same in any common order of q and k.
    """
    H, KV, E = config.n_attention_heads, config.kv_heads, config.head_dim
    qkv = layer.attention.qkv.weight.float() * folded(layer.attention_norm.weight.float())
    order = torch.arange(E, device=qkv.device).view(2, E // 2).T.reshape(-1)
    heads = qkv.view(-1, E, qkv.shape[1])
    queries, keys, values = heads[:H, order] * E**-0.5, heads[H : H + KV, order], heads[H + KV :]
    return torch.cat((queries, keys, values)).reshape(qkv.shape)


def folded(norm_weight_D: Tensor) -> Tensor:
    """A norm's weight as the matrix after it takes it up (see `kernels.rms_divide`)."""
    return norm_weight_D * math.sqrt(norm_weight_D.shape[0])


def padded(x_RD: Tensor) -> Tensor:
    """At least LEAST_ROWS rows on a processor, where fewer take longer."""
    missing = LEAST_ROWS.get(x_RD.dtype, 0) - x_RD.shape[0]
    if missing <= 0 or x_RD.device.type != "cpu" or (x_RD.dtype == torch.float32 and x_RD.shape[1] <= NARROW):
        return x_RD
    return F.pad(x_RD, (0, 0, 0, missing))


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, from both side by side."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def angles(angles_R1C: Tensor, turned: int, still: int) -> Tensor:
    """Angles for `turned` attention heads (q, k) and `still` ones (v, angle 0)."""
    R, _, C = angles_R1C.shape
    return torch.cat((angles_R1C.expand(R, turned, C), angles_R1C.new_ones(1).expand(R, still, C)), dim=1)


def among_themselves(q_RNE: Tensor, k_RNE: Tensor, v_RNE: Tensor) -> Tensor:
    """Causal attention of one sequence's rows over each other, (R, N * E)."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_RNE, k_RNE, v_RNE))
    y_1NRE = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=k.shape[1] != q.shape[1])
    return y_1NRE[0].transpose(0, 1).flatten(1)
