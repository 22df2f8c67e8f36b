"""Models on disk."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import keep_heads, load_model, save_model

SHAPE = {"dim": 32, "layers": 5, "n_attention_heads": 4, "vocabulary_size": 61}
TOKENS = torch.arange(12)[None]


def initialized(**changes) -> MultiTokenTransformer:
    model = MultiTokenTransformer(ModelConfig(**SHAPE | changes))
    model.init_weights(seed=1)
    return model.eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_future_tokens": 3, "n_kv_heads": 2},
        {"tied_embeddings": True},
        {"arrangement": "replicated"},
        {"n_future_tokens": 3, "arrangement": "causal"},
        {"n_future_tokens": 3, "arrangement": "anticausal", "extra_layers": True},
        {"n_future_tokens": 3, "arrangement": "linear", "tied_embeddings": True},
    ],
    ids=str,
)
def test_what_is_saved_is_loaded(tmp_path: Path, changes: dict) -> None:
    model = initialized(**changes)
    digest = save_model(model, tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(set(modes.values())) == 1, "who may read one file may read the others"
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert not loaded.training
    assert sum(p.numel() for p in loaded.parameters()) == model.config.n_parameters(), "ties are kept"
    assert save_model(loaded, tmp_path / "again") == digest
    assert load_model(tmp_path, dtype=torch.bfloat16).embedding.weight.dtype == torch.bfloat16


def test_the_digest_sees_one_changed_weight(tmp_path: Path) -> None:
    model = initialized()
    digest = save_model(model, tmp_path)
    with torch.no_grad():
        model.norm.weight[0] += 1e-6
    assert save_model(model, tmp_path) != digest


def test_an_arrangement_is_not_taken_for_another(tmp_path: Path) -> None:
    """The layers of `causal` and `anticausal` have the same names and shapes: the config tells them apart."""
    digests, logits = set(), []
    for arrangement in ("causal", "anticausal"):
        model = initialized(n_future_tokens=3, arrangement=arrangement)
        digests.add(save_model(model, tmp_path / arrangement))
        logits.append(load_model(tmp_path / arrangement)(TOKENS))
    assert len(digests) == 2
    assert not torch.equal(*logits)
    save_model(initialized(n_future_tokens=3, arrangement="linear"), tmp_path / "linear")
    (tmp_path / "linear" / "model.safetensors").rename(tmp_path / "causal" / "model.safetensors")
    with pytest.raises(ValueError, match=r"prediction_heads\.0\.attention"):
        load_model(tmp_path / "causal")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_model(initialized(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")

    save_file(weights | {"norm.weight": torch.ones(31)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"norm\.weight.*\(31,\)"):
        load_model(tmp_path)

    save_file({k: v for k, v in weights.items() if k != "norm.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"norm\.weight"):
        load_model(tmp_path)

    save_file(weights | {"foreign": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="foreign"):
        load_model(tmp_path)


def test_a_directory_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} is not a checkpoint"):
        load_model(tmp_path)


def test_the_config_on_disk_is_plain_json(tmp_path: Path) -> None:
    save_model(initialized(), tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["layers"] == 5


def test_heads_cannot_be_added() -> None:
    with pytest.raises(ValueError, match=r"n_future_tokens is 4.*at most 3"):
        keep_heads(initialized(n_future_tokens=3), 4)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [("model.safetensors", b"\x08\0\0\0", "is damaged"), ("model.json", b'{"width": 3}', "not the config of a model")],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: bytes, words: str) -> None:
    save_model(initialized(), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file}.* {words}"):
        load_model(tmp_path)
