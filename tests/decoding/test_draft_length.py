"""The draft length chosen while decoding: by simulated costs and acceptance, and in the engine."""

import random

import pytest
import torch

from components.decoding.draft_length import DraftLength, Experience, choices
from components.decoding.engine import Decoder
from components.decoding.live import Live
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer


def simulated(
    r: dict[int, float], rates: list[float], steps: int, sequences: int, seed: int = 0
) -> tuple[float, float]:
    """Tokens per second of the choice, over that of the best fixed k, and the share of steps at that k."""
    generator = random.Random(seed)
    n = max(r)
    length = DraftLength(n, Experience(n))

    def expected(k: int) -> float:
        total = share = 1.0
        for rate in rates[: k - 1]:
            share *= rate
            total += share
        return total

    best = max(r, key=lambda k: expected(k) / r[k])
    tokens = seconds = at_best = 0.0
    for _ in range(steps):
        k = length.choose(sequences)
        accepted = []
        for _ in range(sequences):
            count = 0
            while count < k - 1 and generator.random() < rates[count]:
                count += 1
            accepted.append(count)
        took = r[k] * (1 + 0.05 * generator.random())
        length.saw(sequences, k, accepted, took, True)
        tokens += sum(accepted) + sequences
        seconds += took
        at_best += k == best
    return tokens / seconds / (sequences * expected(best) / (r[best] * 1.025)), at_best / steps


@pytest.mark.parametrize("sequences", [1, 4, 16])
@pytest.mark.parametrize(
    ("r", "rates"),
    [
        ({1: 1.0, 2: 1.1, 3: 1.15, 4: 1.25}, [0.94, 0.89, 0.86]),  # all drafts pay
        ({1: 1.0, 2: 1.1, 3: 1.15, 4: 1.25}, [0.3, 0.2, 0.1]),
        ({1: 1.0, 2: 1.6, 3: 2.3, 4: 3.0}, [0.94, 0.89, 0.86]),  # a large batch: none or few do
        ({1: 1.0, 2: 1.6, 3: 2.3, 4: 3.0}, [0.1, 0.1, 0.1]),
        ({1: 1.0, 2: 1.3, 3: 1.9, 4: 2.6}, [0.95, 0.3, 0.3]),  # exactly one
        ({k: 1 + 0.02 * k for k in choices(8)}, [0.98] * 7),
    ],
)
def test_it_finds_the_best_length(r: dict[int, float], rates: list[float], sequences: int) -> None:
    share, _ = simulated(r, rates, 500, sequences)
    assert share > 0.95


def test_it_follows_when_acceptance_changes() -> None:
    """Drafts that are never right become always right: after some steps they are used, and the other way round."""
    length, r = DraftLength(4, Experience(4)), {1: 1.0, 2: 1.4, 3: 1.8, 4: 2.2}
    chosen = []
    for step in range(1200):
        k = length.choose(1)
        good = 400 <= step < 800
        length.saw(1, k, [(k - 1) if good else 0], r[k], True)
        chosen.append(k)
    assert chosen[300:400].count(1) > 85
    assert chosen[700:800].count(4) > 85
    assert chosen[1100:].count(1) > 85


def test_a_machine_that_slows_down_slows_all_lengths() -> None:
    """Steps take half as long again from one moment on, whatever k: the k in use is not left for one that was timed
    before and brings 7 % less."""
    length, r = DraftLength(3, Experience(3)), {1: 1.0, 2: 1.8, 3: 2.5}
    chosen = []
    for step in range(400):
        k = length.choose(1)
        length.saw(1, k, [k - 1], r[k] * (1.5 if step >= 200 else 1.0), True)
        chosen.append(k)
    assert chosen[150:200].count(3) >= 48
    assert chosen[200:].count(3) >= 192


@pytest.mark.parametrize("sequences", [1, 4])
def test_a_first_call_pays_little_for_learning(sequences: int) -> None:
    """With nothing known, over about a hundred steps."""
    shares = [
        simulated({k: 0.95 + 0.05 * k for k in choices(8)}, [0.96] * 7, 100, sequences, seed)[0] for seed in range(20)
    ]
    assert sum(shares) / 20 > 0.93


