"""The weight of choice points and of shared information in the multi-token loss: counted, measured, and as identities.

The measured figures: `pytest tests/synthetic/test_choice_points.py -k trained -rP`.
"""

import math

import numpy as np
import pytest
import torch

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.synthetic import choice_points
from components.synthetic.choice_points import ChoiceTask, Term, loss_terms, tied_terms
from components.training.cross_entropy import IGNORE
from components.training.loss import multi_token_backward

TASK = ChoiceTask(ways=4, run=4)
NATS = math.log(TASK.ways)


@pytest.mark.parametrize("n", range(1, 9))
def test_a_choice_point_has_half_of_n_plus_1_times_the_terms_of_a_detail(n: int) -> None:
    """Paper 5.1: n (n + 1) / 2 terms against n, wherever n tokens lie before and n from the transition on."""
    length = 2 * n + 5
    for transition in range(n, length - n + 1):
        choice = tied_terms(n, transition, length)
        detail = tied_terms(n, transition, length, consequential=False)
        assert len(set(choice)) == len(choice) == n * (n + 1) // 2
        assert len(set(detail)) == len(detail) == n
        assert set(detail) <= set(choice) <= set(loss_terms(n, length))
        for ahead in range(1, n + 1):
            assert sum(term.ahead == ahead for term in choice) == ahead, "head i crosses from i positions"


def test_the_terms_of_figure_9() -> None:
    """1 2 3 4 5 A B C at n = 3: token 5 predicts A, B, C; 4 predicts A, B at its second and third; 3 predicts A."""
    tokens = "12345ABC"
    pairs = [(tokens[t.position], tokens[t.target]) for t in tied_terms(3, tokens.index("A"), len(tokens))]
    assert pairs == [("3", "A"), ("4", "A"), ("4", "B"), ("5", "A"), ("5", "B"), ("5", "C")]


@pytest.mark.parametrize("n", range(1, 9))
def test_tied_are_the_predictions_that_are_wrong_after_the_wrong_way(n: int) -> None:
    """The paper's own counting (L.3): predictions of one who would go the other way, on the sequence that did not."""
    length, transition = 20, 10
    taken = [f"token {i}" for i in range(length)]
    derailed = [token if i < transition else f"other {i}" for i, token in enumerate(taken)]
    detour = [token if i != transition else "other" for i, token in enumerate(taken)]
    for other, consequential in ((derailed, True), (detour, False)):
        wrong = []
        for position in range(length):
            expected = other if position < transition else taken  # teacher forcing: behind it the way taken is seen
            for ahead in range(1, n + 1):
                if position + ahead < length and expected[position + ahead] != taken[position + ahead]:
                    wrong.append(Term(position, ahead))
        assert tied_terms(n, transition, length, consequential) == wrong


def test_edges_of_the_sequence_take_terms_away() -> None:
    for n in range(1, 9):
        for length in range(2, 20):
            for s in range(1, length):
                choice = sum(max(0, min(s, length - i) - max(0, s - i)) for i in range(1, n + 1))
                assert len(tied_terms(n, s, length)) == choice
                assert len(tied_terms(n, s, length, consequential=False)) == min(n, s)
    assert len(tied_terms(4, 1, 20)) == 4, "from the first token each head crosses once"
    assert len(tied_terms(4, 1, 20, consequential=False)) == 1
    assert tied_terms(4, 19, 20) == tied_terms(4, 19, 20, consequential=False), "nothing follows the last token"
    assert len(tied_terms(4, 18, 20)) == 4 + 3
    for outside in (0, 20, -1):
        with pytest.raises(ValueError, match="transitions 1 to 19"):
            tied_terms(4, outside, 20)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_term_i_ahead_crosses_i_transitions_and_predicts_one(n: int) -> None:
    length = 15
    crossing = [term for s in range(1, length) for term in tied_terms(n, s, length)]
    direct = [term for s in range(1, length) for term in tied_terms(n, s, length, consequential=False)]
    assert sorted(direct) == loss_terms(n, length)
    assert all(crossing.count(term) == term.ahead for term in loss_terms(n, length))


@pytest.mark.parametrize("n", range(1, 5))
def test_the_ideal_loss_is_the_terms_tied_to_what_is_open(n: int) -> None:
    """Each costs log ways, all others nothing: the costs follow from the sequences, and know nothing of counting."""
    sequences_SL = TASK.sequences()
    length = sequences_SL.shape[1]
    loss = choice_points.ideal_loss(sequences_SL, n)
    choice, detail = tied_terms(n, TASK.choice, length), tied_terms(n, TASK.detail, length, consequential=False)
    assert loss.keys() == set(loss_terms(n, length))
    for term, nats in loss.items():
        assert nats == pytest.approx(NATS if term in choice + detail else 0, abs=1e-12)
    assert sum(loss[term] for term in choice) == pytest.approx(n * (n + 1) / 2 * NATS)
    assert sum(loss[term] for term in detail) == pytest.approx(n * NATS)


