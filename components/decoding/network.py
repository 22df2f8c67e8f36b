"""An inference copy of the transformer with key/value caches, written for few rows at a time.

Against `components.model.transformer`, which defines what is computed: the norms' weights are folded into the
matrices after them, rotary pairs are laid side by side, matrices are packed, and the prediction heads that draft
(1 and above) run as one layer with the attention heads of all of them, since all read the same z.

Shape suffixes: B sequences, T positions of a pass, R rows (B times T), S filled positions of the cache,
D model width, N attention heads of q, k and v together, E width of one, J drafting heads, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.decoding.kernels import Matrix, matrix, rms_divide, turn
from components.model.config import ModelConfig
from components.model.transformer import Layer, MultiTokenTransformer, rotary_table

# Below this width the drafting heads' products run as one batched product, above it packed and one by one:
# measured for widths 256 and 768; small ones are bound by calls, large ones by memory.
_BATCHED_BELOW_DIM = 512


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


class _LayerWeights:
    def __init__(self, layer: Layer, config: ModelConfig, dtype: torch.dtype) -> None:
        qkv, gate_up = layer.attention.qkv.weight, layer.ffn.gate_up.weight
        qkv = _side_by_side(qkv * _folded(layer.attention_norm.weight), config)
        self.qkv = matrix(qkv.to(dtype))
        self.out = matrix(layer.attention.out.weight.to(dtype))
        self.gate_up = matrix((gate_up * _folded(layer.ffn_norm.weight)).to(dtype))
        self.down = matrix(layer.ffn.down.weight.to(dtype))


def _folded(norm_weight_D: Tensor) -> Tensor:
    return norm_weight_D * math.sqrt(norm_weight_D.shape[0])


def _side_by_side(qkv: Tensor, config: ModelConfig) -> Tensor:
    """Rows of q and k reordered within each attention head, so that rotary pairs (j, j + E/2) are neighbours.

    The scores, sums over a head's width, are the same in any common order of q and k.
    """
    E, turned = config.head_dim, config.n_attention_heads + config.kv_heads
    order = torch.arange(E, device=qkv.device).view(2, E // 2).T.reshape(-1)
    heads = qkv.view(-1, E, qkv.shape[1])
    return torch.cat((heads[:turned, order], heads[turned:])).reshape(qkv.shape)


class Network:
    """Weights of one model in one dtype. Raises nothing; `engine` checks what users pass."""

    @torch.inference_mode()
    def __init__(self, model: MultiTokenTransformer, dtype: torch.dtype) -> None:
        self.config, self.dtype = model.config, dtype
        self.embedding = model.embedding.weight.to(dtype)
        self.device = self.embedding.device
        main = [*model.trunk, *model.prediction_heads[:1]]
        self.main_layers = [_LayerWeights(layer, self.config, dtype) for layer in main]
        self.n_trunk = len(model.trunk)
        final = _folded(model.norm.weight)
        self.unembedding = matrix((model.head_unembedding(0).weight * final).to(dtype))
        self.eps = torch.tensor((self.config.dim * self.config.norm_eps) ** 0.5, device=self.device)
        self.angles_PC = torch.empty(0, self.config.head_dim // 2, dtype=torch.complex64)
        self._model = model
        self._draft_heads: dict[int, DraftLayers | Matrix] = {}

    def prepare(self, k: int, capacity: int) -> None:
        """Have the heads that draft for `k`, and rotary angles for positions below `capacity`. Kept for later calls."""
        if k > 1 and k not in self._draft_heads:
            self._draft_heads[k] = self._build_draft_heads(k)
        if self.angles_PC.shape[0] < capacity:
            positions = torch.arange(capacity, device=self.device)
            cos, sin = rotary_table(positions, self.config.head_dim, self.config.rope_theta)
            half = self.config.head_dim // 2
            self.angles_PC = torch.complex(cos[:, :half], sin[:, :half])

    def main_cache(self, rows: int, capacity: int) -> Cache:
        return Cache(len(self.main_layers), self.config.kv_heads, rows, capacity, self.config.head_dim, self.embedding)

    def draft_cache(self, k: int, rows: int, capacity: int) -> Cache | None:
        """For heads 1..k-1; None where they have no layers (or there are none)."""
        if k == 1 or self.config.arrangement == "replicated":
            return None
        kv_heads = (k - 1) * self.config.kv_heads
        return Cache(1, kv_heads, rows, capacity, self.config.head_dim, self.embedding)

    def main(self, tokens_R: Tensor, where: Pass, cache: Cache) -> tuple[Tensor, Tensor]:
        """Trunk and head 0: the trunk's output z_RD, and what the unembeddings read, h_RD."""
        H, KV, E = self.config.n_attention_heads, self.config.kv_heads, self.config.head_dim
        R = tokens_R.shape[0]
        angles_RNC = _angles(where.angles_R1C, H + KV, KV)
        keys, values = cache.filled(where.B, where.S)
        x_RD = z_RD = F.embedding(tokens_R, self.embedding)
        for i, layer in enumerate(self.main_layers):
            if i == self.n_trunk:
                z_RD = x_RD
            qkv_RNE = layer.qkv(rms_divide(x_RD, self.eps)).view(R, H + 2 * KV, E)
            qkv_RNE = turn(qkv_RNE, angles_RNC, self.dtype)
            cache.write(i, where.slots_R, qkv_RNE[:, H:])
            y_RD = _attend(qkv_RNE[:, :H], keys[i], values[i], where)
            x_RD = layer.out.plus(y_RD, x_RD)
            x_RD = layer.down.plus(_gated(layer.gate_up(rms_divide(x_RD, self.eps))), x_RD)
        if self.n_trunk == len(self.main_layers):
            z_RD = x_RD
        return z_RD, rms_divide(x_RD, self.eps)

    def choose(self, h_RD: Tensor) -> Tensor:
        """Head 0's greedy choice per row; the lowest id on a tie."""
        return self.unembedding(h_RD).argmax(-1)

    def draft(self, k: int, z_RD: Tensor, last_B: Tensor, where: Pass | None, cache: Cache | None) -> Tensor:
        """Choices of heads 1..k-1 at the last row of each sequence, (B, k - 1).

        `z_RD` are the trunk's outputs at positions that are new to the drafting heads' cache, `last_B` the row
        in it of each sequence's last one. The replicated arrangement reads these rows only and has no cache.
        """
        heads = self._draft_heads[k]
        if isinstance(heads, DraftLayers):
            assert cache is not None
            assert where is not None
            h_JBD = heads.forward(z_RD, last_B, where, cache, self.eps)
            return self.choose(h_JBD.flatten(0, 1)).view(k - 1, -1).T
        h_BD = rms_divide(z_RD[last_B], self.eps)
        return heads(h_BD).view(h_BD.shape[0], k - 1, -1).argmax(-1)

    def _build_draft_heads(self, k: int) -> "DraftLayers | Matrix":
        if self.config.arrangement == "parallel":
            layers = [layer for layer in self._model.prediction_heads[1:k] if isinstance(layer, Layer)]
            return DraftLayers(layers, self.config, self.dtype)
        final = _folded(self._model.norm.weight)
        tables = [self._model.head_unembedding(i).weight * final for i in range(1, k)]
        return matrix(torch.cat(tables).to(self.dtype))


