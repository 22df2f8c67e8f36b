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


def llama_config(
    config: ModelConfig, context_length: int | None = None, marks: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The content of `config.json`. context_length: tokens of the sequences trained on; marks: the ids of the
    beginning and the end of a document. Where they are not known, readers take Llama's."""
    known: dict[str, Any] = {} if context_length is None else {"max_position_embeddings": context_length}
    if marks is not None:
        known |= {"bos_token_id": marks[0], "eos_token_id": marks[1]}
    return known | {
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


def export_llama(
    model: MultiTokenTransformer,
    directory: Path,
    context_length: int | None = None,
    marks: tuple[int, int] | None = None,
) -> None:
    """Write `config.json` and `model.safetensors`, which `LlamaForCausalLM.from_pretrained` reads; with `marks` also
    `generation_config.json`, greedy until the end mark. context_length and marks as `llama_config` has them."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / "model.safetensors"
    save_file(llama_weights(model), weights, {"format": "pt"})
    contents = {"config.json": llama_config(model.config, context_length, marks)}
    if marks is not None:
        # the model has no symbol for padding; what is padded is masked
        ids = {"bos_token_id": marks[0], "eos_token_id": marks[1], "pad_token_id": marks[1]}
        contents["generation_config.json"] = ids | {"do_sample": False}
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights.chmod((directory / "config.json").stat().st_mode)  # else nobody else may read it


def _on_the_way(model: MultiTokenTransformer) -> Iterator[Layer]:
    """The layers that the next-token head's logits go through, in order."""
    config = model.config
    heads = config.chain or tuple(range(config.n_head_layers))
    way = [*model.trunk, *(model.prediction_heads[i] for i in heads[: config.head_layers_run(1)])]
    for layer in way:
        assert isinstance(layer, Layer)
        yield layer
