"""transformers' own decoding of the same weights: the only file here that imports it, when asked for.

The trunk and head 1 are exported as a Llama (`model.llama`), and prompts of different lengths padded on the left, as
its generation expects them.
"""

import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.model.llama import export_llama
from components.model.transformer import MultiTokenTransformer


@dataclass(frozen=True)
class PeerBlock:
    """Prompts continued once."""

    tokens: list[list[int]]
    step_seconds: list[float]
    """Between the stamps of two steps, the first token aside, which comes with the prompts."""
    decoded: int
    """Tokens that came in these steps."""

    @property
    def tokens_per_second(self) -> float:
        return self.decoded / sum(self.step_seconds)


class Transformers:
    """`LlamaForCausalLM.generate` on the exported weights. ImportError where transformers is not installed."""

    def __init__(self, model: MultiTokenTransformer, dtype: torch.dtype) -> None:
        from transformers import LlamaForCausalLM

        with tempfile.TemporaryDirectory() as directory:
            export_llama(model, Path(directory))
            llama: Any = LlamaForCausalLM.from_pretrained(directory, dtype=dtype)
            self.llama = llama.to(model.embedding.weight.device).eval()
        self.llama.generation_config.eos_token_id = None
        self.llama.generation_config.bos_token_id = None
        self.llama.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def decode(self, prompts: Sequence[Sequence[int]], new_tokens: int, lookup: int | None = None) -> PeerBlock:
        """Greedy. lookup: drafts of so many tokens copied from where the last ones stood before (one prompt only)."""
        from transformers import StoppingCriteria, StoppingCriteriaList

        stamps: list[tuple[float, int]] = []

        class Stamps(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                stamps.append((time.perf_counter(), input_ids.shape[1]))
                return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

        longest = max(map(len, prompts))
        device = self.llama.device
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        extra = {} if lookup is None else {"prompt_lookup_num_tokens": lookup}
        made = self.llama.generate(
            ids, attention_mask=mask, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False,
            stopping_criteria=StoppingCriteriaList([Stamps()]), **extra,
        )  # fmt: skip
        times = [time for time, _ in stamps]
        return PeerBlock(
            made[:, longest:].tolist(),
            [after - before for before, after in itertools.pairwise(times)],
            len(prompts) * (stamps[-1][1] - stamps[0][1]),
        )
