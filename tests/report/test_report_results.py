"""results.json and the headline: the promised keys, and every value the artifact's own."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from sample_run import Sample

from components.artifacts import Report
from components.report.config import Labels
from components.report.stage import write_report


def _write(sample: Sample) -> tuple[Report, dict[str, Any]]:
    report = write_report(sample.config, sample.checkpoints, sample.evaluations, sample.benchmarks, sample.run)
    return report, json.loads((report.path / "results.json").read_text())


def test_the_keys_that_others_rely_on(sample: Callable[..., Sample]) -> None:
    _, results = _write(sample())
    assert results["seconds"] > 400
    assert [model["n_future_tokens"] for model in results["models"]] == [1, 4]
    for model in results["models"]:
        assert model.keys() >= {
            "n_future_tokens", "parameters", "training_flops", "training_seconds", "bits_per_byte", "heads",
            "line_completion",
        }  # fmt: skip
        assert model["line_completion"].keys() >= {"exact_match", "edit_similarity"}
        assert len(model["heads"]) == model["n_future_tokens"]
        assert all(head.keys() == {"loss", "top1"} for head in model["heads"])
    assert [(m["n_pretrained"], m["n_future_tokens"]) for m in results["finetuned"]] == [(1, 1), (4, 1)]
    assert all(m.keys() >= {"loss", "edit_similarity"} for m in results["finetuned"])
    assert len(results["decoding"]) == 8
    for row in results["decoding"]:
        assert row.keys() >= {
            "n_future_tokens", "k", "batch", "dtype", "tokens_per_forward", "tokens_per_forward_heldout",
            "repeated_4grams", "r", "speedup", "tokens_per_second", "lossless",
        }  # fmt: skip


def test_values_are_the_artifacts_own_in_full_precision(sample: Callable[..., Sample]) -> None:
    made = sample()
    _, results = _write(made)
    for model, checkpoint, evaluation in zip(results["models"], made.checkpoints, made.evaluations, strict=False):
        assert model["training_flops"] == checkpoint.training_flops
        assert model["training_seconds"] == checkpoint.training_seconds
        assert model["bits_per_byte"] == evaluation.bits_per_byte
        assert model["heads"] == [dataclasses.asdict(head) for head in evaluation.heads]
    finetuned = [e for e in made.evaluations if e.n_pretrained is not None]
    assert [m["loss"] for m in results["finetuned"]] == [e.heads[0].loss for e in finetuned]
    rows = [json.loads(json.dumps(dataclasses.asdict(row))) for row in made.benchmarks[0].rows]
    assert results["decoding"] == [{"size": None, "arrangement": None, **row} for row in rows]
    assert results["seeds"] == [3]
    assert results["corpus"]["documents"] == {"train": 1407, "validation": 104, "test": 118}
    assert results["reused_stages"] == ["corpus", "tokenizer"]


def test_models_and_evaluations_meet_whatever_their_order(sample: Callable[..., Sample]) -> None:
    made = sample(future_tokens=(1, 2, 4), finetunes=((4, 4), (1, 1), (4, 1)))
    mixed = dataclasses.replace(made, checkpoints=made.checkpoints[::-1], evaluations=made.evaluations[::-1])
    _, results = _write(mixed)
    assert [m["n_future_tokens"] for m in results["models"]] == [1, 2, 4]
    assert {(m["n_pretrained"], m["n_future_tokens"]): m["loss"] for m in results["finetuned"]} == {
        (e.n_pretrained, e.n_future_tokens): e.heads[0].loss for e in made.evaluations if e.n_pretrained is not None
    }


STUDY: dict[str, Any] = {"sizes": ("1m", "3m", "9m"), "future_tokens": (1, 4), "finetunes": ((4, 1),)}


def test_models_of_a_scaling_study_are_told_apart_by_size(sample: Callable[..., Sample]) -> None:
    made = sample(**STUDY)
    report, results = _write(made)
    assert [(m["size"], m["n_future_tokens"]) for m in results["models"]] == [
        (size, n) for size in ("1m", "3m", "9m") for n in (1, 4)
    ]
    by_key = {(m["size"], m["n_future_tokens"]): m for m in results["models"]}
    of = made.config.sizes
    assert of is not None
    for size, evaluation in zip(of.evaluations, made.evaluations, strict=True):
        if evaluation.n_pretrained is None:
            n = evaluation.n_future_tokens
            assert by_key[size, n]["bits_per_byte"] == evaluation.bits_per_byte
            assert report.headline[f"{size}/n{n}/bits_per_byte"] == evaluation.bits_per_byte
    for size, benchmark in zip(of.benchmarks, made.benchmarks, strict=True):
        assert report.headline[f"{size}/n4/speedup"] == max(r.speedup for r in benchmark.rows if r.batch == 1)
        rows = [row["speedup"] for row in results["decoding"] if row["size"] == size]
        assert rows == [row.speedup for row in benchmark.rows]
    assert [m["size"] for m in results["finetuned"]] == ["1m", "3m", "9m"]


def test_sizes_come_smallest_first_whatever_the_order_of_the_inputs(sample: Callable[..., Sample]) -> None:
    made = sample(**STUDY)
    straight, sizes = _write(made)[1], made.config.sizes
    assert sizes is not None
    backwards = Labels(sizes.checkpoints[::-1], sizes.evaluations[::-1], sizes.benchmarks[::-1])
    mixed = Sample(
        dataclasses.replace(made.config, sizes=backwards),
        made.checkpoints[::-1],
        made.evaluations[::-1],
        made.benchmarks[::-1],
        made.run,
    )
    turned = _write(mixed)[1]
    for part in ("models", "decoding"):
        assert turned[part] == straight[part]


def test_what_was_not_measured_is_null_and_the_file_is_strict_json(sample: Callable[..., Sample]) -> None:
    made = sample()
    rows = tuple(dataclasses.replace(row, tokens_per_forward_heldout=math.nan) for row in made.benchmarks[0].rows)
    made = dataclasses.replace(made, benchmarks=(dataclasses.replace(made.benchmarks[0], rows=rows),))
    report, results = _write(made)
    assert [row["tokens_per_forward_heldout"] for row in results["decoding"]] == [None] * 8
    assert "NaN" not in (report.path / "results.json").read_text()
    assert ">nan" not in (report.path / "index.html").read_text()


def test_the_headline_takes_the_fastest_lossless_or_not_arm_at_the_smallest_batch(
    sample: Callable[..., Sample],
) -> None:
    made = sample()
    report, _ = _write(made)
    first = [row for row in made.benchmarks[0].rows if row.batch == 1 and row.k > 1]
    best = max(first, key=lambda row: row.speedup)
    assert report.headline["n4/speedup"] == best.speedup
    assert report.headline["n4/tokens_per_forward"] == best.tokens_per_forward
    assert report.headline["n1/bits_per_byte"] == made.evaluations[0].bits_per_byte
    assert all(isinstance(value, float) for value in report.headline.values())


def test_without_benchmark_or_finetuning_the_lists_are_empty(sample: Callable[..., Sample]) -> None:
    _, results = _write(sample(future_tokens=(1,), finetunes=()))
    assert results["decoding"] == results["finetuned"] == []
    assert len(results["models"]) == 1


def test_no_pretrained_model_is_refused(sample: Callable[..., Sample]) -> None:
    made = sample(future_tokens=(1,), finetunes=())
    with pytest.raises(ValueError, match="at least one pretrained model"):
        write_report(made.config, (), (), (), made.run)


def test_a_mixture_tells_the_share_of_each_source(sample: Callable[..., Sample]) -> None:
    report, results = _write(sample(mixture=True))
    page = (report.path / "index.html").read_text()
    assert "The mixture, in tokens" in page
    assert "1,233 documents" in page  # left out of the code
    assert "prose &lt;b&gt;" in page
    sources = results["shards"]["sources"]
    total = sum(source["tokens"]["train"] for source in sources.values())
    assert sources["code"]["weight"] == 0.75
    assert sources["code"]["tokens"]["train"] / total == pytest.approx(0.75)
