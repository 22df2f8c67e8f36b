"""The multi-token transformer, top to bottom in the order of its forward pass.

Notable choices: RMSNorm before each block, rotary positions (half-split form, as Hugging Face Llama),
SwiGLU, optional grouped-query attention, no biases, untied embeddings, fused q-k-v and gate-up matrices.
A shared trunk f_s gives z; prediction head i turns z into the state that the unembedding f_u reads as the
token i ahead (paper section 2: P(x_{t+i} | x_{1..t}) = softmax(f_u(f_{h_i}(f_s(x_{1..t}))))).

Shape suffixes: B batch, T positions, D model width, H attention heads, E width of one attention head,
V vocabulary, K prediction heads.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.model.attention import causal_attention
from components.model.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 whatever the input (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, float32, shape (*positions.shape, head_dim)."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = positions.float()[..., None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the last axis of `x`, in its half-split form (Su et al. 2021)."""
    low, high = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-high, low), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; `qkv` holds the rows of q, then k, then v."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_width = config.n_attention_heads * config.head_dim
        self.kv_width = config.kv_heads * config.head_dim
        self.qkv = nn.Linear(config.dim, self.q_width + 2 * self.kv_width, bias=False)
        self.out = nn.Linear(self.q_width, config.dim, bias=False)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k, v = self.qkv(x_BTD).split((self.q_width, self.kv_width, self.kv_width), dim=-1)
        q_BHTE, k_BHTE, v_BHTE = (t.view(B, T, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))
        cos, sin = rotary
        q_BHTE, k_BHTE = rotate(q_BHTE, cos, sin), rotate(k_BHTE, cos, sin)
        y_BHTE = causal_attention(q_BHTE, k_BHTE, v_BHTE)
        out: Tensor = self.out(y_BHTE.transpose(1, 2).reshape(B, T, self.q_width))
        return out


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020); `gate_up` holds the rows of the gate, then of the up projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.dim, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = self.gate_up(x_BTD).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Layer(nn.Module):
    """One pre-norm transformer layer: of the trunk, or a prediction head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        h_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary)
        out: Tensor = h_BTD + self.ffn(self.ffn_norm(h_BTD))
        return out


class MultiTokenTransformer(nn.Module):
    """Trunk, prediction heads and unembedding. Heads count from 0 in code: head 0 is the next-token head, head i
    predicts the token i + 1 ahead. One head is an ordinary Llama of `config.layers` layers in any arrangement.

    `parallel`, `causal`, `anticausal`: `prediction_heads[i]` is a Layer, on the trunk's output or on another head
    (`head_below`). `linear`: `prediction_heads[i - 1]` is the matrix of head i, and head 0 the trunk's output itself.
    These share `unembedding[0]`. `replicated`: `unembedding[i]` belongs to head i, and all read the trunk's output.
    `norm` is shared in every arrangement.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.dim)
        self.trunk = nn.ModuleList(Layer(config) for _ in range(config.n_trunk_layers))
        head_layers = [Layer(config) for _ in range(config.n_head_layers)]
        head_matrices = [nn.Linear(config.dim, config.dim, bias=False) for _ in range(config.n_head_matrices)]
        self.prediction_heads = nn.ModuleList([*head_layers, *head_matrices])
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.unembedding = nn.ModuleList(
            nn.Linear(config.dim, config.vocabulary_size, bias=False) for _ in range(config.n_unembeddings)
        )
        self.recompute_layers = False
        """Activation checkpointing: in training, keep a layer's input alone and compute the rest again in backward."""
        self.tie_embeddings()

    def tie_embeddings(self) -> None:
        """Make the unembedding's matrix the embedding's, where the config says so."""
        if self.config.tied_embeddings:
            self.unembedding[0].weight = self.embedding.weight

    def init_weights(self, seed: int) -> None:
        """Set every parameter to its `initial_weight`."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(initial_weight(self.config, seed, name, parameter.shape))

    def rotary(self, T: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary table of positions 0..T-1, broadcast over batch and attention heads."""
        return rotary_table(torch.arange(T, device=device), self.config.head_dim, self.config.rope_theta)

    def forward_trunk(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """f_s behind the embedding: the trunk's residual stream z_BTD, from the embedded tokens."""
        for layer in self.trunk:
            x_BTD = self._through(layer, x_BTD, rotary)
        return x_BTD

    def head_below(self, i: int) -> int | None:
        """The head whose state head i takes as its input; None: it takes the trunk's output (paper Appendix B)."""
        chain = self.config.chain
        place = chain.index(i) if chain else 0
        return chain[place - 1] if place else None

    def forward_head(self, i: int, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """f_{h_i}: the state of head i, before the final norm, from the trunk's output or the head below's state."""
        if self.config.n_head_layers:
            return self._through(self.prediction_heads[i], x_BTD, rotary)
        if self.config.n_head_matrices and i:
            state_BTD: Tensor = self.prediction_heads[i - 1](x_BTD)
            return state_BTD
        return x_BTD

    def forward_heads(self, z_BTD: Tensor, rotary: tuple[Tensor, Tensor], heads: int) -> Iterator[Tensor]:
        """What the unembeddings of the first `heads` heads read, one after the other: h_BTD, normed."""
        if not self.config.chain:
            for i in range(heads):
                yield self.norm(self.forward_head(i, z_BTD, rotary))
            return
        states: dict[int | None, Tensor] = {None: z_BTD}
        for i in self.config.chain[: self.config.head_layers_run(heads)]:
            states[i] = self.forward_head(i, states[self.head_below(i)], rotary)
        yield from (self.norm(states[i]) for i in range(heads))

    def _through(self, layer: nn.Module, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        if self.recompute_layers and torch.is_grad_enabled():
            out: Tensor = checkpoint(layer, x_BTD, rotary, use_reentrant=False, preserve_rng_state=False)
        else:
            out = layer(x_BTD, rotary)
        return out

    def head_unembedding(self, i: int) -> nn.Linear:
        """f_u of head i (all heads share one unless `replicated`)."""
        module = self.unembedding[i if len(self.unembedding) > 1 else 0]
        assert isinstance(module, nn.Linear)
        return module

    def forward(self, tokens_BT: Tensor, heads: int | None = None) -> Tensor:
        """Logits of the first `heads` heads (default: all), logits_KBTV, without caches.

        The plain definition that training, decoding and evaluation are checked against; training never builds
        this tensor (see `components.training.loss`).
        """
        rotary = self.rotary(tokens_BT.shape[1], tokens_BT.device)
        z_BTD = self.forward_trunk(self.embedding(tokens_BT), rotary)
        K = self.config.n_future_tokens if heads is None else heads
        states = self.forward_heads(z_BTD, rotary, K)
        return torch.stack([self.head_unembedding(i)(h_BTD) for i, h_BTD in enumerate(states)])


def initial_weight(config: ModelConfig, seed: int, name: str, shape: Sequence[int]) -> Tensor:
    """The value of a parameter before training: normal(0, 0.02), the matrices that write to the residual stream smaller
    by sqrt(2 layers), as in GPT-2; gains are one, and a `linear` head's matrix the identity, so that it starts where
    the next-token head does.

    The draw depends on (seed, name) alone, so models of different n share what they share, and any worker can make
    its part of it.
    """
    if len(shape) < 2:
        return torch.ones(shape)
    if config.n_head_matrices and name.startswith("prediction_heads."):
        return torch.eye(config.dim)
    generator = torch.Generator().manual_seed(_seed_for(seed, name))
    writes_residual = name.endswith(("attention.out.weight", "ffn.down.weight"))
    std = 0.02 / math.sqrt(2 * config.layers) if writes_residual else 0.02
    return torch.randn(tuple(shape), generator=generator) * std


def _seed_for(seed: int, name: str) -> int:
    """A 63-bit seed from (seed, name), the same in every process and Python version."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
