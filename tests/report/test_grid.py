"""The page of a grid and its numbers, from cells whose figures are known."""

import json
import re
from pathlib import Path

import pytest
from scipy import stats

from components.artifacts import Cell
from components.report import paper
from components.report.config import CellLabel, GridConfig
from components.report.grid import CONFIDENCE, gather, headline, results
from components.report.grid_files import write_grid

NAMED_BY_TASK = {
    "induction": ("accuracy", "accuracy_known"),
    "polynomial": ("accuracy/m1", "accuracy/m2", "accuracy/m3"),
    "path_star": ("accuracy", "first_node", "later_nodes"),
    "text": ("bits_per_byte",),
}
SEEDS = (1, 2, 3)
GAINS = {1: (0.0, 0.0, 0.0), 2: (0.10, 0.12, 0.14), 4: (-0.2, 0.3, 0.1)}
"""Over n = 1, by seed: n = 2 is above it, n = 4 cannot be told apart."""


def value(n: int, seed: int) -> float:
    return 0.3 + 0.05 * seed + GAINS[n][seed - 1]


def cells(folder: Path, task: str, sizes: tuple[str, ...] = ("1m", "3m")) -> tuple[GridConfig, dict[int, Cell]]:
    labels = tuple(
        CellLabel(size, "", n, seed, 1_000_000 * int(size[0])) for seed in SEEDS for size in sizes for n in GAINS
    )
    made = {}
    for place, label in enumerate(labels):
        path = folder / f"{task}-{place}"
        path.mkdir(parents=True)
        reached = dict.fromkeys(NAMED_BY_TASK[task], value(label.n_future_tokens, label.seed))
        with (path / "metrics.jsonl").open("w") as file:
            for step, share in ((1, None), (50, 0.5), (100, 1.0)):
                of_test = {f"score/{name}": share * v for name, v in reached.items()} if share else {}
                file.write(json.dumps({"step": step, "loss/head_1": 1.0, **of_test}) + "\n")
        (path / "example.txt").write_text("1 + 1 <= 3\n")
        items = dict.fromkeys(reached, 500)
        flops = 1e12 * label.n_future_tokens
        made[place] = Cell(path, "d", label.n_future_tokens, label.seed, 5, 1000, flops, 60.0, 2.5, reached, items)
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
        values = [value(row["n_future_tokens"], seed) for seed in SEEDS]
        low, high = stats.t.interval(CONFIDENCE, 2, sum(values) / 3, stats.sem(values))
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((sum(values) / 3, low, high))
        assert (row["items"], row["flops_over_n1"]) == (500, row["n_future_tokens"])
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
    polynomial = results(gather(*cells(tmp_path, "polynomial", ("1m",))))["summary"]
    assert [row["paper"] for row in polynomial if row["metric"] == "accuracy/m1"] == pytest.approx([0.87, 0.94, 0.92])


@pytest.mark.parametrize("task", NAMED_BY_TASK)
@pytest.mark.parametrize("sizes", [("1m",), ("1m", "3m")])
def test_the_page_says_what_the_numbers_say(task: str, sizes: tuple[str, ...], tmp_path: Path) -> None:
    config, made = cells(tmp_path, task, sizes)
    write_grid(tmp_path, config, made, 0.0, "a machine", 100.0)
    text = (tmp_path / "index.html").read_text()
    plain = re.sub(r"<[^>]+>", "", text).replace("\N{NO-BREAK SPACE}", " ")
    assert "n = 2" in plain
    assert "not told apart" in plain
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


def test_the_headline_is_the_main_metric_of_every_size_and_n(tmp_path: Path) -> None:
    found = headline(gather(*cells(tmp_path, "induction")))
    assert found.keys() == {f"{size}/n{n}/accuracy" for size in ("1m", "3m") for n in (1, 2, 4)}
    assert found["3m/n2/accuracy"] == pytest.approx(sum(value(2, seed) for seed in SEEDS) / 3)
