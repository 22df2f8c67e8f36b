"""The page of a grid and its numbers, from cells whose figures are known."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from components.artifacts import Cell
from components.report import paper
from components.report.config import CellLabel, GridConfig
from components.report.grid import CONFIDENCE, gather, headline, results
from components.report.grid_files import write_grid
from components.report.intervals import binomial_tail

NAMED_BY_TASK = {
    "induction": ("accuracy", "accuracy_known"),
    "polynomial": ("accuracy/m1", "accuracy/m2", "accuracy/m3"),
    "path_star": ("accuracy", "first_node", "later_nodes"),
    "text": ("bits_per_byte",),
}
SEEDS = (1, 2, 3)
GAINS = {1: (0.0, 0.0, 0.0), 2: (0.10, 0.12, 0.14), 4: (-0.2, 0.3, 0.1)}
"""Over n = 1, by seed: n = 2 is above it, n = 4 cannot be told apart."""


def value(n: int, seed: int, size: str, metric: str) -> float:
    """Another one for every row."""
    return 0.3 + 0.05 * seed + GAINS[n][seed - 1] + 0.02 * int(size[0]) + 0.001 * len(metric)


def cells(folder: Path, task: str, sizes: tuple[str, ...] = ("1m", "3m")) -> tuple[GridConfig, dict[int, Cell]]:
    labels = tuple(
        CellLabel(size, "", n, seed, 1_000_000 * int(size[0])) for seed in SEEDS for size in sizes for n in GAINS
    )
    return written(folder, task, labels, value)


def written(
    folder: Path, task: str, labels: tuple[CellLabel, ...], reaches: Callable[..., float]
) -> tuple[GridConfig, dict[int, Cell]]:
    """Cells of these labels, each metric as `reaches(n, seed, size, metric)` says; n times as many FLOPs, and 2 n
    minutes, but the first seed's take an hour."""
    made = {}
    for place, label in enumerate(labels):
        path = folder / f"{task}-{place}"
        path.mkdir(parents=True)
        size, n, seed = label.size, label.n_future_tokens, label.seed
        reached = {metric: reaches(n, seed, size, metric) for metric in NAMED_BY_TASK[task]}
        with (path / "metrics.jsonl").open("w") as file:
            for step, share in ((1, None), (50, 0.5), (100, 1.0)):
                of_test = {f"score/{name}": share * v for name, v in reached.items()} if share else {}
                file.write(json.dumps({"step": step, "loss/head_1": 1.0, **of_test}) + "\n")
        (path / "example.txt").write_text("1 + 1 <= 3\n")
        items = dict.fromkeys(reached, 500)
        made[place] = Cell(
            path, "d", n, seed, 5, 1000, 1e12 * n, 3600.0 if seed == 1 else 120.0 * n, 2.5, reached, items
        )
    figure = {"induction": "Figure 7", "polynomial": "Figure 8"}.get(task, "")
    return GridConfig("small", ("conf=small",), task, "A task.", labels, 2, 0.5, figure), made


@pytest.mark.parametrize("task", NAMED_BY_TASK)
def test_the_summary_is_means_and_student_s_intervals_over_seeds(task: str, tmp_path: Path) -> None:
    found = results(gather(*cells(tmp_path, task)))
    assert len(found["cells"]) == 18
    promised = {"task", "size", "n_future_tokens", "seed", "parameters", "tokens", "flops", "seconds", "metrics"}
    assert all(promised <= cell.keys() for cell in found["cells"])
    assert found["cells"][0]["over_steps"][-1] == {"step": 100} | found["cells"][0]["metrics"]
    assert len(found["summary"]) == 2 * 3 * len(NAMED_BY_TASK[task])
    for row in found["summary"]:
        assert {"task", "size", "n_future_tokens", "metric", "mean", "low", "high", "seeds", "paper"} <= row.keys()
        values = [value(row["n_future_tokens"], seed, row["size"], row["metric"]) for seed in SEEDS]
        low, high = stats.t.interval(CONFIDENCE, 2, sum(values) / 3, stats.sem(values))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((sum(values) / 3, low, high))
        assert (row["items"], row["flops_over_n1"]) == (500, row["n_future_tokens"])
        assert row["seconds_over_n1"] == row["n_future_tokens"], "whatever a first cell took"
        gain = row["difference_to_n1"]
        if row["n_future_tokens"] == 1:
            assert (gain, row["verdict"]) == (None, None)
            continue
        gains = GAINS[row["n_future_tokens"]]
        low, high = stats.t.interval(CONFIDENCE, 2, sum(gains) / 3, stats.sem(gains))
        assert (gain["mean"], gain["low"], gain["high"]) == pytest.approx((sum(gains) / 3, low, high))
        gained = "worse" if task == "text" else "better"  # bits are a cost
        assert row["verdict"] == (gained if row["n_future_tokens"] == 2 else "not told apart")