class DraftLayers:
    """Prediction heads 1..k-1 as one layer: J times the attention heads, one norm, one read of z."""

    def __init__(self, layers: list[Layer], config: ModelConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype, self.J = config, dtype, len(layers)
        widths = [heads * config.head_dim for heads in (config.n_attention_heads, config.kv_heads, config.kv_heads)]
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer in layers:
            qkv = _side_by_side(layer.attention.qkv.weight * _folded(layer.attention_norm.weight), config)
            for rows, part in zip((queries, keys, values), qkv.split_with_sizes(widths), strict=True):
                rows.append(part)
        self.queries = matrix(torch.cat(queries).to(dtype))
        self.keys_values = matrix(torch.cat(keys + values).to(dtype))
        rest = (
            [layer.attention.out.weight.to(dtype) for layer in layers],
            [(layer.ffn.gate_up.weight * _folded(layer.ffn_norm.weight)).to(dtype) for layer in layers],
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
        cache.write(0, where.slots_R, turn(kv_RNE, _angles(where.angles_R1C, KV, KV), self.dtype))
        q_BNE = self.queries(normed_RD[last_B]).view(-1, H, E)
        q_BNE = turn(q_BNE, where.angles_R1C[last_B], self.dtype)
        (keys,), (values,) = cache.filled(where.B, where.S)
        y_JBD = _attend(q_BNE, keys, values, where).view(where.B, self.J, -1).transpose(0, 1)
        return rms_divide(self._rest(y_JBD, z_RD[last_B], eps), eps)

    def _rest(self, y_JBD: Tensor, z_BD: Tensor, eps: Tensor) -> Tensor:
        """Output projection, feed-forward and residuals of every head."""
        if self.batched:
            x_JBD = torch.baddbmm(z_BD.expand(self.J, -1, -1), y_JBD, self.out_JDD)
            gate_up_JBF = torch.bmm(rms_divide(x_JBD, eps), self.gate_up_JDF)
            return torch.baddbmm(x_JBD, _gated(gate_up_JBF), self.down_JFD)
        states = []
        for j in range(self.J):
            x_BD = self.out[j].plus(y_JBD[j].contiguous(), z_BD)
            states.append(self.down[j].plus(_gated(self.gate_up[j](rms_divide(x_BD, eps))), x_BD))
        return torch.stack(states)


def _gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, from both side by side."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def _angles(angles_R1C: Tensor, turned: int, still: int) -> Tensor:
    """Angles for `turned` attention heads (q, k) and `still` ones (v, angle 0)."""
    R, _, C = angles_R1C.shape
    return torch.cat((angles_R1C.expand(R, turned, C), angles_R1C.new_ones(1).expand(R, still, C)), dim=1)


def _attend(q_RNE: Tensor, keys: Tensor, values: Tensor, where: Pass) -> Tensor:
    """Attention of the rows over the filled cache, (R, heads * E); grouped queries where k, v have fewer heads."""
    R, N, E = q_RNE.shape
    q_BNTE = q_RNE.reshape(where.B, -1, N, E).transpose(1, 2)
    y_BNTE = F.scaled_dot_product_attention(
        q_BNTE, keys, values, where.mask, is_causal=where.causal, enable_gqa=keys.shape[1] != N
    )
    return y_BNTE.transpose(1, 2).reshape(R, N * E)
