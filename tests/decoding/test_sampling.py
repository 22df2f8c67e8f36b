"""Drafting never changes what is sampled: by enumeration of the rule, and by counting what the engine emits."""

import math
from collections import Counter
from itertools import product

import pytest
import torch
from torch import Tensor

from components.decoding.engine import Decoder
from components.decoding.sampling import FEW, Samplers, Sampling, accept, draw, uniform
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

CPU = torch.device("cpu")


def emitted_distribution(p_TV: Tensor, q_JV: Tensor) -> dict[tuple[int, ...], float]:
    """What the rule emits, with its probability: drafts in all combinations, and the random numbers in cells of equal
    size, at their middles. (Exact when p, q and p / q lie on the cells' edges.)"""
    J, V = q_JV.shape
    cells = (torch.arange(40) + 0.5) / 40
    found: Counter[tuple[int, ...]] = Counter()
    for drafts in product(range(V), repeat=J):
        weight = math.prod(float(q_JV[j, x]) for j, x in enumerate(drafts))
        if not weight:
            continue
        numbers = torch.cartesian_prod(*[cells] * (J + 1)).view(-1, J + 1).double()
        B = numbers.shape[0]
        accepted_B, last_B = accept(
            p_TV.expand(B, -1, -1),
            q_JV.expand(B, -1, -1),
            torch.tensor(drafts).expand(B, J),
            numbers[:, :J],
            numbers[:, J:].expand(B, J + 1),
        )
        for count, last in zip(accepted_B.tolist(), last_B.tolist(), strict=True):
            found[*drafts[:count], last] += weight / B
    return found


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], [[0.2, 0.3, 0.1, 0.4]]),
        ([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], [[0.0, 0.5, 0.5, 0.0]]),
        ([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0, 0.0]]),  # greedy, drafted wrong
        ([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0, 0.0]]),  # greedy, drafted right
        ([[0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], [[0.8, 0.2], [0.4, 0.6]]),
    ],
)
def test_the_rule_emits_head_zeros_distribution(p: list[list[float]], q: list[list[float]]) -> None:
    """The first token has distribution p[0]; behind an accepted first one, the second has p[1]; and so on: p does not
    depend on what came before here, so the tokens emitted at place i have p[i] among the runs that reach it."""
    p_TV, q_JV = torch.tensor(p), torch.tensor(q)
    found = emitted_distribution(p_TV, q_JV)
    assert sum(found.values()) == pytest.approx(1)
    for place in range(len(p)):
        reached = sum(share for run, share in found.items() if len(run) > place)
        for token in range(p_TV.shape[1]):
            share = sum(share for run, share in found.items() if len(run) > place and run[place] == token)
            if place == 0:
                assert share == pytest.approx(float(p_TV[0, token]), abs=0.01), (place, token)
            elif reached:
                assert share / reached == pytest.approx(float(p_TV[place, token]), abs=0.03), (place, token)
    drafts_accepted = sum(share for run, share in found.items() if len(run) > 1)
    assert drafts_accepted == pytest.approx(float(torch.minimum(p_TV[0], q_JV[0]).sum()), abs=0.01)