def test_the_paper_stands_beside_what_it_measured(tmp_path: Path) -> None:
    induction = {
        (row["size"], row["n_future_tokens"], row["metric"]): row["paper"]
        for row in results(gather(*cells(tmp_path, "induction")))["summary"]
    }
    assert induction["1m", 2, "accuracy"] == paper.INDUCTION["1m"][2]
    assert induction["3m", 4, "accuracy"] is induction["1m", 1, "accuracy_known"] is None
    polynomial = results(gather(*cells(tmp_path, "polynomial", ("1m", "100m", "30m"))))["summary"]
    of_one = [(row["size"], row["paper"]) for row in polynomial if row["metric"] == "accuracy/m1"]
    assert of_one[:3] == [("1m", None)] * 3
    assert of_one[3:] == [
        *(("100m", pytest.approx(mean)) for mean in (0.87, 0.94, 0.92)),
        *(("30m", mean) for mean in (0.85, 0.90, 0.88)),
    ]


def plain_text(folder: Path) -> str:
    """Of the page."""
    plain = re.sub(r"<[^>]+>", "", (folder / "index.html").read_text())
    return plain.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize("task", NAMED_BY_TASK)
@pytest.mark.parametrize("sizes", [("1m",), ("1m", "3m")])
def test_the_page_says_what_the_numbers_say(task: str, sizes: tuple[str, ...], tmp_path: Path) -> None:
    config, made = cells(tmp_path, task, sizes)
    write_grid(tmp_path, config, made, 0.0, "a machine", 100.0)
    text, plain = (tmp_path / "index.html").read_text(), plain_text(tmp_path)
    if task == "text":
        assert "n = 2 is worse than n = 1 at 1m (+0.1200, 0.0863 to 0.1537)" in plain
        assert "n = 4 is not told apart from n = 1 at 1m (+0.0667, -0.3576 to 0.4909)" in plain
    else:
        assert "n = 2 is better than n = 1 at 1m (+12.0 points, 8.6 to 15.4)" in plain
        assert "n = 4 is not told apart from n = 1 at 1m (+6.7 points, -35.8 to 49.1)" in plain
    assert "1 + 1 &lt;= 3" in text
    assert "python pipelines/synthetic.py conf=small" in plain
    assert 'http-equiv="refresh"' not in text
    difference = "+0.1200" if task == "text" else "+12.0 points"
    assert difference in plain
    assert text.count("<svg") >= 1 + len(sizes) * (task in ("polynomial", "path_star"))


def test_cells_that_are_to_come_are_counted_and_the_page_loads_itself_again(tmp_path: Path) -> None:
    config, made = cells(tmp_path, "path_star", ("1m",))
    grid = write_grid(tmp_path, config, {place: made[place] for place in (1, 4)}, 0.0, "")
    assert grid.missing == 7
    text = (tmp_path / "index.html").read_text()
    assert "2 of 9 cells are there" in text
    assert 'http-equiv="refresh"' in text
    assert len(json.loads((tmp_path / "results.json").read_text())["cells"]) == 2


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    config, made = cells(tmp_path, "path_star", ("1m",))
    found = results(write_grid(tmp_path, config, {place: made[place] for place in range(3)}, 0.0, ""))
    assert {(row["low"], row["high"], row["verdict"]) for row in found["summary"]} == {(None, None, None)}
    plain = plain_text(tmp_path)
    assert "One seed tells nothing of others" in plain
    assert "Over 1 seed." in plain
    assert "comparisons" not in plain
    assert "Intervals are" not in plain


def test_the_headline_is_the_main_metric_of_every_size_and_n(tmp_path: Path) -> None:
    found = headline(gather(*cells(tmp_path, "induction")))
    assert found.keys() == {f"{size}/n{n}/accuracy" for size in ("1m", "3m") for n in (1, 2, 4)}
    assert found["3m/n2/accuracy"] == pytest.approx(sum(value(2, seed, "3m", "accuracy") for seed in SEEDS) / 3)


def test_an_n_of_1_with_as_many_flops_is_compared_with_at_these(tmp_path: Path) -> None:
    """n = 2 takes twice the FLOPs of n = 1, and as many as an n = 1 that is trained twice as long."""
    longer = "twice_as_long"
    labels = tuple(CellLabel("1m", name, n, seed, 1) for seed in SEEDS for name, n in (("", 1), ("", 2), (longer, 1)))
    bits = {("", 1): (2.00, 2.01, 2.02), ("", 2): (1.95, 1.97, 1.96), (longer, 1): (1.90, 1.91, 1.92)}
    config, made = written(tmp_path, "text", labels, lambda *_: 0.0)
    for place, label in enumerate(labels):
        way = label.schedule, label.n_future_tokens
        reached = {"bits_per_byte": bits[way][label.seed - 1]}
        made[place] = replace(made[place], metrics=reached, flops=1e12 if way == ("", 1) else 2.001e12)
    grid = write_grid(tmp_path, config, made, 0.0, "")
    rows = {(row["schedule"], row["n_future_tokens"]): row for row in results(grid)["summary"]}
    two = rows[None, 2]
    assert (two["difference_to_n1"]["mean"], two["verdict"]) == (pytest.approx(-0.05), "better")
    matched = two["at_equal_flops"]
    assert (matched["schedule"], matched["mean"], matched["verdict"]) == (longer, pytest.approx(0.05), "worse")
    assert rows[None, 1]["at_equal_flops"] is rows[longer, 1]["at_equal_flops"] is None
    plain = plain_text(tmp_path)
    assert "n = 2 is better than n = 1 at 1m (-0.0500," in plain
    assert "; at equal FLOPs at 1m worse than twice as long (+0.0500, " in plain
    assert "Over 3 seeds." in plain
    assert "3 comparisons are made" in plain, "two to n = 1, one at equal FLOPs"