def targets_of(sequences_SL: np.ndarray, n: int, terms: list[Term]) -> torch.Tensor:
    """Targets by head, sequence and position, as the loss takes them, of these terms alone."""
    targets_KBT = np.full((n, *sequences_SL.shape), IGNORE)
    for term in terms:
        targets_KBT[term.ahead - 1, :, term.position] = sequences_SL[:, term.target]
    return torch.from_numpy(targets_KBT)


@pytest.mark.parametrize("n", range(1, 5))
def test_a_trained_model_s_loss_is_tied_to_the_choice_as_counted(n: int) -> None:
    """The project's loss on a small model: what it sums up to over the terms of each transition, in nats a sequence."""
    sequences_SL = TASK.sequences()
    S, L = sequences_SL.shape
    tokens_BT = torch.from_numpy(sequences_SL)
    torch.manual_seed(1)
    shape = ModelConfig(
        dim=32, layers=n + 1, n_attention_heads=2, ffn_dim=64, vocabulary_size=TASK.vocabulary_size, n_future_tokens=n
    )
    model = MultiTokenTransformer(shape)
    steps = 150
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    targets_KBT = targets_of(sequences_SL, n, loss_terms(n, L))
    scale_K = 1 / (targets_KBT != IGNORE).sum((1, 2)).float()
    for _ in range(steps):
        optimizer.zero_grad()
        multi_token_backward(model, tokens_BT, targets_KBT, scale_K)
        optimizer.step()
        schedule.step()

    choice, detail = tied_terms(n, TASK.choice, L), tied_terms(n, TASK.detail, L, consequential=False)
    others = [term for term in loss_terms(n, L) if term not in choice + detail]

    def nats_by_head(terms: list[Term]) -> torch.Tensor:
        sums = multi_token_backward(model, tokens_BT, targets_of(sequences_SL, n, terms), torch.zeros(n))
        assert sums.count_K.sum() == S * len(terms)
        return sums.loss_K / S

    of_choice, of_detail, of_others = (float(nats_by_head(terms).sum()) for terms in (choice, detail, others))
    print(
        f"n = {n}: choice {of_choice:.3f} nats, {of_choice / NATS:.3f} log ways; detail {of_detail:.3f} nats, "
        f"{of_detail / NATS:.3f} log ways; ratio {of_choice / of_detail:.3f}; {len(others)} others {of_others:.3f} nats"
    )
    # the sequences are the whole distribution: no model is below its entropy, but for float32's rounding
    assert 1 - 1e-5 < of_choice / (n * (n + 1) / 2 * NATS) < 1.01
    assert 1 - 1e-5 < of_detail / (n * NATS) < 1.01
    assert 0 <= of_others < 0.01 * NATS * len(others)
    assert (nats_by_head(choice) / NATS).tolist() == pytest.approx(range(1, n + 1), rel=0.01)
    assert of_choice / of_detail == pytest.approx((n + 1) / 2, rel=0.01)


