"""The shape of a model, and what follows from it by counting. Needs the standard library alone."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

Arrangement = Literal["parallel", "causal", "anticausal", "linear", "replicated"]
LAYER_ARRANGEMENTS = ("parallel", "causal", "anticausal")
"""Arrangements whose prediction heads are transformer layers."""


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class ModelConfig:
    """A Llama-style decoder with `n_future_tokens` prediction heads (paper section 2; sizes: Table S14)."""

    dim: int = 256
    """Width of the residual stream."""
    layers: int = 8
    """All transformer layers; prediction heads that are layers (`parallel`, `causal`, `anticausal`) are counted among
    them."""
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
    """How the heads hang together (paper section 2 and Appendix B). `parallel`: each head is a transformer layer on the
    trunk's output, taken from the end of the trunk. `causal`: the same layers one upon another, the head of the nearest
    token first. `anticausal`: one upon another, the nearest token's last: its path has all the layers. `linear`: the
    first head is the trunk itself, each further one a matrix on its output. These share one unembedding. `replicated`:
    each head is an unembedding of its own on the full trunk (Table S13: the byte models)."""
    extra_layers: bool = False
    """Whether heads that are layers, the first aside, come on top of `layers` instead of out of the trunk, which then
    keeps its length whatever n (Table S4, "+Layers 3" at n = 4)."""
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
        if self.arrangement not in (known := get_args(Arrangement)):
            faults.append(f"arrangement is {self.arrangement!r}; use one of {', '.join(known)}")
        elif self.n_trunk_layers < 1:
            faults.append(
                f"n_future_tokens is {self.n_future_tokens} with {self.layers} layers; each {self.arrangement} head is "
                f"one of the layers and at least one must stay for the trunk: at most {self.layers - 1}, raise layers, "
                "or set extra_layers"
                if not self.extra_layers
                else f"layers is {self.layers}; with extra_layers the trunk has one fewer and needs at least one"
            )
        if self.extra_layers and self.arrangement not in LAYER_ARRANGEMENTS:
            faults.append(
                f"extra_layers has no meaning for {self.arrangement} heads, which are no layers; leave it out"
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
        return self.n_future_tokens if self.arrangement in LAYER_ARRANGEMENTS else 0

    @property
    def n_layers(self) -> int:
        """Transformer layers in all: trunk and heads."""
        return self.layers + (self.n_future_tokens - 1 if self.extra_layers else 0)

    @property
    def n_trunk_layers(self) -> int:
        return self.n_layers - self.n_head_layers

    @property
    def n_head_matrices(self) -> int:
        """Heads that are a dim x dim matrix on the trunk's output (`linear`)."""
        return self.n_future_tokens - 1 if self.arrangement == "linear" else 0

    @property
    def n_unembeddings(self) -> int:
        return self.n_future_tokens if self.arrangement == "replicated" else 1

    @property
    def chain(self) -> tuple[int, ...]:
        """Heads that stand one upon another, from the trunk outwards (heads count from 0); empty: each on the trunk."""
        heads = range(self.n_future_tokens)
        return {"causal": tuple(heads), "anticausal": tuple(reversed(heads))}.get(self.arrangement, ())

    def head_layers_run(self, k: int) -> int:
        """Layers beyond the trunk that the first `k` heads need."""
        return self.n_future_tokens if self.arrangement == "anticausal" else min(k, self.n_head_layers)

    def layer_matrix_parameters(self) -> int:
        """Parameters of one layer's matrices."""
        attention = self.dim * self.head_dim * (2 * self.n_attention_heads + 2 * self.kv_heads)
        return attention + 3 * self.dim * self.ffn_width

    def layer_parameters(self) -> int:
        """Parameters of one layer: its matrices and the gains of its two norms."""
        return self.layer_matrix_parameters() + 2 * self.dim

    def n_parameters(self) -> int:
        """All parameters, embeddings included.

        Equal across n where heads are layers out of the trunk. Else n heads have more than one by what makes them
        heads, at the same depth: (n - 1) layers with `extra_layers`, (n - 1) dim^2 if `linear`, (n - 1)
        vocabulary_size dim if `replicated`.
        """
        layers = self.n_layers * self.layer_parameters() + self.n_head_matrices * self.dim**2
        tables = self.n_unembeddings + (0 if self.tied_embeddings else 1)
        return layers + self.dim + tables * self.vocabulary_size * self.dim

    def matrix_parameters(self) -> int:
        """Parameters of the matrices of all layers and heads, embedding and unembedding aside."""
        return self.n_layers * self.layer_matrix_parameters() + self.n_head_matrices * self.dim**2

    def flops_per_token(self, context_length: int, k: int | None = None) -> int:
        """Training FLOPs per token of the first `k` heads (default: all): forward and backward of matrix products,
        attention over the whole context as torch's FlopCounterMode counts it (causality not subtracted)."""
        k = self.n_future_tokens if k is None else k
        tables_and_matrices = k * self.vocabulary_size * self.dim + min(k - 1, self.n_head_matrices) * self.dim**2
        return 3 * (self.layer_flops_per_token(context_length, k) + 2 * tables_and_matrices)

    def layer_flops_per_token(self, context_length: int, k: int | None = None) -> int:
        """Forward FLOPs per token of the layers that the first `k` heads (default: all) need: what activation
        checkpointing computes a second time."""
        attention = 2 * context_length * self.n_attention_heads * self.head_dim
        return 2 * self._layers_run(k) * (self.layer_matrix_parameters() + attention)

    def kv_bytes_per_token(self, bytes_per_value: int = 2, k: int | None = None) -> int:
        """Cache bytes per token and sequence when decoding with `k` heads (default: all)."""
        return self._layers_run(k) * 2 * self.kv_heads * self.head_dim * bytes_per_value

    def _layers_run(self, k: int | None) -> int:
        return self.n_trunk_layers + self.head_layers_run(self.n_future_tokens if k is None else k)


def with_heads(config: ModelConfig, n_future_tokens: int) -> ModelConfig:
    """The shape that is left when only the first prediction heads are kept: the trunk stays whole, and takes in the
    layers of dropped anticausal heads, through which those that stay are reached.

    ValueError when the model has fewer.
    """
    if not 1 <= n_future_tokens <= config.n_future_tokens:
        raise ValueError(
            f"n_future_tokens is {n_future_tokens}, but the model was trained with {config.n_future_tokens} "
            f"prediction heads; heads can be dropped, not added: at most {config.n_future_tokens}"
        )
    layers, dropped = config.layers, config.n_future_tokens - n_future_tokens
    if config.arrangement == "anticausal":
        layers += dropped if config.extra_layers else 0
    elif config.n_head_layers and not config.extra_layers:
        layers -= dropped
    return replace(config, n_future_tokens=n_future_tokens, layers=layers)