def hot_model(vocabulary: int, arrangement: str = "parallel", n: int = 3) -> MultiTokenTransformer:
    """Distributions that are neither flat nor sharp, and heads that do not agree."""
    config = ModelConfig(
        dim=16,
        layers=5,
        n_attention_heads=2,
        ffn_dim=32,
        vocabulary_size=vocabulary,
        n_future_tokens=n,
        arrangement=arrangement,  # type: ignore[arg-type]
    )
    model = MultiTokenTransformer(config)
    model.init_weights(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
        for table in model.unembedding:
            table.weight.mul_(4)
    return model.eval()


def filtered(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Temperature, top-k and top-p by their words, one symbol at a time."""
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits_V.argmax(), len(logits_V)).double()
    p = (logits_V.double() / sampling.temperature).softmax(0)
    order = p.argsort(descending=True).tolist()
    if sampling.top_k:
        order = order[: sampling.top_k]
    total = sum(float(p[token]) for token in order)
    kept, reached = [], 0.0
    for token in order:
        if reached >= sampling.top_p:
            break
        kept.append(token)
        reached += float(p[token]) / total
    result = torch.zeros_like(p)
    result[kept] = p[kept]
    return result / result.sum()


@pytest.mark.parametrize("vocabulary", [7, 1500, 6000])
def test_distributions_are_cut_as_the_words_say(vocabulary: int) -> None:
    rows = [
        Sampling(), Sampling(0.7), Sampling(1.3, top_k=3), Sampling(1.0, top_p=0.6), Sampling(0.9, 5, 0.8),
        Sampling(1.0, top_p=1e-9), Sampling(1.0, top_k=vocabulary + 5), Sampling(1.5, top_p=0.99),
        Sampling(1.0, top_k=1000, top_p=0.98),
    ]  # fmt: skip
    logits = 2 * torch.randn((len(rows), 2, vocabulary), generator=torch.Generator().manual_seed(1))
    found = Samplers.of(rows, CPU).probabilities(logits)
    if vocabulary > max(FEW):  # each way of looking is gone
        kept = (found > 0).sum(-1)
        assert (kept[3] > FEW[0]).all()
        assert (kept[3] < FEW[1]).all()
        assert (kept[7] > FEW[1]).all()
    for b, row in enumerate(rows):
        alone = Samplers.of([row], CPU).probabilities(logits[b : b + 1])
        assert torch.equal(alone[0], found[b]), "what is drawn from depends on the neighbours"
        for t in range(2):
            torch.testing.assert_close(found[b, t].double(), filtered(logits[b, t], row), atol=2e-6, rtol=1e-5)


def test_of_equal_symbols_as_many_are_kept_as_the_words_say() -> None:
    """Logits of bfloat16 come in steps: which of equal symbols stay is open, how many is not."""
    logits = (3 * torch.randn((4, 1, 6000), generator=torch.Generator().manual_seed(2))).bfloat16()
    for row in (Sampling(1.0, top_p=0.7), Sampling(1.0, top_p=0.95), Sampling(1.0, top_k=200)):
        found = Samplers.of([row] * 4, CPU).probabilities(logits)
        for b in range(4):
            expected = filtered(logits[b, 0], row).sort().values
            torch.testing.assert_close(found[b, 0].double().sort().values, expected, atol=2e-6, rtol=1e-5)


def test_a_draw_falls_where_the_running_sum_passes() -> None:
    """Against one sum over all, with symbols of no weight at either end and between."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand((50, 1000), generator=generator) * (torch.rand((50, 1000), generator=generator) < 0.05)
    weights[:, :70] = weights[:, 930:] = 0.0
    for at in (0.0, 0.3, 0.77, 1 - 2.0**-53):
        u = torch.full((50,), at, dtype=torch.float64)
        found = draw(weights, u)
        assert (weights.gather(1, found[:, None]) > 0).all()
        before = torch.stack([row[:place].double().sum() for row, place in zip(weights, found, strict=True)])
        at_sum = u * weights.double().sum(1)
        assert (before <= at_sum + 1e-9).all()
        assert (before + weights.gather(1, found[:, None])[:, 0] >= at_sum - 1e-9).all()


def chi_square(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float], total: int) -> float:
    """How many standard deviations the statistic lies above its mean; classes of fewer than 5 are put together."""
    statistic, classes, rest_found, rest_expected = 0.0, 0, 0, 0.0
    assert all(run in expected for run in counts), "what cannot be was emitted"
    for run, share in expected.items():
        if share * total < 5:
            rest_found, rest_expected = rest_found + counts[run], rest_expected + share * total
            continue
        statistic += (counts[run] - share * total) ** 2 / (share * total)
        classes += 1
    if rest_expected >= 5:
        statistic += (rest_found - rest_expected) ** 2 / rest_expected
        classes += 1
    return (statistic - (classes - 1)) / math.sqrt(2 * (classes - 1))


@pytest.mark.parametrize(
    ("arrangement", "k"),
    [("parallel", 1), ("parallel", 2), ("parallel", 3), ("parallel", "adaptive"), ("causal", 3), ("replicated", 3)],
)
@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.8, top_k=4, top_p=0.9)])
def test_sequences_are_sampled_with_the_models_probabilities(arrangement: str, sampling: Sampling, k: int) -> None:
    """All continuations of three tokens, with probabilities by full forwards, against 1,000 that the engine made."""
    V, total = 6, 1000
    model = hot_model(V, arrangement)
    prompt = [3, 1, 4]
    expected = {}
    for run in product(range(V), repeat=3):
        with torch.inference_mode():
            logits_TV = model(torch.tensor([[*prompt, *run[:-1]]]), heads=1)[0, 0, len(prompt) - 1 :]
        share = math.prod(float(filtered(row, sampling)[token]) for row, token in zip(logits_TV, run, strict=True))
        if share:
            expected[run] = share
    samplings = [Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed) for seed in range(total)]
    made = Decoder(model).generate([prompt] * total, 3, k=k, sampling=samplings, batch=1000)  # type: ignore[arg-type]
    deviations = chi_square(Counter(tuple(tokens) for tokens in made.tokens), expected, total)
    assert -4 < deviations < 4


