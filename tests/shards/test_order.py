from collections import Counter

import numpy as np
import pytest

from components.shards.config import MAX_LOOKAHEAD
from components.shards.order import GlobalOrder


@pytest.mark.parametrize("n_windows", [1, 2, 3, 5, 16, 17, 255, 1000])
def test_every_window_is_read_once_an_epoch(n_windows: int) -> None:
    order = GlobalOrder(n_windows * 8 + MAX_LOOKAHEAD, 8, sequences_per_step=1, seed=3)
    for epoch in range(3):
        steps = range(epoch * n_windows, (epoch + 1) * n_windows)
        assert {order.epoch(step) for step in steps} == {epoch}
        read = [int(order.starts(step)[0]) for step in steps]
        assert sorted(read) == list(range(0, n_windows * 8, 8))


def test_batches_cut_one_sequence_of_windows_whatever_their_size() -> None:
    def read(sequences_per_step: int) -> list[int]:
        order = GlobalOrder(10_000, 16, sequences_per_step, seed=1)
        return [int(s) for step in range(2400 // sequences_per_step) for s in order.starts(step)]

    assert read(1) == read(8) == read(24) == read(2400)  # the last spans four epochs at once


def test_a_step_depends_on_seed_and_step_alone() -> None:
    order = GlobalOrder(10**12, 4096, 64, seed=5)  # larger than any table of windows
    later = order.starts(10**6)
    for step in (3, 10**7):
        order.starts(step)
    assert np.array_equal(order.starts(10**6), later)
    assert np.array_equal(GlobalOrder(10**12, 4096, 64, seed=5).starts(10**6), later)
    assert not np.array_equal(GlobalOrder(10**12, 4096, 64, seed=6).starts(10**6), later)
    assert later.dtype == np.int64
    assert later.max() + 4096 + MAX_LOOKAHEAD <= 10**12


def test_every_window_leaves_room_for_the_farthest_target() -> None:
    for n_tokens in range(100, 200):
        order = GlobalOrder(n_tokens, 16, 50, seed=0)
        assert order.starts(0).max() + 16 + MAX_LOOKAHEAD <= n_tokens


def test_epochs_and_seeds_shuffle_anew() -> None:
    order = GlobalOrder(500 * 4 + MAX_LOOKAHEAD, 4, 500, seed=0)
    first, second = order.starts(0) // 4, order.starts(1) // 4
    other = GlobalOrder(500 * 4 + MAX_LOOKAHEAD, 4, 500, seed=1).starts(0) // 4
    for a, b in ((first, second), (first, other), (first, np.arange(500))):
        assert (a == b).mean() < 0.02  # 1 in 500 by chance
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15  # standard deviation 0.045


def test_all_orders_are_about_equally_likely() -> None:
    """The 24 orders of 4 windows over 4,800 seeds: chi-square with 23 degrees of freedom, 99.99 % below 58."""
    counts = Counter(tuple(GlobalOrder(4 + MAX_LOOKAHEAD, 1, 4, seed=seed).starts(0).tolist()) for seed in range(4800))
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 58


def test_a_window_lands_anywhere() -> None:
    """The first window of 4,000 epochs over 40 bins: chi-square with 39 degrees of freedom, 99.99 % below 83."""
    order = GlobalOrder(1000 * 4 + MAX_LOOKAHEAD, 4, 1000, seed=9)
    first = np.array([order.starts(epoch)[0] // 4 for epoch in range(4000)])
    counts = np.bincount(first // 25, minlength=40)
    assert ((counts - 100) ** 2 / 100).sum() < 83


def test_a_context_longer_than_the_corpus_names_both() -> None:
    with pytest.raises(ValueError, match=r"500 tokens.*context_length 512.*at most 436"):
        GlobalOrder(500, 512, 1, 0)
    GlobalOrder(500, 436, 1, 0)
