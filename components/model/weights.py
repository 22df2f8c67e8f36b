"""A model on disk: `model.safetensors` beside `model.json`. Nothing here unpickles.

Keys: `embedding.weight`; `trunk.{i}.` and `prediction_heads.{i}.` with `attention_norm.weight`,
`attention.qkv.weight` (rows: q, k, v), `attention.out.weight`, `ffn_norm.weight`, `ffn.gate_up.weight` (rows: gate,
up), `ffn.down.weight`; `norm.weight`; `unembedding.{i}.weight` (absent when tied).
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

WEIGHTS = "model.safetensors"
CONFIG = "model.json"


def save_model(model: MultiTokenTransformer, directory: Path) -> str:
    """Write weights (as they are, float32 from training) and config; returns the digest of both."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(state, directory / WEIGHTS)
    config = json.dumps(dataclasses.asdict(model.config), indent=2)
    (directory / CONFIG).write_text(config + "\n", encoding="utf-8")
    digest = hashlib.sha256(config.encode())
    with (directory / WEIGHTS).open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def load_config(directory: Path) -> ModelConfig:
    """The ModelConfig of a saved model. FileNotFoundError says what a checkpoint must hold."""
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} is not a checkpoint: it has no {CONFIG}. A checkpoint is a directory with "
            f"{WEIGHTS} and {CONFIG}, such as runs/latest/pretrain-n4"
        )
    try:
        return ModelConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not the config of a model of this project: {error}") from None


def load_model(
    directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> MultiTokenTransformer:
    """The saved model in evaluation mode. ValueError names keys that are missing, too many, or of another shape."""
    config = load_config(directory)
    with torch.device("meta"):
        model = MultiTokenTransformer(config)
    model = model.to_empty(device=device)
    model.tie_embeddings()  # leaving the meta device parts what was shared
    load_weights(model, directory)
    return model.to(dtype).eval()


def load_weights(model: MultiTokenTransformer, directory: Path) -> None:
    """Set a model's parameters, in place, to the saved ones. ValueError names keys and shapes that do not fit."""
    try:
        state = load_file(directory / WEIGHTS, device=str(model.embedding.weight.device))
    except SafetensorError as error:
        raise ValueError(f"{directory / WEIGHTS} is damaged: {error}; restore it or train again") from None
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise ValueError(
            f"{directory / WEIGHTS} does not fit the model of {CONFIG}; keys and shapes that differ: {wrong[:6]}"
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])


def keep_heads(model: MultiTokenTransformer, n_future_tokens: int) -> MultiTokenTransformer:
    """A copy that has only the first `n_future_tokens` prediction heads (paper section 3.6: extra heads dropped).

    ValueError when the model has fewer. The trunk stays whole, so `layers` shrinks with the head layers.
    """
    old = model.config
    if not 1 <= n_future_tokens <= old.n_future_tokens:
        raise ValueError(
            f"n_future_tokens is {n_future_tokens}, but the model was trained with {old.n_future_tokens} "
            f"prediction heads; heads can be dropped, not added: at most {old.n_future_tokens}"
        )
    dropped = old.n_head_layers - n_future_tokens if old.arrangement == "parallel" else 0
    config = dataclasses.replace(old, n_future_tokens=n_future_tokens, layers=old.layers - dropped)
    kept = MultiTokenTransformer(config).to(model.embedding.weight)
    source = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in kept.named_parameters():
            parameter.copy_(source[name])
    return kept