def test_a_wrong_rule_would_be_seen() -> None:
    """A fifth of the tokens from the drafts' distribution instead: the statistic shows it."""
    V, total = 6, 4000
    p = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    q = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.2, 0.2])
    numbers = uniform(torch.arange(total)[:, None], torch.zeros((1, 1), dtype=torch.long), 0)[:, 0]
    right = draw(p.expand(total, V), numbers)
    wrong = draw((0.8 * p + 0.2 * q).expand(total, V), numbers)
    expected = {(token,): float(share) for token, share in enumerate(p)}
    assert abs(chi_square(Counter((t,) for t in right.tolist()), expected, total)) < 4
    assert chi_square(Counter((t,) for t in wrong.tolist()), expected, total) > 8


def test_random_numbers_are_even_and_unrelated() -> None:
    """Neighbouring seeds, indices and purposes: means, variances and correlations of 10,000 each."""
    numbers = torch.stack([uniform(torch.arange(100)[:, None], torch.arange(100), purpose) for purpose in range(3)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.unique().numel() == numbers.numel()
    flat = numbers.flatten(1)
    assert torch.allclose(flat.mean(1), torch.tensor(0.5).double(), atol=0.012)
    assert torch.allclose(flat.var(1), torch.tensor(1 / 12).double(), atol=0.004)
    shifted = torch.stack([flat[0], flat[1], flat[2], numbers[0].roll(1, 0).flatten(), numbers[0].roll(1, 1).flatten()])
    correlations = torch.corrcoef(shifted) - torch.eye(5)
    assert correlations.abs().max() < 0.04


def test_a_restricted_draft_vocabulary_leaves_the_distribution() -> None:
    """Symbols given twice among them, which must count once."""
    V, total = 6, 1500
    model = hot_model(V)
    expected = {}
    for run in product(range(V), repeat=2):
        with torch.inference_mode():
            logits_TV = model(torch.tensor([[3, 1, run[0]]]), heads=1)[0, 0, 1:]
        expected[run] = math.prod(float(row.softmax(0)[token]) for row, token in zip(logits_TV, run, strict=True))
    samplings = [Sampling(1.0, seed=seed) for seed in range(total)]
    decoder = Decoder(model, draft_vocabulary=[0, 0, 0, 1, 2])
    made = decoder.generate([[3, 1]] * total, 2, k=3, sampling=samplings, batch=500)
    assert -4 < chi_square(Counter(tuple(tokens) for tokens in made.tokens), expected, total) < 4


def test_the_smallest_temperature_is_greedy() -> None:
    """Dividing by it must not make numbers that are none."""
    model = hot_model(50)
    greedy = Decoder(model).generate([[1, 2]], 20).tokens
    for temperature in (1e-39, 1e-44, 1e-50, 5e-324):  # the last are 0 in float32
        assert Decoder(model).generate([[1, 2]], 20, k=3, sampling=Sampling(temperature)).tokens == greedy


@pytest.mark.parametrize("k", [1, 3])
def test_what_a_row_samples_depends_on_its_seed_alone(k: int) -> None:
    """Neighbours, their number, when they end and who comes after them change nothing; another seed does."""
    model = hot_model(50)
    decoder = Decoder(model, row_invariant=True)
    prompts = [[1 + i, 2, 3][: 1 + i % 3] for i in range(9)]
    limits = [17, 4, 9, 30, 12, 1, 8, 25, 6]
    samplings = [Sampling(0.9, top_p=0.95, seed=i) for i in range(9)]
    samplings[4] = Sampling()
    together = decoder.generate(prompts, limits, k=k, sampling=samplings).tokens
    in_turns = decoder.generate(prompts, limits, k=k, sampling=samplings, batch=2).tokens
    alone = [
        decoder.generate([p], n, k=k, sampling=s).tokens[0] for p, n, s in zip(prompts, limits, samplings, strict=True)
    ]
    assert together == in_turns == alone
    assert alone[4] == decoder.generate([prompts[4]], limits[4]).tokens[0]
    others = [Sampling(s.temperature, s.top_k, s.top_p, s.seed + 100) for s in samplings]
    changed = decoder.generate(prompts, limits, k=k, sampling=others).tokens
    assert sum(a != b for a, b in zip(changed, together, strict=True)) >= 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"seed": 1 << 63}, "64 bits"),
        ({"temperature": float("inf")}, "and finite"),
        ({"top_k": 10**20}, "top_k is 1.*64 bits"),
        ({"top_k": 2.5}, "top_k is 2.5; it must be a whole number"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**values)  # type: ignore[arg-type]
