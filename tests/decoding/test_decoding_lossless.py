"""Self-speculative decoding emits what next-token decoding emits, and both what a full forward without caches says."""

import random
from collections.abc import Mapping

import pytest
import torch

from components.decoding.checks import full_forward_mismatches
from components.decoding.engine import Decoder
from components.decoding.live import Live
from components.decoding.network import Network
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

VOCABULARY = 41


def sharp_model(seed: int = 0, **shape: object) -> MultiTokenTransformer:
    """Random weights, large enough that the choices differ by much more than rounding; norms not all ones."""
    settings = {"dim": 32, "layers": 6, "n_attention_heads": 4, "ffn_dim": 48, "vocabulary_size": VOCABULARY}
    model = MultiTokenTransformer(ModelConfig(**(settings | shape)))  # type: ignore[arg-type]
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.mul_(8)
    head_matrices_drawn(model, seed)
    return model.eval()


def head_matrices_drawn(model: MultiTokenTransformer, seed: int) -> None:
    """The matrices of `linear` heads, which start as the identity, made different."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in model.prediction_heads[: model.config.n_head_matrices]:
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator))


def ragged_prompts(seed: int, lengths: tuple[int, ...] = (3, 11, 1, 17, 11)) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


SHAPES = {
    "parallel": {"n_future_tokens": 4},
    "parallel, grouped queries": {"n_future_tokens": 3, "n_kv_heads": 2},
    "parallel, tied": {"n_future_tokens": 2, "tied_embeddings": True},
    "parallel, wide": {"n_future_tokens": 3, "dim": 512, "layers": 4, "n_attention_heads": 8, "n_kv_heads": 2},
    "one head": {"n_future_tokens": 1},
    "replicated": {"n_future_tokens": 5, "arrangement": "replicated", "n_kv_heads": 1},
    "replicated, one layer": {"n_future_tokens": 8, "arrangement": "replicated", "layers": 1},
    "causal": {"n_future_tokens": 4, "arrangement": "causal", "n_kv_heads": 2},
    "anticausal": {"n_future_tokens": 4, "arrangement": "anticausal"},
    "linear": {"n_future_tokens": 4, "arrangement": "linear"},
    "linear, wide": {"n_future_tokens": 3, "arrangement": "linear", "dim": 512, "layers": 2, "n_attention_heads": 8},
    "linear, tied": {"n_future_tokens": 3, "arrangement": "linear", "tied_embeddings": True},
    "parallel, extra layers": {"n_future_tokens": 4, "extra_layers": True, "layers": 3},
    "causal, extra layers": {"n_future_tokens": 3, "arrangement": "causal", "extra_layers": True, "layers": 3},
    "anticausal, extra layers": {"n_future_tokens": 3, "arrangement": "anticausal", "extra_layers": True, "layers": 3},
    "causal, wide": {"n_future_tokens": 3, "arrangement": "causal", "dim": 512, "layers": 4, "n_attention_heads": 8},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_k_equals_the_full_forward_in_ragged_batches(shape: dict[str, object]) -> None:
    model = sharp_model(**shape)
    decoder = Decoder(model)
    prompts, limits = ragged_prompts(1), [20, 33, 40, 1, 25]
    for k in range(1, model.config.n_future_tokens + 1):
        made = decoder.generate(prompts, limits, k=k)
        assert full_forward_mismatches(model, prompts, made.tokens) == []
        assert [len(tokens) for tokens in made.tokens] == limits
        assert [sum(runs) for runs in made.runs] == limits
        assert all(runs[0] == 1 and max(runs) <= k for runs in made.runs)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "one head"])
@torch.inference_mode()
def test_drafts_are_what_the_heads_of_the_full_forward_choose(name: str) -> None:
    """After every step, in a ragged batch that loses a sequence, whatever number of drafts was accepted."""
    model = sharp_model(**SHAPES[name])
    network = Network(model, torch.float32)
    drafted = set()
    n = model.config.n_future_tokens
    network.prepare(64, drafting=True)
    texts = ragged_prompts(7, (3, 9, 1, 9))
    live = Live(network, 4, 64, n - 1)
    last_B = torch.cat([live.join(text) for text in texts]).argmax(-1)
    at_once = None
    for step in range(14):
        if step in (3, 9):
            kept = live.leave([1])
            texts, last_B, at_once = [texts[row] for row in kept.tolist()], last_B[kept], None
        if step == 6:
            texts.append([5, 8])
            last_B = torch.cat((last_B, live.join(texts[-1]).argmax(-1)))
            at_once = None
        # every k, each after steps with fewer heads and with more, some without any
        J = (n - 1) * (step % 3 != 1) - step % 2 * (n > 2 and step % 3 != 1)
        tokens_BT = last_B[:, None]
        if J:
            logits_BJV = live.draft(J) if at_once is None else at_once
            J = logits_BJV.shape[1]
            drafts_BJ = logits_BJV.argmax(-1)
            tokens_BT = torch.cat((tokens_BT, drafts_BJ), 1)
            for text, row in zip(texts, drafts_BJ.tolist(), strict=True):
                logits_KV = model(torch.tensor([text]), heads=J + 1)[:, 0, -1]
                assert row == logits_KV[1:].argmax(-1).tolist()
                drafted.update(row)
        merged = J > 0 and step % 4 > 1 and model.config.arrangement != "replicated"
        logits_BTV, logits_JBTV = live.verify(tokens_BT, J if merged else 0)
        accepted_B = (torch.arange(live.B) + step) % (J + 1)
        live.keep(accepted_B)
        at_once = logits_JBTV[:, torch.arange(live.B), accepted_B].transpose(0, 1) if merged else None
        last_B = logits_BTV.argmax(-1).gather(1, accepted_B[:, None])[:, 0]
        for row, text in enumerate(texts):
            text += tokens_BT[row, : accepted_B[row] + 1].tolist()
    assert len(drafted) > 3, "the drafts differ, so that a mistaken one shows"


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear", "replicated"])
def test_a_sequence_is_the_same_alone_and_in_any_batch(arrangement: str) -> None:
    model = sharp_model(n_future_tokens=4, arrangement=arrangement)
    decoder = Decoder(model)
    prompts = ragged_prompts(2, (5, 2, 9, 2))
    together = decoder.generate(prompts, 30, k=3).tokens
    assert [decoder.generate([prompt], 30, k=3).tokens[0] for prompt in prompts] == together
    assert decoder.generate(prompts[::-1], 30, k=3).tokens == together[::-1]


def test_plain_matrices_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packing does not work on a machine, torch.mm takes over."""
    model = sharp_model(n_future_tokens=3, dim=512, layers=4, n_attention_heads=8)
    prompts = ragged_prompts(3)
    packed = Decoder(model).generate(prompts, 12, k=3)
    monkeypatch.setattr("components.decoding.kernels.packing_works", lambda dtype: False)
    assert Decoder(model).generate(prompts, 12, k=3).tokens == packed.tokens


