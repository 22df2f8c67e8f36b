"""A model's trunk and head 1 as a Hugging Face Llama: what every other decoder can run.

The further heads have no place in that format. Shapes: a fused matrix's rows are split (q, k, v; gate, up); nothing
else changes, so the logits of head 1 are the same to rounding (`tests/model/test_llama_equivalence.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from components.model.config import ModelConfig
from components.model.transformer import Layer, MultiTokenTransformer


def llama_config(config: ModelConfig) -> dict[str, Any]:
    """The content of `config.json`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_trunk_layers + config.head_layers_run(1),
        "num_attention_heads": config.n_attention_heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.ffn_width,
        "vocab_size": config.vocabulary_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": False,
        "hidden_act": "silu",
        "torch_dtype": "float32",
    }


def llama_weights(model: MultiTokenTransformer) -> dict[str, Tensor]:
    """The weights on the way to head 1, by Llama's names."""
    config = model.config
    found = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    if not config.tied_embeddings:
        found["lm_head.weight"] = model.head_unembedding(0).weight
    q, kv = config.n_attention_heads * config.head_dim, config.kv_heads * config.head_dim
    for i, layer in enumerate(_on_the_way(model)):
        queries, keys, values = torch.split(layer.attention.qkv.weight, [q, kv, kv])
        gate, up = layer.ffn.gate_up.weight.chunk(2)
        parts = {
            "self_attn.q_proj": queries,
            "self_attn.k_proj": keys,
            "self_attn.v_proj": values,
            "self_attn.o_proj": layer.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.ffn.down.weight,
            "input_layernorm": layer.attention_norm.weight,
            "post_attention_layernorm": layer.ffn_norm.weight,
        }
        found |= {f"model.layers.{i}.{name}.weight": part for name, part in parts.items()}
    return {name: part.detach().cpu().contiguous() for name, part in found.items()}


def export_llama(model: MultiTokenTransformer, directory: Path) -> None:
    """Write `config.json` and `model.safetensors`, which `LlamaForCausalLM.from_pretrained` reads."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(llama_weights(model), directory / "model.safetensors", {"format": "pt"})
    content = json.dumps(llama_config(model.config), indent=2)
    (directory / "config.json").write_text(content + "\n", encoding="utf-8")


def _on_the_way(model: MultiTokenTransformer) -> Iterator[Layer]:
    """The layers that the next-token head's logits go through, in order."""
    config = model.config
    heads = config.chain or tuple(range(config.n_head_layers))
    way = [*model.trunk, *(model.prediction_heads[i] for i in heads[: config.head_layers_run(1)])]
    for layer in way:
        assert isinstance(layer, Layer)
        yield layer
