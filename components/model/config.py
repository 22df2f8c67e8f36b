"""The shape of a model, and what follows from it by counting. Needs the standard library alone."""

import math
from dataclasses import dataclass, replace
from typing import Literal

Arrangement = Literal["parallel", "replicated"]


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-style decoder with `n_future_tokens` prediction heads (paper section 2; sizes: Table S14)."""

    dim: int = 256
    """Width of the residual stream."""
    layers: int = 8
    """All transformer layers; in the `parallel` arrangement the prediction heads are counted among them."""
    n_attention_heads: int = 4
    """Attention heads per layer; must divide `dim`."""
    n_kv_heads: int | None = None
    """Key/value heads per layer (grouped-query attention); None: as many as attention heads."""
    ffn_dim: int | None = None
    """Hidden width of the SwiGLU block; None: 8/3 of `dim`, rounded up to a multiple of 256."""
    vocabulary_size: int = 32000
    """Symbols, specials included. In a recipe the tokenizer sets it."""
    n_future_tokens: int = 1
    """Prediction heads: head i predicts the token i ahead. In a recipe `future_tokens` sets it."""
    arrangement: Arrangement = "parallel"
    """`parallel`: each head is a transformer layer on the trunk's output, taken from the end of the trunk, with one
    unembedding for all (paper section 2). `replicated`: each head is an unembedding of its own on the full
    trunk (Table S13: the byte models)."""
    tied_embeddings: bool = False
    """Whether the unembedding is the embedding's matrix (the paper: no, footnote 1 of 4.1)."""
    rope_theta: float = 10000.0
    """Base of the rotary position angles."""
    norm_eps: float = 1e-5
    """Added under the root of RMSNorm."""

    def __post_init__(self) -> None:
        counts = ("dim", "layers", "n_attention_heads", "n_kv_heads", "ffn_dim", "vocabulary_size", "n_future_tokens")
        faults = [
            f"{field} is {value}; it must be at least 1"
            for field in counts
            for value in [getattr(self, field)]
            if value is not None and value < 1
        ]
        for field in ("rope_theta", "norm_eps"):
            if not 0 < getattr(self, field) < math.inf:
                faults.append(f"{field} is {getattr(self, field)}; it must be above 0")
        if faults:  # what follows divides by them
            raise ValueError("\n".join(faults))
        if self.dim % self.n_attention_heads:
            faults.append(f"n_attention_heads ({self.n_attention_heads}) must divide dim ({self.dim})")
        elif self.head_dim % 2:
            faults.append(f"dim / n_attention_heads is {self.head_dim}; rotary positions need an even number")
        if self.n_attention_heads % self.kv_heads:
            faults.append(f"n_kv_heads ({self.n_kv_heads}) must divide n_attention_heads ({self.n_attention_heads})")
        if self.arrangement == "parallel" and self.n_future_tokens >= self.layers:
            faults.append(
                f"n_future_tokens is {self.n_future_tokens} with {self.layers} layers; each parallel head is one "
                f"of the layers and at least one must stay for the trunk: at most {self.layers - 1}, or raise layers"
            )
        if self.tied_embeddings and self.arrangement == "replicated" and self.n_future_tokens > 1:
            faults.append("tied_embeddings needs one unembedding; the replicated arrangement has several")
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_attention_heads

    @property
    def kv_heads(self) -> int:
        return self.n_attention_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def ffn_width(self) -> int:
        return _round_up(8 * self.dim // 3, 256) if self.ffn_dim is None else self.ffn_dim

    @property
    def n_head_layers(self) -> int:
        """Transformer layers that are prediction heads."""
        return self.n_future_tokens if self.arrangement == "parallel" else 0

    @property
    def n_trunk_layers(self) -> int:
        return self.layers - self.n_head_layers

    @property
    def n_unembeddings(self) -> int:
        return 1 if self.arrangement == "parallel" else self.n_future_tokens

    def layer_matrix_parameters(self) -> int:
        """Parameters of one layer's matrices."""
        attention = self.dim * self.head_dim * (2 * self.n_attention_heads + 2 * self.kv_heads)
        return attention + 3 * self.dim * self.ffn_width

    def layer_parameters(self) -> int:
        """Parameters of one layer: its matrices and the gains of its two norms."""
        return self.layer_matrix_parameters() + 2 * self.dim

    def n_parameters(self) -> int:
        """All parameters, embeddings included. Equal across n in the `parallel` arrangement."""
        layers = self.layers * self.layer_parameters()
        tables = self.n_unembeddings + (0 if self.tied_embeddings else 1)
        return layers + self.dim + tables * self.vocabulary_size * self.dim

    def flops_per_token(self, context_length: int) -> int:
        """Training FLOPs per token: forward and backward of matrix products, all heads, attention over the whole
        context as torch's FlopCounterMode counts it (causality not subtracted)."""
        unembeddings = self.n_future_tokens * self.vocabulary_size * self.dim
        matrices = self.layers * self.layer_matrix_parameters() + unembeddings
        attention = self.layers * 2 * context_length * self.n_attention_heads * self.head_dim
        return 6 * (matrices + attention)

    def layer_flops_per_token(self, context_length: int) -> int:
        """Forward FLOPs per token of all layers: what activation checkpointing computes a second time."""
        attention = 2 * context_length * self.n_attention_heads * self.head_dim
        return 2 * self.layers * (self.layer_matrix_parameters() + attention)

    def kv_bytes_per_token(self, bytes_per_value: int = 2, k: int | None = None) -> int:
        """Cache bytes per token and sequence when decoding with `k` heads (default: all)."""
        k = self.n_future_tokens if k is None else k
        layers = self.n_trunk_layers + (k if self.arrangement == "parallel" else 0)
        return layers * 2 * self.kv_heads * self.head_dim * bytes_per_value


def with_heads(config: ModelConfig, n_future_tokens: int) -> ModelConfig:
    """The shape that is left when only the first prediction heads are kept: the trunk stays whole.

    ValueError when the model has fewer.
    """
    if not 1 <= n_future_tokens <= config.n_future_tokens:
        raise ValueError(
            f"n_future_tokens is {n_future_tokens}, but the model was trained with {config.n_future_tokens} "
            f"prediction heads; heads can be dropped, not added: at most {config.n_future_tokens}"
        )
    dropped = config.n_head_layers - n_future_tokens if config.arrangement == "parallel" else 0
    return replace(config, n_future_tokens=n_future_tokens, layers=config.layers - dropped)
