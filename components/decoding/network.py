"""An inference copy of the transformer: the way to head 0, and the heads that draft.

Shape suffixes: R rows (sequences times the positions of a pass), Q rows that drafts are asked for, D model width,
J drafting heads, V vocabulary, U symbols that may be drafted.
"""

import statistics
import time
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.decoding.cache import BagCache, Cache, DenseCache, Pass, bags_are_fast
from components.decoding.draft_heads import DraftChain, DraftLayers, DraftMatrices
from components.decoding.kernels import Matrix, matrix, rms_divide
from components.decoding.layer import Stack, attention_weight, folded, padded
from components.model.transformer import Layer, MultiTokenTransformer, rotary_table

_FLOAT16_MAX = 65504.0


class Network:
    """Weights of one model in one dtype. Raises `kernels.NotInvariant` alone; `engine` checks what users pass."""

    @torch.inference_mode()
    def __init__(
        self,
        model: MultiTokenTransformer,
        dtype: torch.dtype,
        row_invariant: bool = False,
        draft_vocabulary: Sequence[int] | None = None,
    ) -> None:
        self.config, self.dtype, self.row_invariant = model.config, dtype, row_invariant
        self.embedding = model.embedding.weight.to(dtype)
        self.device = self.embedding.device
        heads = self.config.chain or tuple(range(self.config.n_head_layers))
        on_the_way = [model.prediction_heads[i] for i in heads[: self.config.head_layers_run(1)]]
        self.main_layers = Stack(_layers([*model.trunk, *on_the_way]), self.config, dtype, row_invariant)
        self._final = folded(model.norm.weight)
        self.unembedding = matrix((model.head_unembedding(0).weight * self._final).to(dtype), row_invariant)
        self.draft_ids = None if draft_vocabulary is None else torch.tensor(draft_vocabulary, device=self.device)
        """The symbols that may be drafted, in the order of the draft logits; None: all."""
        self.eps = torch.tensor((self.config.dim * self.config.norm_eps) ** 0.5, device=self.device)
        self.angles_PC = torch.empty(0, self.config.head_dim // 2, dtype=torch.complex64)
        self._model = model
        # sums of rows give a row the same bits beside any others, whether they are the fastest way or not
        self._on_bags = row_invariant or (self.device.type == "cpu" and bags_are_fast())
        self.cache_dtype = self._cache_dtype(_layers([*model.trunk, *model.prediction_heads]))
        self._layer_heads: DraftLayers | DraftChain | None = None
        self._head_matrices: DraftMatrices | None = None
        self._draft_unembedding: Matrix | None = None
        self._unembedding_seconds: dict[int, float] = {}

    def _cache_dtype(self, layers: Sequence[Layer]) -> torch.dtype:
        """float16 for bfloat16 where it reads the cache by bags, if no score can overflow: normed rows have length 1,
        so a matrix's Frobenius norm bounds what it makes of them. (Turned pairs keep their length.)"""
        if self.dtype != torch.bfloat16 or not self._on_bags:
            return self.dtype
        H, KV = self.config.n_attention_heads, self.config.kv_heads
        for layer in layers:
            norms = attention_weight(layer, self.config).view(H + 2 * KV, -1).norm(dim=1)
            if norms[:H].max() * norms[H : H + KV].max() >= _FLOAT16_MAX or norms.max() >= _FLOAT16_MAX:
                return self.dtype
        return torch.float16

    @property
    def heads_have_layers(self) -> bool:
        """Whether drafting heads have layers of their own, with a cache."""
        return self.config.arrangement in ("parallel", "causal")

    def prepare(self, capacity: int, drafting: bool) -> None:
        """Have the drafting heads' weights, and rotary angles for positions below `capacity`. Kept for later calls."""
        if drafting and self.config.n_future_tokens > 1:
            self._prepare_heads()
        if self.angles_PC.shape[0] < capacity:
            positions = torch.arange(capacity, device=self.device)
            cos, sin = rotary_table(positions, self.config.head_dim, self.config.rope_theta)
            half = self.config.head_dim // 2
            self.angles_PC = torch.complex(cos[:, :half], sin[:, :half])

    def _prepare_heads(self) -> None:
        heads, dtype, invariant = self._model.prediction_heads, self.dtype, self.row_invariant
        replicated = self.config.arrangement == "replicated"
        if self.draft_ids is not None and not replicated and self._draft_unembedding is None:
            weight = self._model.head_unembedding(0).weight[self.draft_ids] * self._final
            self._draft_unembedding = matrix(weight.to(dtype), invariant)
        if self.config.arrangement == "parallel" and self._layer_heads is None:
            self._layer_heads = DraftLayers(_layers(heads[1:]), self.config, dtype, invariant)
        elif self.config.arrangement == "causal" and self._layer_heads is None:
            self._layer_heads = DraftChain(_layers(heads[1:]), self.config, dtype, invariant)
        elif self.config.arrangement == "linear" and self._head_matrices is None:
            matrices = [head for head in heads if isinstance(head, nn.Linear)]
            self._head_matrices = DraftMatrices(matrices, dtype, invariant)
        elif replicated and self._draft_unembedding is None:
            tables = [self._model.head_unembedding(i).weight for i in range(1, self.config.n_future_tokens)]
            if self.draft_ids is not None:
                tables = [table[self.draft_ids] for table in tables]
            self._draft_unembedding = matrix((torch.cat(tables) * self._final).to(dtype), invariant)

    def main_cache(self, slots: int, capacity: int) -> Cache:
        return self._cache(len(self.main_layers), slots, capacity)

    def draft_cache(self, heads: int, slots: int, capacity: int) -> Cache:
        """For heads 1..heads, where `heads_have_layers`."""
        return self._cache(heads, slots, capacity)

    def _cache(self, layers: int, slots: int, capacity: int) -> Cache:
        kind = BagCache if self._on_bags else DenseCache
        kv_heads, head_dim = self.config.kv_heads, self.config.head_dim
        return kind(layers, kv_heads, slots, capacity, head_dim, self.cache_dtype, self.device)

    def main(
        self, tokens_R: Tensor, where: Pass, cache: Cache, drafting: bool, first_read: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """The way to head 0: what drafting heads read, if they are to, and what head 0's unembedding reads, h_RD.

        The former is (1, R, D): the trunk's output, or head 0's state in the causal arrangement; in the anticausal one
        (n - 1, R, D): the states of heads 1... Each is from before the final norm.
        """
        x_RD = F.embedding(tokens_R, self.embedding)
        kept = self._read_by_drafts() if drafting else ()
        x_RD, states = self.main_layers.forward(x_RD, where, cache, self.eps, kept, first_read)
        return torch.stack(states[::-1]) if states else None, rms_divide(x_RD, self.eps)

    def logits(self, h_RD: Tensor) -> Tensor:
        """Logits of the unembedding that head 0 uses."""
        return self.unembedding(padded(h_RD))[: h_RD.shape[0]]

    def unembedding_seconds(self, rows: int) -> float:
        """What logits of so many rows take, roughly: the median of three, measured once per power of two."""
        size = 1 << max(2, (rows - 1).bit_length())
        if size not in self._unembedding_seconds:
            h_RD = torch.zeros((size, self.config.dim), dtype=self.dtype, device=self.device)
            times = []
            for _ in range(4):
                began = time.perf_counter()
                self.logits(h_RD)
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
            self._unembedding_seconds[size] = statistics.median(times[1:])
        return self._unembedding_seconds[size]

    def draft_layer_states(
        self,
        J: int,
        z_RD: Tensor,
        where: Pass,
        rows_Q: Tensor | None,
        asked: Pass,
        cache: Cache,
        first_read: bool = False,
    ) -> Tensor:
        """States of heads 1..J that have layers, h_JQD, normed; see `draft_heads`."""
        assert self._layer_heads is not None
        if isinstance(self._layer_heads, DraftChain):
            return self._layer_heads.forward(J, z_RD, where, rows_Q, cache, self.eps, first_read)
        return self._layer_heads.forward(J, z_RD, where, rows_Q, asked, cache, self.eps)

    def draft_states(self, J: int, read_SQD: Tensor) -> Tensor:
        """States of heads 1..J without layers of their own, h_JQD, normed, from what `main` returned at these rows."""
        match self.config.arrangement:
            case "anticausal":
                return rms_divide(read_SQD[:J], self.eps)
            case "linear":
                assert self._head_matrices is not None
                return self._head_matrices.forward(J, read_SQD[0], self.eps)
        return rms_divide(read_SQD, self.eps)

    def draft_logits(self, J: int, h_JQD: Tensor) -> Tensor:
        """Logits of heads 1..J, (J, Q, U). `replicated` heads read one state, h_1QD."""
        Q = h_JQD.shape[1]
        if self.config.arrangement == "replicated":  # one product for all heads: their tables are small
            assert self._draft_unembedding is not None
            heads = self.config.n_future_tokens - 1
            return self._draft_unembedding(padded(h_JQD[0]))[:Q].view(Q, heads, -1)[:, :J].transpose(0, 1)
        unembedding = self._draft_unembedding or self.unembedding
        return unembedding(padded(h_JQD.flatten(0, 1)))[: J * Q].view(J, Q, -1)

    def _read_by_drafts(self) -> Sequence[int]:
        """The numbers of main layers after which stands what the drafting heads read."""
        n, trunk = self.config.n_future_tokens, self.config.n_trunk_layers
        if self.config.arrangement == "anticausal":
            return range(trunk + 1, trunk + n)
        return (trunk if self.config.arrangement == "parallel" else len(self.main_layers),)


def _layers(modules: Iterable[nn.Module]) -> list[Layer]:
    return [module for module in modules if isinstance(module, Layer)]
