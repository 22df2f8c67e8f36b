"""The whole way from a corpus to a report: `python pipelines/full.py [conf=NAME] [key=value …]`.

Reads top to bottom: the graph first, then what a person sees of its plan and its run.
"""

import dataclasses
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from components.artifacts import Checkpoint, DecodingBenchmark, Evaluation
from components.corpus.stage import collect, draw_pairs, read_pairs
from components.decoding.stage import benchmark_decoding
from components.evaluation.stage import evaluate, evaluate_finetuned
from components.flow.cluster import ClusterConfig, main_memory_bytes, this_machine
from components.flow.cost import Capacity
from components.flow.fit import blockers
from components.flow.identity import canonical
from components.flow.node import Graph, Node, Resources, several
from components.flow.plan import Plan, make_plan, select
from components.flow.quantity import duration
from components.flow.run import Ended, Outcome, Refused, RunSettings, run_plan
from components.flow.store import Store
from components.flow.table import plan_table
from components.report.config import Labels, ReportConfig
from components.report.stage import write_report
from components.shards.stage import tokenize
from components.tokenizer.stage import train_tokenizer
from components.training.config import NotSimulated, PretrainConfig
from components.training.stage import finetune, pretrain
from pipelines.ending import say_mlflow, say_problems, say_results
from pipelines.launch import Job, launch, refuse
from pipelines.recipe import Options, Recipe
from pipelines.simulation import simulated_table
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


def telling(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides that change a result, sorted: not those that say where or how to run."""
    options = {f.name for f in dataclasses.fields(Options)} | {"cluster"}
    return tuple(sorted(o for o in overrides if o.lstrip("+").split("=")[0].split(".")[0] not in options))


def _training_resources(recipe: Recipe, share: float) -> Resources:
    asked = recipe.cluster.training
    cpus = asked.workers * asked.cpus_per_worker if asked.cpus_per_worker else None
    gpus = asked.workers * asked.gpus_per_worker
    return Resources(cpus, share, at_least_cpus=asked.workers, gpus=gpus, drives_ray=True)


def _measuring_resources(recipe: Recipe, share: float = 1.0) -> Resources:
    """One GPU where the models are trained on GPUs, else a share of the cores."""
    asked = recipe.cluster.training
    return Resources(asked.cpus_per_worker or 1, gpus=1) if asked.gpus_per_worker else Resources(share=share)


def capacity_of(recipe: Recipe, plan: bool) -> Capacity:
    """What to reckon with: the cluster that the recipe declares, in a plan or where there is an address to join it,
    or else this machine's own devices."""
    cluster, here = recipe.cluster, this_machine()
    if cluster.nodes is None or not (plan or cluster.address):
        own = (1, int(here.cpus), int(here.gpus), main_memory_bytes())
        return Capacity(*own, cluster.gpu, cluster.cpu, here=True)
    declared = (
        cluster.nodes,
        cluster.node_cpus or int(here.cpus),
        int(here.gpus) if cluster.node_gpus is None else cluster.node_gpus,
        cluster.node_memory_bytes or main_memory_bytes(),
    )
    return Capacity(*declared, cluster.gpu, cluster.cpu, here=False)


def plan_job(job: Job, made: Collection[str] = ()) -> tuple[Plan, Capacity]:
    """What a job would run, why, and what it is reckoned on. ValueError for stages that do not exist. `made`: see
    make_plan."""
    options = job.options
    if job.workspace.is_file():
        raise ValueError(f"workspace={job.workspace} is a file; give a folder, there or not")
    graph = select(full(job.recipe, telling(job.overrides)), options.only, options.until)
    capacity = capacity_of(job.recipe, bool(options.plan))
    return make_plan(graph, Store(job.workspace), options.reuse, options.only, made, capacity), capacity


def run_job(job: Job, plan: Plan, capacity: Capacity, console: Console, tags: Mapping[str, str]) -> Outcome:
    """Run what a job's plan says must run."""
    recipe = job.recipe
    cluster = ClusterConfig(recipe.cluster.address, recipe.cluster.dashboard_port)
    config = canonical(recipe)
    settings = RunSettings(
        job.workspace,
        recipe.name,
        cluster,
        job.options.tracking_uri,
        config,
        whole=not (job.options.only or job.options.until),
        capacity=capacity,
        tags=tags,
    )
    return run_plan(plan, Store(job.workspace), settings, console)


def run(job: Job) -> int:
    """Plan, show, run, and say where everything is. Returns the exit code."""
    console = Console(highlight=False)
    recipe, options = job.recipe, job.options
    try:
        plan, capacity = plan_job(job)
    except ValueError as error:
        return refuse([str(error)])

    numbers = ", ".join(map(str, recipe.future_tokens))
    of = f" ({', '.join(recipe.arrangements)})" if recipe.arrangements else ""
    console.print(f"[bold]{recipe.name}[/]: n = {numbers}{of}, in {job.workspace}")
    console.print(plan_table(plan, capacity, console.width))
    if options.plan:
        say_problems(console, blockers(plan, capacity))
        if options.plan == "simulate":
            try:
                console.print("", simulated_table([plan], capacity, console.width))
            except NotSimulated as error:
                return refuse([str(error)])
        return 0

    try:
        outcome = run_job(job, plan, capacity, console, {})
    except (Refused, ConnectionError) as error:
        return refuse(str(error).splitlines())
    except Ended as error:
        console.print(Text(f"\nEnded: {error}"), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is left running; the same command goes on from the last checkpoint.")
        raise
    say_results(console, outcome)
    say_mlflow(console, outcome, options.tracking_uri)
    console.print("Ray        a head that outlives the run: infra/README.md")
    console.print(f"Took       {duration(outcome.seconds)}")
    return 1 if outcome.failed else 0


def main() -> Any:
    """The command line; returns the exit code."""
    try:
        return launch(run, lambda jobs: run_sweep(jobs, plan_job, run_job))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one, while Python ends, would change the exit code
        return 130


if __name__ == "__main__":
    sys.exit(main())