def tables(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (p, q) of random joint tables, from near uniform to near certain, p also with zeros."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        shape = tuple(random.integers(1, 7, 2))
        concentration = 10.0 ** random.uniform(-1, 1)
        p_XY = random.gamma(concentration, size=shape) * (random.random(shape) < random.choice([0.4, 1.0]))
        p_XY[random.integers(shape[0]), random.integers(shape[1])] += 0.1  # never all zero
        q_XY = random.gamma(concentration, size=shape) + 1e-6
        made.append((p_XY / p_XY.sum(), q_XY / q_XY.sum()))
    return made


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def test_two_entropies_hold_mutual_information_twice() -> None:
    """Paper 5.2 and L.2: H(X) + H(Y) = H(X|Y) + 2 I(X; Y) + H(Y|X)."""
    for p_XY, _ in tables(1, 2000):
        given_Y, given_X = choice_points.conditional_entropy(p_XY), choice_points.conditional_entropy(p_XY.T)
        shared = choice_points.mutual_information(p_XY)
        of_X, of_Y = choice_points.entropy(p_XY.sum(1)), choice_points.entropy(p_XY.sum(0))
        assert of_X + of_Y == close(given_Y + 2 * shared + given_X)
        assert choice_points.entropy(p_XY) == close(of_Y + given_Y)
        assert choice_points.entropy(p_XY) == close(of_X + given_X)
        assert shared >= -1e-12


def test_the_lemma_on_a_model_s_cross_entropies() -> None:
    """Paper L.2: H(p_X, q_X) = H(p_X|Y, q_X|Y) + I_p||q(X; Y); both sides computed by themselves."""
    signs = set()
    for p_XY, q_XY in tables(2, 2000):
        shared = choice_points.relative_mutual_information(p_XY, q_XY)
        of_X = choice_points.cross_entropy(p_XY.sum(1), q_XY.sum(1))
        of_Y = choice_points.cross_entropy(p_XY.sum(0), q_XY.sum(0))
        given_Y = choice_points.conditional_cross_entropy(p_XY, q_XY)
        given_X = choice_points.conditional_cross_entropy(p_XY.T, q_XY.T)
        assert of_X == close(given_Y + shared)
        assert of_X + of_Y == close(given_Y + 2 * shared + given_X)
        assert choice_points.relative_mutual_information(p_XY.T, q_XY.T) == close(shared)
        assert choice_points.relative_mutual_information(p_XY, p_XY) == close(choice_points.mutual_information(p_XY))
        assert choice_points.cross_entropy(p_XY, q_XY) == close(
            choice_points.entropy(p_XY) + choice_points.relative_entropy(p_XY, q_XY)
        )
        signs.add(np.sign(round(shared, 6)))
    assert {-1.0, 1.0} <= signs, "a model's dependence can help or mislead"


def test_a_dependence_turned_around_is_worth_less_than_none() -> None:
    """By hand: q says that Y repeats X nine times in ten, and in p it never does."""
    p_XY, q_XY = np.array([[0, 0.5], [0.5, 0]]), np.array([[0.45, 0.05], [0.05, 0.45]])
    assert choice_points.mutual_information(p_XY) == close(math.log(2))
    assert choice_points.relative_mutual_information(p_XY, q_XY) == close(math.log(0.05 / 0.25))


def test_mutual_information_is_the_double_loop_s_and_scipy_s() -> None:
    drawn = [p_XY for p_XY, _ in tables(3, 500)]
    for p_XY in drawn:
        by_loop = 0.0
        for x in range(p_XY.shape[0]):
            for y in range(p_XY.shape[1]):
                if p_XY[x, y]:
                    by_loop += p_XY[x, y] * math.log(p_XY[x, y] / (sum(p_XY[x]) * sum(p_XY[:, y])))
        assert choice_points.mutual_information(p_XY) == close(by_loop)
    stats = pytest.importorskip("scipy.stats")
    for p_XY in drawn:
        independent = stats.contingency.expected_freq(p_XY)
        assert choice_points.mutual_information(p_XY) == close(stats.entropy(p_XY, independent, axis=None))


def test_what_two_tokens_share_is_what_a_choice_decides() -> None:
    """Both arguments in one: at the token before, the 2-token loss has log ways twice for the choice and its
    consequence, which is 2 I, and once for the detail, which the token behind it does not share."""
    sequences_SL = TASK.sequences()
    loss = choice_points.ideal_loss(sequences_SL, 2)
    for transition, shared in ((TASK.choice, NATS), (TASK.detail, 0)):
        pairs_SX = sequences_SL[:, transition : transition + 2]
        p_XY = np.zeros((TASK.vocabulary_size, TASK.vocabulary_size))
        np.add.at(p_XY, tuple(pairs_SX.T), 1 / len(pairs_SX))
        given_Y, given_X = choice_points.conditional_entropy(p_XY), choice_points.conditional_entropy(p_XY.T)
        both = loss[Term(transition - 1, 1)] + loss[Term(transition - 1, 2)]
        assert choice_points.mutual_information(p_XY) == close(shared)
        assert both == close(given_Y + 2 * shared + given_X)
        assert both == close(NATS + shared)


def test_tables_that_are_no_distributions_are_refused() -> None:
    half = np.full((2, 2), 0.25)
    with pytest.raises(ValueError, match="sums up to 4"):
        choice_points.entropy(np.ones((2, 2)))
    with pytest.raises(ValueError, match="no entry below 0"):
        choice_points.entropy(np.array([1.5, -0.5]))
    with pytest.raises(ValueError, match="must be equal"):
        choice_points.cross_entropy(half, np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="above 0 there"):
        choice_points.relative_mutual_information(half, np.array([[0.5, 0], [0, 0.5]]))
    assert choice_points.cross_entropy(half, np.array([[0.5, 0], [0, 0.5]])) == math.inf