def test_bfloat16_decodes_and_stays_near() -> None:
    """Equality is not promised in bfloat16; each choice must be within its rounding of the best one."""
    model = sharp_model(n_future_tokens=4)
    prompts = ragged_prompts(4)
    logits_std = float(model(torch.tensor([prompts[3]]), heads=1).detach().std())
    for k in (1, 4):
        made = Decoder(model, torch.bfloat16).generate(prompts, 16, k=k)
        assert all(m.margin < 0.1 * logits_std for m in full_forward_mismatches(model, prompts, made.tokens))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_stop_cuts_at_the_same_token_whatever_k(k: int) -> None:
    model = sharp_model(n_future_tokens=4)
    decoder = Decoder(model)
    prompts = ragged_prompts(5)
    free = decoder.generate(prompts, 40).tokens
    stop_ids = {free[0][7], free[1][20]}
    made = decoder.generate(prompts, 40, k=k, stop_ids=stop_ids)
    for row, tokens in enumerate(free):
        end = next((i + 1 for i, token in enumerate(tokens) if token in stop_ids), 40)
        assert made.tokens[row] == tokens[:end]

    seen: list[tuple[int, int]] = []

    def stop(row: int, tokens: list[int]) -> bool:
        seen.append((row, len(tokens)))
        return len(tokens) == 5 + row

    assert decoder.generate(prompts, 40, k=k, stop=stop).tokens == [t[: 5 + i] for i, t in enumerate(free)]
    assert sorted(seen) == [(row, length) for row in range(5) for length in range(1, 6 + row)]


