"""Models whose drafts are right by construction: as many are accepted as must be, and the output stays the same.

In the replicated arrangement with layers that add nothing, z is the embedding of the last token, so every head is a
table from one token to another: head i can be made right, wrong, or right for some tokens.
"""

import math

import pytest
import torch

from components.decoding.checks import full_forward_mismatches, heldout_steps
from components.decoding.engine import Decoder
from components.decoding.synthetic import draws_with
from components.model.acceptance import tokens_per_forward_of
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

V = 12


def table_model(n: int, wrong: dict[int, set[int]], arrangement: str = "replicated") -> MultiTokenTransformer:
    """Next token = last token + 1 (mod V); draft head i says last + 1 + i, but for the tokens in wrong[i]."""
    config = ModelConfig(
        dim=16,
        layers=n + 2,
        n_attention_heads=2,
        ffn_dim=16,
        vocabulary_size=V,
        n_future_tokens=n,
        arrangement=arrangement,  # type: ignore[arg-type]
    )
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attention.out.weight", "ffn.down.weight")):
                parameter.zero_()
        model.embedding.weight.zero_()
        model.embedding.weight[:, :V] = torch.eye(V)
        for i, table in enumerate(model.unembedding):
            table.weight.zero_()
            for token in range(V):
                target = token + 1 + i + (token in wrong.get(i, set()))
                table.weight[target % V, token] = 5.0
    return model.eval()


def expected_runs(wrong: dict[int, set[int]], first: int, length: int, k: int) -> list[int]:
    """Runs by counting: drafts up to the first wrong one. Heads read the last token that the trunk has seen, which is
    the one before the last emitted."""
    runs, last, left = [1], first, length - 1
    while left:
        read = (last - 1) % V
        accepted = next((i - 1 for i in range(1, k) if read in wrong.get(i, set())), k - 1)
        run = min(accepted + 1, left)
        runs.append(run)
        last, left = (last + run) % V, left - run
    return runs


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_runs_are_as_constructed(k: int) -> None:
    wrong = {1: {3}, 2: {5, 8}, 4: {0, 1, 2, 6, 11}}
    model = table_model(5, wrong)
    prompts = [[7, 2], [0], [4, 4, 4, 9], [11, 5]]
    made = Decoder(model).generate(prompts, [30, 17, 24, 40], k=k)
    for prompt, tokens, runs in zip(prompts, made.tokens, made.runs, strict=True):
        assert tokens == [(prompt[-1] + 1 + i) % V for i in range(len(tokens))]
        assert runs == expected_runs(wrong, (prompt[-1] + 1) % V, len(tokens), k)
    assert full_forward_mismatches(model, prompts, made.tokens) == []


def test_perfect_drafts_give_k_tokens_a_step_and_wrong_ones_give_one() -> None:
    perfect = Decoder(table_model(8, {})).generate([[3]], 1 + 8 * 5, k=8)
    assert len(perfect.steps) == 5
    assert [step.accepted for step in perfect.steps] == [[7]] * 5
    assert perfect.tokens_per_forward == 8
    useless = Decoder(table_model(8, {1: set(range(V))})).generate([[3]], 9, k=8)
    assert [step.accepted for step in useless.steps] == [[0]] * 8
    assert useless.tokens_per_forward == 1


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear"])
def test_heads_accept_what_a_learned_pattern_allows(arrangement: str) -> None:
    """A model trained on a period of 7 symbols: all heads learn it, so runs of k are accepted, in ragged batches."""
    torch.manual_seed(0)
    config = ModelConfig(
        dim=32,
        layers=5,
        n_attention_heads=2,
        ffn_dim=64,
        vocabulary_size=V,
        n_future_tokens=4,
        arrangement=arrangement,  # type: ignore[arg-type]
    )
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    period = torch.tensor([1, 4, 1, 9, 2, 6, 2])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        starts = torch.randint(7, (8, 1))
        tokens = period[(starts + torch.arange(56)) % 7]
        logits = model(tokens[:, :-4])
        loss = sum(
            torch.nn.functional.cross_entropy(logits[i].flatten(0, 1), tokens[:, 1 + i : 53 + i].flatten())
            for i in range(4)
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    model.eval()
    text = [int(period[i % 7]) for i in range(40)]
    prompts = [text[: 5 + length] for length in (2, 9, 4)]
    decoder = Decoder(model)
    plain = decoder.generate(prompts, [29, 21, 33])
    assert full_forward_mismatches(model, prompts, plain.tokens) == []
    for k in (2, 3, 4):
        made = decoder.generate(prompts, [29, 21, 33], k=k)
        assert made.tokens == plain.tokens
        assert made.tokens_per_forward > 0.9 * k
        assert heldout_steps(model, [text], skip=10, ks=(k,))[k][:-1] == [0] * (k - 1)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_along_the_text_it_would_write_a_decoder_is_led_as_it_decodes(k: int) -> None:
    model = table_model(4, {1: {3}, 2: {5, 8}, 3: {0}})
    prompt = [i % V for i in range(V + 1)]
    made = Decoder(model).generate([prompt], 5 * V, k=k)
    window = prompt + made.tokens[0]
    place, expected = len(prompt) - 1, [0] * k
    for (accepted,) in (step.accepted for step in made.steps):
        if place > len(window) - 4:
            break
        expected[accepted] += 1
        place += accepted + 1
    histogram = heldout_steps(model, [window, window], skip=len(prompt) - 1, ks=(k,))[k]
    assert histogram == [2 * count for count in expected]
    assert 1 <= tokens_per_forward_of(histogram) <= k


def test_a_stretch_that_repeats_counts_by_its_steps() -> None:
    """All heads right: two steps of four tokens lie in eight positions, whatever is said of each position."""
    model = table_model(4, {})
    window = [i % V for i in range(V + 11)]
    assert heldout_steps(model, [window], skip=V, ks=(1, 2, 4)) == {1: [8], 2: [0, 4], 4: [0, 0, 0, 2]}
    assert tokens_per_forward_of([0, 0, 0, 2]) == 4
    assert math.isnan(tokens_per_forward_of([0, 0]))


def test_synthetic_acceptance_has_the_given_shares() -> None:
    """The real drafts would all be wrong; the counted ones follow the distribution."""
    decoder = Decoder(table_model(3, {1: set(range(V))}))
    made = decoder.generate([[1]] * 8, 200, k=3, batch=4, draw_accepted=draws_with((0.8, 0.3), seed=0))
    accepted = [count for step in made.steps for count in step.accepted]
    # 8 sequences of about 95 steps: a standard error below 0.02
    for drafts, share in ((1, 0.8), (2, 0.3)):
        assert sum(count >= drafts for count in accepted) / len(accepted) == pytest.approx(share, abs=0.06)
    assert made.tokens_per_forward == pytest.approx(2.1, abs=0.08)
    with pytest.raises(ValueError, match="do not increase"):
        draws_with((0.3, 0.8), seed=0)
