"""An inference copy of the transformer: the way to head 0, and the heads that draft.

Shape suffixes: B sequences, R rows (B times the positions of a pass), D model width, J drafting heads, V vocabulary.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.decoding.draft_heads import DraftChain, DraftLayers, DraftMatrices
from components.decoding.kernels import Matrix, matrix, rms_divide
from components.decoding.layer import Cache, Pass, Stack, folded
from components.model.transformer import Layer, MultiTokenTransformer, rotary_table


class Network:
    """Weights of one model in one dtype. Raises nothing; `engine` checks what users pass."""

    @torch.inference_mode()
    def __init__(self, model: MultiTokenTransformer, dtype: torch.dtype) -> None:
        self.config, self.dtype = model.config, dtype
        self.embedding = model.embedding.weight.to(dtype)
        self.device = self.embedding.device
        heads = self.config.chain or tuple(range(self.config.n_head_layers))
        on_the_way = [model.prediction_heads[i] for i in heads[: self.config.head_layers_run(1)]]
        self.main_layers = Stack(_layers([*model.trunk, *on_the_way]), self.config, dtype)
        final = folded(model.norm.weight)
        self.unembedding = matrix((model.head_unembedding(0).weight * final).to(dtype))
        self.eps = torch.tensor((self.config.dim * self.config.norm_eps) ** 0.5, device=self.device)
        self.angles_PC = torch.empty(0, self.config.head_dim // 2, dtype=torch.complex64)
        self._model = model
        self._draft_heads: dict[int, DraftLayers | DraftChain | DraftMatrices | Matrix | None] = {}

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
        """For heads 1..k-1; None where they have no layers beside the way to head 0 (or there are none)."""
        kv_heads = self.config.kv_heads
        own = {"parallel": (1, (k - 1) * kv_heads), "causal": (k - 1, kv_heads)}
        if k == 1 or self.config.arrangement not in own:
            return None
        layers, kv_heads = own[self.config.arrangement]
        return Cache(layers, kv_heads, rows, capacity, self.config.head_dim, self.embedding)

    def main(self, tokens_R: Tensor, where: Pass, cache: Cache, k: int) -> tuple[list[Tensor], Tensor]:
        """The way to head 0: what the heads that draft for `k` read, and what the unembeddings read, h_RD.

        The former is the trunk's output, or head 0's state in the causal arrangement, or the states of heads k-1..1
        in the anticausal one, each before the final norm.
        """
        x_RD = F.embedding(tokens_R, self.embedding)
        x_RD, states = self.main_layers.forward(x_RD, where, cache, self.eps, self._read_by_drafts(k))
        return states, rms_divide(x_RD, self.eps)

    def choose(self, h_RD: Tensor) -> Tensor:
        """Head 0's greedy choice per row; the lowest id on a tie."""
        return self.unembedding(h_RD).argmax(-1)

    def draft(
        self, k: int, states: Sequence[Tensor], last_B: Tensor, where: Pass | None, cache: Cache | None
    ) -> Tensor:
        """Choices of heads 1..k-1 at the last row of each sequence, (B, k - 1).

        `states` are those of `main` at positions that are new to the drafting heads' cache, `last_B` the row in them
        of each sequence's last one. Arrangements without such a cache read these rows only.
        """
        heads = self._draft_heads[k]
        if isinstance(heads, DraftLayers | DraftChain):
            assert cache is not None
            assert where is not None
            h_JBD = heads.forward(states[0], last_B, where, cache, self.eps)
        elif isinstance(heads, DraftMatrices):
            h_JBD = heads.forward(states[0][last_B], self.eps)
        elif heads is None:
            h_JBD = rms_divide(torch.stack([state_RD[last_B] for state_RD in reversed(states)]), self.eps)
        else:
            h_BD = rms_divide(states[0][last_B], self.eps)
            return heads(h_BD).view(h_BD.shape[0], k - 1, -1).argmax(-1)
        return self.choose(h_JBD.flatten(0, 1)).view(k - 1, -1).T

    def _read_by_drafts(self, k: int) -> Sequence[int]:
        """The numbers of main layers after which stands what the drafting heads read."""
        n, trunk = self.config.n_future_tokens, self.config.n_trunk_layers
        if k == 1:
            return ()
        if self.config.arrangement == "anticausal":
            return range(trunk + n - k + 1, trunk + n)
        return (trunk if self.config.arrangement == "parallel" else len(self.main_layers),)

    def _build_draft_heads(self, k: int) -> DraftLayers | DraftChain | DraftMatrices | Matrix | None:
        heads = self._model.prediction_heads
        match self.config.arrangement:
            case "parallel":
                return DraftLayers(_layers(heads[1:k]), self.config, self.dtype)
            case "causal":
                return DraftChain(_layers(heads[1:k]), self.config, self.dtype)
            case "anticausal":
                return None
            case "linear":
                return DraftMatrices([head for head in heads[: k - 1] if isinstance(head, nn.Linear)], self.dtype)
            case "replicated":
                final = folded(self._model.norm.weight)
                tables = [self._model.head_unembedding(i).weight * final for i in range(1, k)]
                return matrix(torch.cat(tables).to(self.dtype))


def _layers(modules: Iterable[nn.Module]) -> list[Layer]:
    layers = list(modules)
    assert all(isinstance(layer, Layer) for layer in layers)
    return [layer for layer in layers if isinstance(layer, Layer)]
