"""Intervals over seeds: against scipy, against numbers worked by hand, and what shifting and scaling must do."""

import random

import pytest

from components.report.intervals import estimate, half_width_over_windows, paired_difference, student_t


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 9, 30, 31, 400])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_student_are_scipy_s(degrees: int, confidence: float) -> None:
    t = pytest.importorskip("scipy.stats").t
    assert student_t(degrees, confidence) == pytest.approx(t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


def test_the_interval_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [4.31, 4.02, 4.4, 4.17]
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert estimate(values).interval == pytest.approx((low, high))


def test_three_seeds_by_hand() -> None:
    """1, 2, 3: mean 2, standard deviation 1, t of two degrees 4.3027: half a width of 4.3027 / sqrt(3)."""
    made = estimate([1.0, 2.0, 3.0])
    assert (made.mean, made.seeds) == (2.0, 3)
    assert made.half_width == pytest.approx(2.4841, abs=1e-4)
    assert made.zero_inside is True
    assert estimate([2.0, 3.0, 4.0]).zero_inside is False


def test_one_seed_has_no_interval_and_equal_ones_have_no_width() -> None:
    one = estimate([0.25])
    assert (one.mean, one.interval, one.zero_inside) == (0.25, None, None)
    assert estimate([0.1] * 3).half_width == 0.0
    assert estimate([0.0, 0.0]).zero_inside is True


def test_shifting_moves_the_mean_alone_and_scaling_scales_both() -> None:
    draw = random.Random(3)
    values = [draw.gauss(0, 1) for _ in range(6)]
    plain = estimate(values)
    assert plain.half_width is not None
    shifted = estimate([v + 17.5 for v in values])
    assert shifted.mean == pytest.approx(plain.mean + 17.5)
    assert shifted.half_width == pytest.approx(plain.half_width)
    scaled = estimate([-4 * v for v in values])
    assert (scaled.mean, scaled.half_width) == (pytest.approx(-4 * plain.mean), pytest.approx(4 * plain.half_width))


def test_pairing_takes_out_what_a_seed_does_to_both() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(4)
    seeds = range(5)
    bad_luck = {seed: draw.gauss(0, 10) for seed in seeds}
    one = {seed: bad_luck[seed] + draw.gauss(0, 0.1) for seed in seeds}
    four = {seed: bad_luck[seed] + 1 + draw.gauss(0, 0.1) for seed in seeds}
    made = paired_difference(four, one)
    assert made is not None
    low, high = stats.ttest_rel([*four.values()], [*one.values()]).confidence_interval()
    assert made.interval == pytest.approx((low, high))
    assert made.zero_inside is False

    assert paired_difference({1: 2.0, 2: 3.0}, {2: 1.0, 3: 9.0}) == estimate([2.0])  # seed 2 is the only pair
    assert paired_difference({1: 2.0}, {3: 9.0}) is None


def test_over_windows_of_equal_length_it_is_the_interval_of_the_mean_gap() -> None:
    draw = random.Random(3)
    base = [(draw.gauss(900, 200), 300) for _ in range(20)]
    mine = [(bits + draw.gauss(12, 30), 300) for bits, _ in base]
    gaps = [(own - theirs) / 300 for (own, _), (theirs, _) in zip(mine, base, strict=True)]
    assert half_width_over_windows(mine, base) == pytest.approx(estimate(gaps).half_width)


def test_over_windows_of_any_length_95_of_100_intervals_hold_the_true_difference() -> None:
    """Text by the window, some of it dear: bits of both models rise with it, their difference is 0.1 a byte."""
    draw, held = random.Random(7), 0
    for _ in range(400):
        base, mine = [], []
        for _ in range(60):
            n_bytes = draw.randrange(200, 1200)
            bits = n_bytes * draw.uniform(1, 6)
            base.append((bits, n_bytes))
            mine.append((bits + n_bytes * draw.gauss(0.1, 0.2), n_bytes))
        half = half_width_over_windows(mine, base)
        assert half is not None
        gap = (sum(bits for bits, _ in mine) - sum(bits for bits, _ in base)) / sum(n for _, n in base)
        held += abs(gap - 0.1) <= half
    assert 370 <= held <= 390


def test_models_scored_on_other_windows_have_no_interval() -> None:
    windows = [(500.0, 100), (600.0, 120), (550.0, 110)]
    assert half_width_over_windows(windows, windows) == 0
    assert half_width_over_windows(windows[:2], windows[:2]) is None
    assert half_width_over_windows(windows, [*windows[:2], (550.0, 111)]) is None
    assert half_width_over_windows((), windows) is None
