"""The page and results.json of a sweep: grouped by all but the seed, intervals where they belong, failures in sight."""

import dataclasses
import json
import re

import pytest
from sample_sweep import build_sweep
from test_report_page import _outline

from components.report.intervals import estimate
from components.report.sweep import JobResult, Sweep, groups, results
from components.report.sweep_page import sweep_page

RATES = {"training.learning_rate": ["1e-3", "3e-3", "1e-2"]}
VARIANTS = {
    "seeds": build_sweep(),
    "two seeds": build_sweep(seeds=(1, 2)),
    "one job": build_sweep(seeds=(1,)),
    "many seeds": build_sweep(seeds=range(12)),
    "a field": build_sweep(seeds=(1, 2), fields=RATES, failed=(3,)),
    "a field, one seed": build_sweep(seeds=(7,), fields=RATES),
    "words": build_sweep(seeds=(1, 2, 3), fields={"model": ["laptop", "wide"]}),
    "two fields, one seed": build_sweep(seeds=(1,), fields=RATES | {"training.steps": ["9", "99"]}),
    "many n": build_sweep(future_tokens=(1, 2, 4, 8)),
    "no next-token model": build_sweep(future_tokens=(2, 4)),
    "one n": build_sweep(future_tokens=(4,)),
    "all failed": build_sweep(failed=(0, 1, 2)),
    "scaling studies": build_sweep(sizes=("1m", "3m")),
    "arrangements": build_sweep(arrangements=("linear", "parallel_extra_layers")),
    "arrangements, one seed": build_sweep(seeds=(1,), fields=RATES, arrangements=("linear", "causal")),
    "scaling studies over a field": build_sweep(seeds=(1, 2), fields=RATES, sizes=("1m", "3m")),
}


