"""The way to head 1 is an ordinary Llama, and can be exported as one: transformers' implementation is the reference."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from components.model.config import ModelConfig
from components.model.llama import export_llama
from components.model.transformer import MultiTokenTransformer

CHANGES = {
    "plain": {},
    "grouped-query": {"n_kv_heads": 2},
    "tied": {"tied_embeddings": True},
    "other constants": {"rope_theta": 500000.0, "norm_eps": 1e-6, "ffn_dim": 96},
    "replicated": {"arrangement": "replicated"},
    "linear": {"arrangement": "linear"},
    "causal": {"arrangement": "causal"},
    "anticausal": {"arrangement": "anticausal", "extra_layers": True},
}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_head_one_is_llama(changes: dict, n: int, tmp_path: Path) -> None:
    base = {"dim": 64, "layers": 4, "n_attention_heads": 4, "vocabulary_size": 97, "n_future_tokens": n}
    model = MultiTokenTransformer(ModelConfig(**base | changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # larger than at initialization, so that every part shows in the logits
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    tokens = torch.randint(0, 97, (2, 40), generator=generator)
    export_llama(model, tmp_path)
    llama, info = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        ours = model(tokens, heads=1)[0]
        theirs = llama.eval()(tokens).logits
    assert ours.std() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
