"""What export.py writes, read by transformers from the directory alone: the same logits, ids and text."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.artifacts import Corpus
from components.corpus.reader import fetch, places
from components.decoding.generate import generate
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import load_model, save_model
from components.tokenizer.codec import load_tokenizer
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.train import train_sentencepiece
from pipelines import export

PROMPTS = ["def f(x):\n    return", "  two spaces, a tab\t and <s> é 日", "x"]


def _save(folder: Path, model: bytes | None, size: int, context_length: int | None = 96, n: int = 3) -> Path:
    """A checkpoint with random weights, larger than at initialization: its text varies, and ends now and then."""
    config = ModelConfig(dim=64, layers=5, n_attention_heads=4, n_kv_heads=2, vocabulary_size=size, n_future_tokens=n)
    network = MultiTokenTransformer(config)
    network.init_weights(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(6 if parameter.dim() == 2 else 1)
        if model is not None:  # bytes are never the likeliest, so that the text is text
            network.head_unembedding(0).weight[3 : 3 + 256] = 0  # type: ignore[index]
    save_model(network, folder, context_length)
    (folder / "tokenizer").mkdir()
    facts = {"kind": "bytes" if model is None else "sentencepiece", "vocabulary_size": size}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(facts))
    if model is not None:
        (folder / "tokenizer" / "tokenizer.model").write_bytes(model)
    return folder


@pytest.fixture(scope="module")
def pieces(small_corpus: Corpus) -> bytes:
    texts = (text for _, text in fetch(small_corpus.path, places(small_corpus.path, "validation")))
    return train_sentencepiece(TokenizerConfig(vocabulary_size=700), texts)


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_transformers_runs_what_was_written(
    kind: str, pieces: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = _save(tmp_path / "c", *((pieces, 700) if kind == "sentencepiece" else (None, 258)))
    assert export.main([str(checkpoint), str(tmp_path / "exported")]) == 0
    assert "of 3 prediction heads the first alone" in capsys.readouterr().out
    theirs, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "exported", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    codec = load_tokenizer(checkpoint / "tokenizer")
    config = theirs.config
    assert config.max_position_embeddings == tokenizer.model_max_length == 96
    assert (config.bos_token_id, config.eos_token_id) == (codec.bos_id, codec.eos_id)
    assert theirs.generation_config.pad_token_id == tokenizer.pad_token_id

    ours = load_model(checkpoint)
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            expected = ours(torch.tensor([[codec.bos_id, *codec.encode(prompt)]]), heads=1)[0]
            torch.testing.assert_close(theirs(**ids).logits, expected, rtol=1e-5, atol=1e-4)
    # greedy, and of texts of different lengths together: its own padding, marks and end
    padded = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    made = theirs.generate(**padded, max_new_tokens=40)[:, padded["input_ids"].shape[1] :]
    own = generate(checkpoint, PROMPTS, max_new_tokens=40, k=1)
    for row, completion in zip(made.tolist(), own, strict=True):
        assert row[: len(completion.tokens)] == completion.tokens
        assert set(row[len(completion.tokens) :]) <= {codec.eos_id}
        if kind == "sentencepiece":  # broken characters of random bytes are shown in other ways
            assert tokenizer.decode(row, skip_special_tokens=True) == completion.text


def test_what_is_not_known_or_has_no_place_is_said(
    pieces: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = pieces + bytes([0x1A, 2, 0x18, 1])  # a space before every text, which no merge of pairs does
    checkpoint = _save(tmp_path / "c", changed, 700, context_length=None, n=2)
    assert export.main([str(checkpoint), str(tmp_path / "exported")]) == 0
    out = capsys.readouterr().out
    assert "of 2 prediction heads the first alone" in out
    assert "the checkpoint does not say" in out
    assert "no tokenizer: its sentencepiece model adds or removes white space" in out
    written = {path.name for path in (tmp_path / "exported").iterdir()}
    assert written == {"config.json", "generation_config.json", "model.safetensors"}


def test_nothing_is_overwritten_and_faults_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = _save(tmp_path / "c", None, 258, n=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for arguments, message in (
        ([checkpoint, tmp_path / "full"], "is not empty (it has notes.txt)"),
        ([checkpoint, tmp_path / "file"], "is a file; give a directory"),
        ([tmp_path / "full", tmp_path / "new"], "is not a checkpoint"),
    ):
        assert export.main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert not out
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new").exists()
    facts = {"kind": "bytes", "vocabulary_size": 258}
    other = _save(tmp_path / "other", None, 300)
    (other / "tokenizer" / "tokenizer.json").write_text(json.dumps(facts))
    assert export.main([str(other), str(tmp_path / "new")]) == 2
    assert "has 258 symbols, and the model beside it has 300" in capsys.readouterr().err
