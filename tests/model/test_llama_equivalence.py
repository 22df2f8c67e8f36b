"""A model with one prediction head is an ordinary Llama: transformers' implementation is the reference."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer


def llama_with_weights_of(model: MultiTokenTransformer) -> LlamaForCausalLM:
    config = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.n_attention_heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.ffn_width,
            vocab_size=config.vocabulary_size,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied_embeddings,
            attention_bias=False,
        )
    ).eval()
    ours = dict(model.named_parameters())
    q, kv = config.n_attention_heads * config.head_dim, config.kv_heads * config.head_dim
    theirs = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": model.unembedding[0].weight,
    }
    for i in range(config.layers):  # the prediction head is the last layer
        layer = f"trunk.{i}" if i < config.n_trunk_layers else "prediction_heads.0"
        parts = ours[f"{layer}.attention.qkv.weight"].split((q, kv, kv))
        gate, up = ours[f"{layer}.ffn.gate_up.weight"].chunk(2)
        block = f"model.layers.{i}"
        theirs |= {f"{block}.self_attn.{x}_proj.weight": p for x, p in zip("qkv", parts, strict=True)}
        theirs |= {
            f"{block}.self_attn.o_proj.weight": ours[f"{layer}.attention.out.weight"],
            f"{block}.mlp.gate_proj.weight": gate,
            f"{block}.mlp.up_proj.weight": up,
            f"{block}.mlp.down_proj.weight": ours[f"{layer}.ffn.down.weight"],
            f"{block}.input_layernorm.weight": ours[f"{layer}.attention_norm.weight"],
            f"{block}.post_attention_layernorm.weight": ours[f"{layer}.ffn_norm.weight"],
        }
    missing, unexpected = llama.load_state_dict(theirs, strict=True)
    assert not missing
    assert not unexpected
    return llama


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_heads": 2},
        {"tied_embeddings": True},
        {"rope_theta": 500000.0, "norm_eps": 1e-6, "ffn_dim": 96},
        {"arrangement": "replicated"},
        {"arrangement": "linear"},
        {"arrangement": "causal"},
        {"arrangement": "anticausal", "extra_layers": True},
    ],
    ids=["plain", "grouped-query", "tied", "other constants", "replicated", "linear", "causal", "anticausal"],
)
def test_one_head_is_llama(changes: dict) -> None:
    base = {"dim": 64, "layers": 3, "n_attention_heads": 4, "vocabulary_size": 97}
    model = MultiTokenTransformer(ModelConfig(**base | changes)).eval()
    if model.config.arrangement in ("replicated", "linear"):  # its layers are all trunk
        assert not model.prediction_heads
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # larger than at initialization, so that every part shows in the logits
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    tokens = torch.randint(0, 97, (2, 40), generator=generator)
    with torch.no_grad():
        ours = model(tokens)[0]
        theirs = llama_with_weights_of(model)(tokens).logits
    assert ours.std() > 0.5
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
