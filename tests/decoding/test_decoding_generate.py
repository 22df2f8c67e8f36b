"""`generate` for programmers: the page's examples run, and its promises hold."""

import json
import re
from pathlib import Path

import pytest
import torch

from components.decoding import generate as module
from components.decoding.engine import Decoder
from components.decoding.generate import Opened, generate, open_checkpoint
from components.decoding.room import needed_bytes
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import save_model
from components.tokenizer.codec import BytesCodec

PAGE = Path(module.__file__).with_name("README.md")


def noise(n: int = 3) -> MultiTokenTransformer:
    config = ModelConfig(
        dim=32, layers=4, n_attention_heads=2, vocabulary_size=258, n_future_tokens=n, arrangement="replicated"
    )
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save_model(noise(), path, context_length=200)
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"kind": "bytes", "vocabulary_size": 258}))
    return path


def test_the_examples_on_the_page_run(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {"checkpoint": checkpoint}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "tokens per forward" in capsys.readouterr().out


@pytest.mark.parametrize("k", [1, 3, "adaptive"])
def test_a_stop_string_ends_at_the_same_place_however_it_is_reached(checkpoint: Path, k: int) -> None:
    opened = open_checkpoint(checkpoint)
    prompts = ["a", "what else", ""]
    free = generate(opened, prompts, 60, k=1)
    whole = [BytesCodec().decode_bytes(completion.tokens) for completion in free]
    # a few bytes that are a text, from somewhere within
    readable = [content[i : i + 2] for content in whole[:2] for i in range(10, 40) if content[i : i + 2].isascii()]
    assert readable
    for stop in readable[:3]:
        text = stop.decode()
        told: dict[int, str] = {0: "", 1: "", 2: ""}

        def on_text(row: int, piece: str, tokens: int, told: dict[int, str] = told) -> None:
            told[row] += piece

        made = generate(opened, prompts, 60, k=k, stop=text, on_text=on_text)  # type: ignore[arg-type]
        for row, completion in enumerate(made):
            place = whole[row].find(stop)
            expected = whole[row] if place < 0 else whole[row][:place]
            assert completion.text == told[row] == expected.decode(errors="replace")
            assert completion.ended == ("limit" if place < 0 else "stop")
            assert len(completion.tokens) == (60 if place < 0 else place + len(stop))
            assert sum(completion.runs) == len(completion.tokens)


def test_streamed_text_never_shows_a_part_of_a_stop_string() -> None:
    """A stop string whose beginning comes in one step and the rest in the next, or does not come."""
    text = module._Text(BytesCodec(), (b"END", b"NN"), set())
    shown = [text.read(list(piece)) for piece in (b"abcE", b"N", b"xE", b"NEN", b"D rest")]
    assert shown == ["abc", "", "ENx", "EN", ""]
    assert text.rest() == ""
    half = module._Text(BytesCodec(), (b"END",), set())
    assert [half.read(list(piece)) for piece in ("é".encode()[:1], "é".encode()[1:], b"E")] == ["", "é", ""]
    assert half.rest() == "E"


def test_a_model_in_memory_takes_ids_and_a_tokenizer(checkpoint: Path) -> None:
    model = noise()
    ids = [[256, 104, 105], [256]]
    by_ids = generate(model, ids, 20)
    assert [completion.text for completion in by_ids] == ["", ""]
    by_text = generate(Decoder(model), ["hi", ""], 20, tokenizer=BytesCodec())
    assert (
        [c.tokens for c in by_text] == [c.tokens for c in by_ids] == [c.tokens for c in generate(checkpoint, ids, 20)]
    )
    figures = by_ids.statistics
    assert figures.tokens == 40
    assert sum(m * count for m, count in enumerate(figures.accepted)) + sum(figures.accepted) >= 38
    assert generate(model, ids, 1).statistics.steps == 0


def test_acceptance_is_of_the_drafts_that_were_reached() -> None:
    made = generate(noise(4), [[1, 2], [3]], 200, k=4)
    accepted = made.statistics.accepted
    for place, share in enumerate(made.statistics.acceptance):
        reached = sum(accepted[place:])
        assert share == (pytest.approx(sum(accepted[place + 1 :]) / reached) if reached else 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ["x" * 199]}, "200 tokens, and the model was trained on sequences of 200"),
        ({"prompts": [[]]}, "prompt 0 is empty"),
        ({"prompts": [[300]]}, "token 300"),
        ({"prompts": "x", "k": 4}, "k is 4; this model has 3"),
        ({"prompts": "x", "k": "most"}, "k is 'most'"),
        ({"prompts": "x", "temperature": -1.0}, "temperature is -1.0"),
        ({"prompts": "x", "stop": ["a", ""]}, "empty string"),
        ({"prompts": "x", "batch": 0}, "batch is 0"),
        ({"prompts": [1, 2, 3]}, "give a text, several, or a list of lists"),
        ({"prompts": "x", "max_new_tokens": 2.5}, "max_new_tokens is 2.5; it must be a whole number"),
        ({"prompts": "x", "k": True}, "k is True"),
        ({"prompts": [[1.5, 2]]}, "prompt 0: token ids must be whole numbers"),
        ({"prompts": [["a"]]}, "prompt 0: token ids must be whole numbers"),
        ({"prompts": "x", "batch": 1.5}, "batch is 1.5; it must be a whole number"),
        ({"prompts": "x", "max_new_tokens": 10**12}, "GB are free; give shorter prompts or fewer new tokens"),
    ],
)
def test_what_cannot_be_generated_is_refused(checkpoint: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(checkpoint, **arguments)  # type: ignore[arg-type]


def test_texts_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(ValueError, match="no tokenizer"):
        generate(noise(), "x")
    with pytest.raises(ValueError, match="stop strings need a tokenizer"):
        generate(noise(), [[1]], stop="x")


def test_a_model_without_further_heads_decodes_and_says_why_it_cannot_draft() -> None:
    model = noise(1)
    assert len(generate(model, [[1]], 9)[0].tokens) == 9
    with pytest.raises(ValueError, match="trained without further heads"):
        generate(model, [[1]], 9, k=2)


def test_memory_is_counted_before_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted holds the caches that are then made."""
    decoder = Decoder(noise())
    network = decoder.network
    counted = needed_bytes(network, 7, 500, 3, False, 100)
    made = network.main_cache(7, 500)
    assert counted >= made.keys.numel() * 4 + made.values.numel() * 4
    monkeypatch.setattr("components.decoding.room.free_bytes", lambda device: counted // 2)
    with pytest.raises(ValueError, match=r"7 sequences of up to 502 tokens need .* give batch=3 or less"):
        decoder.generate([[1] * 100] * 7, 400, k=3)
    assert len(decoder.generate([[1] * 100] * 7, 4, k=3, batch=3).tokens) == 7
    assert Opened(decoder).context_length is None
