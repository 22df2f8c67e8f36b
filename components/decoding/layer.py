"""Transformer layers for inference, with key/value caches, written for few rows at a time.

Against `components.model.transformer`, which defines what is computed: the norms' weights are folded into the
matrices after them, rotary pairs are laid side by side, and matrices are packed.

Shape suffixes: B sequences, T positions of a pass, R rows (B times T), S filled positions of the cache,
D model width, N attention heads of q, k and v together, E width of one, C pairs of it.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.decoding.kernels import matrix, rms_divide, turn
from components.model.config import ModelConfig
from components.model.transformer import Layer


class Cache:
    """Keys and values of `layers` layers; slot b * capacity + p is position p of row b.

    It starts as zeros: slots that a mask hides still enter the product with weight 0, so they must be finite.
    """

    def __init__(self, layers: int, kv_heads: int, rows: int, capacity: int, head_dim: int, like: Tensor) -> None:
        self.kv_heads = kv_heads
        shape = (layers, 2 * kv_heads, rows, capacity, head_dim)
        self.data = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self._by_slot = self.data.view(layers, 2 * kv_heads, rows * capacity, head_dim).unbind(0)

    def write(self, layer: int, slots_R: Tensor, kv_RNE: Tensor) -> None:
        self._by_slot[layer].index_copy_(1, slots_R, kv_RNE.transpose(0, 1))

    def filled(self, B: int, S: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Per layer the keys and the values (B, kv heads, S, E) of the first B rows and S positions."""
        data = self.data[:, :, :B, :S].transpose(1, 2)
        return data[:, :, : self.kv_heads].unbind(0), data[:, :, self.kv_heads :].unbind(0)

    def move_row(self, source: int, target: int, length: int) -> None:
        self.data[:, :, target, :length] = self.data[:, :, source, :length]


@dataclass(frozen=True)
class Pass:
    """Where the rows of one pass stand. Every layer reads the same, so it is built once per pass."""

    B: int
    S: int
    """Positions attended to: the longest row's, those of this pass included."""
    slots_R: Tensor
    angles_R1C: Tensor
    mask: Tensor | None
    """Added to the scores, broadcast over (B, heads, T, S); None where every row may see all S positions."""
    causal: bool = False
    """A first pass: the rows see only each other, each what is not after it."""


class LayerWeights:
    """The matrices of one layer as decoding reads them."""

    def __init__(self, layer: Layer, config: ModelConfig, dtype: torch.dtype) -> None:
        qkv, gate_up = layer.attention.qkv.weight, layer.ffn.gate_up.weight
        qkv = side_by_side(qkv * folded(layer.attention_norm.weight), config)
        self.qkv = matrix(qkv.to(dtype))
        self.out = matrix(layer.attention.out.weight.to(dtype))
        self.gate_up = matrix((gate_up * folded(layer.ffn_norm.weight)).to(dtype))
        self.down = matrix(layer.ffn.down.weight.to(dtype))


class Stack:
    """Layers one upon another that share a cache: those on the way to head 0, or the drafting heads of `causal`."""

    def __init__(self, layers: Sequence[Layer], config: ModelConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self.layers = [LayerWeights(layer, config, dtype) for layer in layers]

    def __len__(self) -> int:
        return len(self.layers)

    def forward(
        self, x_RD: Tensor, where: Pass, cache: Cache, eps: Tensor, kept: Container[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Append all rows to the cache. The last layer's output, and the residual stream after each number of layers
        that is in `kept`, in rising order; after 0 layers it is the input."""
        H, KV, E = self.config.n_attention_heads, self.config.kv_heads, self.config.head_dim
        R = x_RD.shape[0]
        angles_RNC = angles(where.angles_R1C, H + KV, KV)
        keys, values = cache.filled(where.B, where.S)
        states: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            if i in kept:
                states.append(x_RD)
            qkv_RNE = layer.qkv(rms_divide(x_RD, eps)).view(R, H + 2 * KV, E)
            qkv_RNE = turn(qkv_RNE, angles_RNC, self.dtype)
            cache.write(i, where.slots_R, qkv_RNE[:, H:])
            y_RD = attend(qkv_RNE[:, :H], keys[i], values[i], where)
            x_RD = layer.out.plus(y_RD, x_RD)
            x_RD = layer.down.plus(gated(layer.gate_up(rms_divide(x_RD, eps))), x_RD)
        if len(self.layers) in kept:
            states.append(x_RD)
        return x_RD, states


def folded(norm_weight_D: Tensor) -> Tensor:
    """A norm's weight as the matrix after it takes it up (see `kernels.rms_divide`)."""
    return norm_weight_D * math.sqrt(norm_weight_D.shape[0])


def side_by_side(qkv: Tensor, config: ModelConfig) -> Tensor:
    """Rows of q and k reordered within each attention head, so that rotary pairs (j, j + E/2) are neighbours.

    The scores, sums over a head's width, are the same in any common order of q and k.
    """
    E, turned = config.head_dim, config.n_attention_heads + config.kv_heads
    order = torch.arange(E, device=qkv.device).view(2, E // 2).T.reshape(-1)
    heads = qkv.view(-1, E, qkv.shape[1])
    return torch.cat((heads[:turned, order], heads[turned:])).reshape(qkv.shape)


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, from both side by side."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def angles(angles_R1C: Tensor, turned: int, still: int) -> Tensor:
    """Angles for `turned` attention heads (q, k) and `still` ones (v, angle 0)."""
    R, _, C = angles_R1C.shape
    return torch.cat((angles_R1C.expand(R, turned, C), angles_R1C.new_ones(1).expand(R, still, C)), dim=1)


def attend(q_RNE: Tensor, keys: Tensor, values: Tensor, where: Pass) -> Tensor:
    """Attention of the rows over the filled cache, (R, heads * E); grouped queries where k, v have fewer heads."""
    R, N, E = q_RNE.shape
    q_BNTE = q_RNE.reshape(where.B, -1, N, E).transpose(1, 2)
    y_BNTE = F.scaled_dot_product_attention(
        q_BNTE, keys, values, where.mask, is_causal=where.causal, enable_gqa=keys.shape[1] != N
    )
    return y_BNTE.transpose(1, 2).reshape(R, N * E)
