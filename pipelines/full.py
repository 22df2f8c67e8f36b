"""The whole way from a corpus to a report: `python pipelines/full.py [conf=NAME] [key=value …]`.

Reads top to bottom: the graph first, then what a person sees of its plan and its run.
"""

import dataclasses
import sys
from functools import partial
from typing import Any

from components.artifacts import Checkpoint, DecodingBenchmark, Evaluation
from components.corpus.stage import collect, draw_pairs, read_pairs
from components.decoding.stage import benchmark_decoding
from components.evaluation.stage import evaluate, evaluate_finetuned
from components.flow.node import Graph, Node, Resources, several
from components.report.config import Labels, ReportConfig
from components.report.stage import write_report
from components.shards.stage import tokenize
from components.tokenizer.stage import train_tokenizer
from components.training.config import PretrainConfig
from components.training.stage import finetune, pretrain
from pipelines.jobs import Way, command_line, plan_job, run, run_job
from pipelines.launch import launch
from pipelines.programs import FULL
from pipelines.recipe import Recipe
from pipelines.sweep import run_sweep

Kind = tuple[str, str]
"""What tells models with as many heads apart: the names of size and arrangement, empty where there is one."""


def full(recipe: Recipe, overrides: tuple[str, ...] = ()) -> Graph:
    """The graph of a recipe. Pure, and nothing runs yet. `overrides` are what the report prints to reproduce it."""
    data = recipe.cluster.data
    corpus = collect.bind(recipe.corpus, name="corpus", execution=data)
    tokenizer = train_tokenizer.bind(recipe.tokenizer, corpus, name="tokenizer")
    shards = tokenize.bind(recipe.shards, corpus, tokenizer, name="shards", execution=data)

    # small models lose more by a second thread than by a neighbour: the models are made side by side
    beside = Resources(share=1 / len(recipe.future_tokens))
    checkpoints: list[tuple[Kind, Node[Checkpoint]]] = []
    evaluations: list[tuple[Kind, Node[Evaluation]]] = []
    benchmarks: list[tuple[Kind, Node[DecodingBenchmark]]] = []
    pretrained: dict[tuple[str, str, int], Node[Checkpoint]] = {}
    for size, arrangement, n in recipe.models():
        kind = (size, arrangement)
        training = dataclasses.replace(recipe.by_size()[size].training, seed=recipe.seed)
        name, title = _called(kind, f"n{n}", "-"), _called(kind, f"n={n}", " ")
        model = pretrain.bind(
            PretrainConfig(recipe.model_for(n, size, arrangement), training),
            shards,
            name=f"pretrain-{name}",
            title=f"{title} pretrain",
            group=title,
            resources=_training_resources(recipe, beside.share),
            execution=recipe.cluster.training,
        )
        evaluation = evaluate.bind(
            recipe.evaluation,
            model,
            shards,
            corpus,
            name=f"evaluate-{name}",
            title=f"{title} evaluate",
            group=title,
            resources=_measuring_resources(recipe, beside.share),
        )
        pretrained[size, arrangement, n] = model
        checkpoints.append((kind, model))
        evaluations.append((kind, evaluation))
        if n > 1:
            benchmark = benchmark_decoding.bind(
                recipe.decoding_for(n),
                model,
                shards,
                name=f"decode-{name}",
                title=f"{title} decode",
                group=title,
                resources=_measuring_resources(recipe),
            )
            benchmarks.append((kind, benchmark))

    if recipe.finetunes:
        pairs = (
            read_pairs.bind(recipe.pairs, name="pairs")
            if recipe.pairs.source == "table"
            else draw_pairs.bind(recipe.pairs, corpus, name="pairs")
        )
        for (size, arrangement, n), target in recipe.finetuned_models():
            kind = (size, arrangement)
            name, title = _called(kind, f"n{n}to{target}", "-"), _called(kind, f"n={n}→{target}", " ")
            tuned = finetune.bind(
                dataclasses.replace(recipe.finetune, n_future_tokens=target, seed=recipe.seed),
                pretrained[size, arrangement, n],
                pairs,
                name=f"finetune-{name}",
                title=f"{title} finetune",
                group=title,
                resources=_training_resources(recipe, beside.share),
                execution=recipe.cluster.training,
            )
            evaluation = evaluate_finetuned.bind(
                recipe.evaluation,
                tuned,
                pairs,
                name=f"evaluate-{name}",
                title=f"{title} evaluate",
                group=title,
                resources=_measuring_resources(recipe, beside.share),
            )
            checkpoints.append((kind, tuned))
            evaluations.append((kind, evaluation))

    kinds = [[kind for kind, _ in nodes] for nodes in (checkpoints, evaluations, benchmarks)]
    sizes, arrangements = (Labels(*(tuple(kind[i] for kind in of) for of in kinds)) for i in (0, 1))
    report = write_report.bind(
        ReportConfig(
            recipe.name,
            overrides,
            sizes if recipe.sizes else None,
            arrangements if recipe.arrangements else None,
        ),
        several([node for _, node in checkpoints]),
        several([node for _, node in evaluations]),
        several([node for _, node in benchmarks]),
        name="report",
    )
    return Graph.of(report)


def _called(kind: Kind, rest: str, between: str) -> str:
    """The telling part of a node's name or title; an ordinary recipe's models are of one kind, which has no name."""
    return between.join(part for part in (*kind, rest) if part)


def _training_resources(recipe: Recipe, share: float) -> Resources:
    asked = recipe.cluster.training
    cpus = asked.workers * asked.cpus_per_worker if asked.cpus_per_worker else None
    gpus = asked.workers * asked.gpus_per_worker
    return Resources(cpus, share, at_least_cpus=asked.workers, gpus=gpus, drives_ray=True)


def _measuring_resources(recipe: Recipe, share: float = 1.0) -> Resources:
    """One GPU where the models are trained on GPUs, else a share of the cores."""
    asked = recipe.cluster.training
    return Resources(asked.cpus_per_worker or 1, gpus=1) if asked.gpus_per_worker else Resources(share=share)


def words(recipe: Recipe) -> str:
    """What is compared."""
    of = f" ({', '.join(recipe.arrangements)})" if recipe.arrangements else ""
    return f"n = {', '.join(map(str, recipe.future_tokens))}{of}"


WAY = Way(full, words)


def main() -> Any:
    """The command line; returns the exit code."""
    sweep = partial(run_sweep, plan_job=partial(plan_job, WAY), run_job=partial(run_job, WAY))
    return command_line(lambda: launch(FULL, partial(run, WAY), sweep))


if __name__ == "__main__":
    sys.exit(main())
