"""A model on disk: `model.safetensors` beside `model.json`. Nothing here unpickles.

Keys: `embedding.weight`; `trunk.{i}.` and `prediction_heads.{i}.` with `attention_norm.weight`,
`attention.qkv.weight` (rows: q, k, v), `attention.out.weight`, `ffn_norm.weight`, `ffn.gate_up.weight` (rows: gate,
up), `ffn.down.weight`; in the `linear` arrangement `prediction_heads.{i}.weight` is the matrix of head i + 2 (counting
from 1); `norm.weight`; `unembedding.{i}.weight` (absent when tied).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.model.config import ModelConfig, with_heads
from components.model.transformer import MultiTokenTransformer

WEIGHTS = "model.safetensors"
CONFIG = "model.json"
CONTEXT = "context_length"


def save_model(model: MultiTokenTransformer, directory: Path, context_length: int | None = None) -> str:
    """Write weights (as they are, float32 from training) and config; returns the digest of both. context_length: of
    the sequences trained on, kept in the weights' metadata."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(state, directory / WEIGHTS, {} if context_length is None else {CONTEXT: str(context_length)})
    config = json.dumps(dataclasses.asdict(model.config), indent=2)
    (directory / CONFIG).write_text(config + "\n", encoding="utf-8")
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)  # else nobody else may read it
    digest = hashlib.sha256(config.encode())
    with (directory / WEIGHTS).open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def trained_context(directory: Path) -> int | None:
    """Tokens of the sequences that a saved model was trained on; None where that was not kept."""
    with safe_open(directory / WEIGHTS, framework="pt") as state:
        found = (state.metadata() or {}).get(CONTEXT)
    return int(found) if found else None


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
        model = MultiTokenTransformer(config).to(dtype)
    model = model.to_empty(device=device)
    model.tie_embeddings()  # leaving the meta device parts what was shared
    load_weights(model, directory)
    return model.eval()


def load_weights(model: MultiTokenTransformer, directory: Path) -> None:
    """Set a model's parameters, in place, to the saved ones. ValueError names keys and shapes that do not fit."""
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as state, torch.no_grad():
            expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
            found = {name: tuple(state.get_slice(name).get_shape()) for name in state.keys()}  # noqa: SIM118  (no mapping)
            if expected != found:
                wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
                shapes = [(name, expected.get(name), found.get(name)) for name in wrong]
                raise ValueError(
                    f"{directory / WEIGHTS} does not fit the model of {CONFIG}; keys that differ, with the shapes "
                    f"expected and found: {shapes[:6]}"
                )
            for name, parameter in model.named_parameters():  # one at a time: a large model is not held twice
                parameter.copy_(state.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"{directory / WEIGHTS} is damaged: {error}; restore it or train again") from None


def read_weights(directory: Path, n_future_tokens: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a saved model without its further heads, one at a time, by the names that `with_heads` of its
    config gives them."""
    config = load_config(directory)
    with torch.device("meta"):
        names = [name for name, _ in MultiTokenTransformer(with_heads(config, n_future_tokens)).named_parameters()]
    with safe_open(directory / WEIGHTS, framework="pt") as state:
        for name in names:
            yield name, state.get_tensor(name_before_dropping(name, config, n_future_tokens))


def keep_heads(model: MultiTokenTransformer, n_future_tokens: int) -> MultiTokenTransformer:
    """A copy that has only the first `n_future_tokens` prediction heads (paper section 3.6: extra heads dropped).

    ValueError when the model has fewer. The trunk stays whole, so `layers` shrinks with the head layers; dropped
    `anticausal` heads, through which the others are reached, become the trunk's last layers.
    """
    kept = MultiTokenTransformer(with_heads(model.config, n_future_tokens)).to(model.embedding.weight)
    source = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in kept.named_parameters():
            parameter.copy_(source[name_before_dropping(name, model.config, n_future_tokens)])
    return kept


def name_before_dropping(name: str, config: ModelConfig, n_future_tokens: int) -> str:
    """What a parameter of `with_heads(config, n_future_tokens)` is called in the model of `config`."""
    room, _, rest = name.partition(".")
    if room != "trunk" or config.arrangement != "anticausal":
        return name
    index, _, rest = rest.partition(".")
    beyond = int(index) - config.n_trunk_layers
    return name if beyond < 0 else f"prediction_heads.{config.chain[beyond]}.{rest}"