def test_many_ways_to_train_are_told_by_their_verdicts(tmp_path: Path) -> None:
    """Other n = 1, which are there to compare with, only in the table."""
    ways = {("", 1): 0.0, ("", 2): 0.1, ("slow", 2): -0.1, ("fast", 2): 0.2, ("", 4): 0.0, ("short", 1): 0.1}
    labels = tuple(CellLabel("1m", name, n, seed, 1) for seed in SEEDS for name, n in ways)
    config, made = written(tmp_path, "text", labels, lambda *_: 0.0)
    for place, label in enumerate(labels):
        more = ways[label.schedule, label.n_future_tokens] * (1 + 0.1 * label.seed)
        noise = 0.01 * label.seed * (-1) ** label.seed if label.n_future_tokens == 4 else 0.0
        of_short = 4e12 if label.schedule == "short" or label.n_future_tokens == 4 else made[place].flops
        reached = {"bits_per_byte": 2.0 + more + noise}
        made[place] = replace(made[place], metrics=reached, flops=of_short)
    write_grid(tmp_path, config, made, 0.0, "")
    plain = plain_text(tmp_path)
    lead = plain[plain.index("A task.") : plain.index("Intervals are")]
    assert [re.sub(r" \([^)]*\)", "", said) for said in re.split(r"(?<=\.) ", lead.strip())][1:] == [
        "Against n = 1, by bits per byte, better: slow; worse: n = 2, fast; not told apart: n = 4.",
        "Against an n = 1 that takes as many FLOPs, by bits per byte, better: n = 4.",
    ]
    assert "n = 4 (short: -0.1" in lead


def test_seeds_that_all_differ_by_exactly_as_much_give_no_verdict(tmp_path: Path) -> None:
    labels = tuple(CellLabel("1m", "", n, seed, 1) for seed in SEEDS for n in (1, 2))
    right = {1: 442, 2: 207, 3: 398}  # of 500: as floats, their differences to 7 less are not equal
    seven_less = written(tmp_path, "induction", labels, lambda n, seed, *_: (right[seed] - 7 * (n - 1)) / 500)
    found = results(gather(*seven_less))
    (made,) = (row["difference_to_n1"] for row in found["summary"] if row["verdict"] and row["metric"] == "accuracy")
    assert 0 < made["high"] - made["low"] < 1e-9
    assert {row["verdict"] for row in found["summary"]} == {None, "not told apart"}


def test_who_looks_ahead_is_told_seed_by_seed(tmp_path: Path) -> None:
    """Of a half that guess and a half that know, no interval of a mean tells anything."""
    labels = tuple(CellLabel("1m", "", n, seed, 1) for seed in SEEDS for n in (1, 2, 3))
    first = {1: (0.48, 0.52, 0.55), 2: (0.49, 1.0, 0.51), 3: (1.0, 0.98, 0.6)}
    config, made = written(tmp_path, "path_star", labels, lambda n, seed, *_: first[n][seed - 1])
    write_grid(tmp_path, config, made, 0.0, "")
    plain = plain_text(tmp_path)
    assert (
        "The first node is told more often than by guessing (50 %) with n = 2 in 1 of 3 seeds (49.0 %, 100.0 %, 51.0 %)"
        ", n = 3 in 3 of 3 seeds (100.0 %, 98.0 %, 60.0 %)." in plain
    )
    assert (
        "The first node is told no more often than by guessing, in any seed, with n = 1 (48.0 %, 52.0 %, 55.0 %)."
        in plain
    )


def test_a_run_that_ended_without_some_says_so_and_is_not_loaded_again(tmp_path: Path) -> None:
    config, made = cells(tmp_path, "induction", ("1m",))
    write_grid(tmp_path, config, {0: made[0]}, 0.0, "", ended=True)
    assert "1 of 9 cells are there; the run ended without the others" in plain_text(tmp_path)
    assert 'http-equiv="refresh"' not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("successes", "trials", "chance"), [(0, 10, 0.5), (275, 500, 0.5), (500, 500, 0.5), (3, 7, 0.1)]
)
def test_the_tail_of_a_binomial_distribution_is_scipy_s(successes: int, trials: int, chance: float) -> None:
    expected = stats.binom.sf(successes - 1, trials, chance)
    assert binomial_tail(successes, trials, chance) == pytest.approx(expected, rel=1e-9)