def test_on_step_sees_every_token_once_in_order() -> None:
    model = sharp_model(n_future_tokens=4)
    prompts = ragged_prompts(6)
    told: list[list[int]] = [[] for _ in prompts]
    calls = []

    def on_step(new: Mapping[int, list[int]]) -> None:
        calls.append(1)
        for row, tokens in new.items():
            told[row] += tokens

    made = Decoder(model).generate(prompts, [9, 3, 9, 9, 1], k=4, on_step=on_step)
    assert told == made.tokens
    assert len(calls) == len(made.steps) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[1]], "max_new_tokens": 5, "k": 5}, "k is 5; this model has 4"),
        ({"prompts": [[1]], "max_new_tokens": 5, "k": 0}, "k is 0"),
        ({"prompts": [[1], []], "max_new_tokens": 5}, "prompt 1 is empty"),
        ({"prompts": [[1, VOCABULARY]], "max_new_tokens": 5}, f"token {VOCABULARY}; the model's vocabulary is 0..40"),
        ({"prompts": [[-1]], "max_new_tokens": 5}, "token -1"),
        ({"prompts": [[1]], "max_new_tokens": 0}, "at least 1"),
        ({"prompts": [[1]], "max_new_tokens": [3, 3]}, "2 limits for 1 prompts"),
    ],
)
def test_what_cannot_be_decoded_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoder(sharp_model(n_future_tokens=4)).generate(**arguments)  # type: ignore[arg-type]


def test_no_prompts_give_nothing() -> None:
    assert Decoder(sharp_model()).generate([], 5).tokens == []


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear", "replicated"])
def test_a_restricted_draft_vocabulary_changes_drafts_alone(arrangement: str) -> None:
    model = sharp_model(n_future_tokens=4, arrangement=arrangement)
    prompts = ragged_prompts(8)
    expected = Decoder(model).generate(prompts, 40)
    frequent = [17, 3, 40, 22, 8, 1]
    few = Decoder(model, draft_vocabulary=frequent)
    for k in (2, 4, "adaptive"):
        made = few.generate(prompts, 40, k=k)  # type: ignore[arg-type]
        assert made.tokens == expected.tokens
        for tokens, runs in zip(made.tokens, made.runs, strict=True):
            ends = {sum(runs[: i + 1]) - 1 for i in range(len(runs))}
            assert all(token in frequent for place, token in enumerate(tokens) if place not in ends), "accepted drafts"
    for wrong in ([], [VOCABULARY]):
        with pytest.raises(ValueError, match="draft_vocabulary holds"):
            Decoder(model, draft_vocabulary=wrong)


def test_weights_that_might_overflow_float16_are_cached_in_bfloat16() -> None:
    """With keys of 1e5, which bfloat16 holds and float16 does not, text comes out as from the model itself."""
    model = sharp_model(n_future_tokens=3)
    assert Decoder(model, torch.bfloat16).network.cache_dtype in (torch.float16, torch.bfloat16)
    with torch.no_grad():
        for layer in [*model.trunk, *model.prediction_heads]:
            width = layer.attention.q_width
            layer.attention.qkv.weight[:width] /= 1e5
            layer.attention.qkv.weight[width : width + layer.attention.kv_width] *= 1e5
    decoder = Decoder(model, torch.bfloat16)
    assert decoder.network.cache_dtype == torch.bfloat16
    prompts = ragged_prompts(4)
    made = decoder.generate(prompts, 16, k=3)
    logits_std = float(model(torch.tensor([prompts[3]]), heads=1).detach().std())
    assert all(m.margin < 0.1 * logits_std for m in full_forward_mismatches(model, prompts, made.tokens))


def test_sequences_take_the_places_of_those_that_ended() -> None:
    """Never more than `batch` at once, and every prompt is continued as it is alone."""
    model = sharp_model(n_future_tokens=4)
    decoder = Decoder(model)
    prompts = ragged_prompts(9, (3, 11, 1, 17, 11, 2, 30, 5, 7, 1))
    limits = [9, 30, 1, 1, 44, 3, 12, 5, 60, 2]
    alone = [decoder.generate([p], n).tokens[0] for p, n in zip(prompts, limits, strict=True)]
    for batch in (1, 2, 3, 20):
        made = decoder.generate(prompts, limits, k=3, batch=batch)
        assert made.tokens == alone
        assert max(len(step.accepted) for step in made.steps) == min(batch, 8)  # two end with their prompts
        assert all(0 < seconds < 60 for seconds in made.finished_seconds)