@pytest.mark.parametrize("bad", [1, 4])
def test_one_bad_first_time_does_not_decide(bad: int) -> None:
    """The first step with a k takes eight times as long as the others with it."""
    length, r = DraftLength(4, Experience(4)), {1: 1.0, 2: 1.1, 3: 1.2, 4: 1.3}
    chosen: list[int] = []
    for _ in range(60):
        k = length.choose(1)
        length.saw(1, k, [k - 1], r[k] * (8 if k == bad and k not in chosen else 1), True)
        chosen.append(k)
    assert chosen[20:].count(4) >= 38


def test_what_lies_by_is_not_spent_at_once() -> None:
    """After long with drafts that are right comes long with drafts that never are: little time is lost on them."""
    length, r = DraftLength(4, Experience(4)), {1: 1.0, 2: 1.5, 3: 2.0, 4: 2.5}
    seconds = 0.0
    for step in range(22_000):
        k = length.choose(1)
        length.saw(1, k, [k - 1 if step < 20_000 else 0], r[k], True)
        seconds += r[k] if step >= 20_100 else 0
    assert seconds < 1.02 * 1900


def test_a_k_without_a_usual_step_is_timed_all_the_same() -> None:
    length, chosen = DraftLength(4, Experience(4)), []
    for _ in range(60):
        k = length.choose(1)
        length.saw(1, k, [0], float(k), False)
        chosen.append(k)
    assert chosen[30:].count(1) > 25


def test_heads_that_were_away_draft_at_once_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step without drafts, one draft before verification, and from then on along with it."""
    config = ModelConfig(dim=32, layers=6, n_attention_heads=2, vocabulary_size=50, n_future_tokens=4)
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    decoder = Decoder(model.eval())
    monkeypatch.setattr(decoder.network, "unembedding_seconds", lambda rows: 1.0)
    asked = []
    verify = Live.verify
    monkeypatch.setattr(Live, "verify", lambda self, t, heads=0: asked.append(heads) or verify(self, t, heads))
    draft = Live.draft
    monkeypatch.setattr(Live, "draft", lambda self, heads: asked.append("draft") or draft(self, heads))
    plan = iter([4, 4, 1, 4, 4, 2, 4, 4] + [1] * 99)
    monkeypatch.setattr(DraftLength, "choose", lambda self, sequences: next(plan))
    decoder.generate([[1, 2, 3]], 40, k="adaptive")
    assert asked[:12] == ["draft", 3, 3, 0, "draft", 3, 3, 1, "draft", 3, 3, 0]


def test_times_by_one_number_of_threads_do_not_speak_for_another() -> None:
    times, before = Experience(2), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        times.add(1, 2, 5.0)
        torch.set_num_threads(1)
        assert times.seconds(1, 2) is None
    finally:
        torch.set_num_threads(before)


def test_times_of_a_batch_size_serve_similar_ones() -> None:
    times = Experience(3)
    for k in choices(3):
        times.add(12, k, float(k))
    assert times.seconds(16, 2) == times.seconds(9, 2) == pytest.approx(2.0)
    assert times.seconds(8, 2) is None


@pytest.mark.parametrize("arrangement", ["parallel", "causal", "anticausal", "linear", "replicated"])
def test_heads_that_come_back_draft_as_if_never_away(arrangement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a forced sequence of k, long stretches without any draft among them, acceptance is what fixed k have: the
    drafts are those of heads that saw every token, as `test_decoding_lossless` checks one by one."""
    config = ModelConfig(
        dim=32, layers=6, n_attention_heads=2, vocabulary_size=50, n_future_tokens=4, arrangement=arrangement  # type: ignore[arg-type]
    )  # fmt: skip
    model = MultiTokenTransformer(config)
    model.init_weights(0)
    plan = [4, 1, 1, 1, 1, 1, 1, 4, 2, 2, 1, 3, 4, 4, 1, 2, 4, 3] * 40
    coming = iter(plan)
    monkeypatch.setattr(DraftLength, "choose", lambda self, sequences: next(coming))
    decoder = Decoder(model.eval())
    prompts = [[1, 2, 3], [4], [5] * 9]
    made = decoder.generate(prompts, [90, 40, 70], k="adaptive")
    assert made.tokens == decoder.generate(prompts, [90, 40, 70]).tokens
    if arrangement in ("parallel", "causal"):
        assert max(step.caught_up for step in made.steps) >= 6
    assert [step.k for step in made.steps] == plan[: len(made.steps)]
    assert torch.is_inference_mode_enabled() is False