def text(sweep: Sweep) -> str:
    return " ".join(_outline(sweep_page(sweep)).text).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("sweep", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_kind_of_sweep_makes_a_well_formed_page_of_its_own(sweep: Sweep) -> None:
    html = sweep_page(sweep)
    outline = _outline(html)
    assert outline.fetched == [("href", job.report) for job in sweep.jobs if job.report]  # relative, nothing fetched
    assert not re.search(r"url\((?!#)|@import|https?://", html)
    assert len(set(outline.ids)) == len(outline.ids)
    assert "None" not in "".join(outline.text)
    assert "nan" not in re.findall(r"[a-z]+", "".join(outline.text).lower())
    json.dumps(results(sweep), allow_nan=False)


def test_the_difference_is_paired_by_seed_and_the_numbers_are_the_jobs() -> None:
    sweep = build_sweep()
    (group,) = groups(sweep)
    found = {(row.figure, row.n): row for row in group.comparisons}
    by_hand = [job.headline["n4/bits_per_byte"] - job.headline["n1/bits_per_byte"] for job in sweep.jobs]
    bits = found["bits_per_byte", 4]
    assert bits.difference == estimate(by_hand)
    assert bits.mean == estimate([job.headline["n4/bits_per_byte"] for job in sweep.jobs])
    assert found["bits_per_byte", 1].difference is None
    speed = found["speedup", 4]  # next-token decoding is 1 by definition
    assert speed.difference is not None
    assert speed.difference.mean == pytest.approx(speed.mean.mean - 1)
    assert speed.difference.half_width == pytest.approx(speed.mean.half_width)

    assert bits.difference.interval is not None
    low, high = bits.difference.interval
    shown = text(sweep)
    assert f"+{bits.difference.mean:.4f}" in shown
    assert f"{low:.4f} to {high:.4f}, 3 seeds" in shown
    for job in sweep.jobs:
        for name, value in job.headline.items():
            if name.endswith("bits_per_byte"):
                assert f"{value:.4f}" in shown


def test_in_a_scaling_study_a_size_is_compared_with_itself() -> None:
    sweep = build_sweep(sizes=("1m", "3m"))
    (group,) = groups(sweep)
    found = {(row.figure, row.n): row for row in group.comparisons}
    for size in ("1m", "3m"):
        by_hand = [
            job.headline[f"{size}/n4/bits_per_byte"] - job.headline[f"{size}/n1/bits_per_byte"] for job in sweep.jobs
        ]
        assert found[f"{size}/bits_per_byte", 4].difference == estimate(by_hand)
        speed = found[f"{size}/speedup", 4]  # next-token decoding is 1 by definition
        assert speed.difference is not None
        assert speed.difference.mean == pytest.approx(speed.mean.mean - 1)
        assert f"{size} bits per byte, n = 4" in text(sweep)


def test_arrangements_are_each_compared_with_the_one_next_token_model() -> None:
    sweep = VARIANTS["arrangements"]
    (group,) = groups(sweep)
    found = {(row.figure, row.n): row for row in group.comparisons}
    for name in ("linear", "parallel_extra_layers"):
        by_hand = [job.headline[f"{name}/n4/bits_per_byte"] - job.headline["n1/bits_per_byte"] for job in sweep.jobs]
        assert found[f"{name}/bits_per_byte", 4].difference == estimate(by_hand)
        speed = found[f"{name}/speedup", 4]
        assert speed.difference is not None
        assert speed.difference.mean == pytest.approx(speed.mean.mean - 1)
    assert "linear bits per byte, n = 4" in text(sweep)
    assert "parallel extra layers n = 4 has 3.0 % more parameters than n = 1" in text(sweep)


def test_a_figure_of_zero_counts_as_measured() -> None:
    jobs = tuple(
        JobResult({"seed": str(seed)}, seed, "done", headline={"n1/line_exact_match": 0.0, "n4/line_exact_match": 0.1})
        for seed in (1, 2)
    )
    (group,) = groups(dataclasses.replace(build_sweep(), jobs=jobs))
    assert group.comparisons[1].difference == estimate([0.1, 0.1])


def test_groups_differ_in_more_than_the_seed_and_lose_only_the_failed_one() -> None:
    sweep = VARIANTS["a field"]
    found = groups(sweep)
    assert [dict(group.values) for group in found] == [{"training.learning_rate": v} for v in ("1e-3", "3e-3", "1e-2")]
    assert [group.comparisons[0].mean.seeds for group in found] == [2, 1, 2]
    shown = text(sweep)
    assert "1 failed" in shown
    assert "failed: n=4 pretrain: loss is not finite at step 17; lower training.learning_rate" in shown
    assert "1 seed, no interval" in shown


def test_the_number_of_seeds_decides_what_is_said() -> None:
    assert "12.7 standard errors to each side, very wide" in text(VARIANTS["two seeds"])
    assert "very wide" not in text(VARIANTS["seeds"])
    assert "One seed each" in text(VARIANTS["a field, one seed"])
    assert "95 % interval of the difference" not in text(VARIANTS["one job"])


@pytest.mark.parametrize(("level", "words"), [(0.02, "zero inside"), (0.5, "zero outside")])
def test_whether_zero_lies_in_the_interval_is_said(level: float, words: str) -> None:
    jobs = tuple(
        JobResult(
            {"seed": str(i)}, i, "done",
            headline={"n1/bits_per_byte": 2.0, "n4/bits_per_byte": 2.0 + level + 0.05 * (i - 2)},
        )
        for i in (1, 2, 3)
    )  # fmt: skip
    sweep = dataclasses.replace(build_sweep(), jobs=jobs)
    assert words in text(sweep)
    (group,) = results(sweep)["groups"]
    assert group["figures"][1]["difference"]["zero_inside"] is (words == "zero inside")


def test_unequal_parameters_and_other_text_are_pointed_out() -> None:
    assert "n = 4 has 3.0 % more parameters than n = 1" in text(VARIANTS["seeds"])
    sweep = build_sweep(seeds=(1,), fields={"corpus.seed": ["0", "1"]})
    assert "NOT all read the same text" not in text(sweep)
    other = dataclasses.replace(sweep.jobs[1], corpus="decaf")
    assert "NOT all read the same text" in text(dataclasses.replace(sweep, jobs=(sweep.jobs[0], other)))


def test_text_from_the_command_line_is_escaped() -> None:
    evil = "</td><script>x</script>"
    assert evil in text(build_sweep(fields={"corpus.path": ["/a", evil]}))


def test_a_sweep_that_still_runs_says_so() -> None:
    sweep = build_sweep()
    waiting = tuple(JobResult(job.values, job.seed, "waiting") for job in sweep.jobs[1:])
    shown = text(dataclasses.replace(sweep, jobs=(sweep.jobs[0], *waiting)))
    assert "2 not run" in shown
