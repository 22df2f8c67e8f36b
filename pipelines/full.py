"""The whole way from a corpus to a report: `python pipelines/full.py [conf=NAME] [key=value …]`.

Reads top to bottom: the graph first, then what a person sees of its plan and its run.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from components.artifacts import Checkpoint, DecodingBenchmark, Evaluation
from components.corpus.stage import collect, draw_pairs
from components.decoding.stage import benchmark_decoding
from components.evaluation.stage import evaluate, evaluate_finetuned
from components.flow.cluster import ClusterConfig, main_memory_bytes, this_machine
from components.flow.cost import Capacity
from components.flow.fit import misfits
from components.flow.identity import canonical
from components.flow.node import Graph, Node, Resources, several
from components.flow.plan import make_plan, select
from components.flow.quantity import duration
from components.flow.run import Outcome, Refused, RunSettings, run_plan
from components.flow.store import Store
from components.flow.table import plan_table
from components.report.config import ReportConfig
from components.report.stage import write_report
from components.shards.stage import tokenize
from components.tokenizer.stage import train_tokenizer
from components.training.config import PretrainConfig
from components.training.stage import finetune, pretrain
from pipelines.compose import launch, refuse
from pipelines.recipe import Options, Recipe


def full(recipe: Recipe, overrides: tuple[str, ...] = ()) -> Graph:
    """The graph of a recipe. Pure, and nothing runs yet. `overrides` are what the report prints to reproduce it."""
    data = recipe.cluster.data
    corpus = collect.bind(recipe.corpus, name="corpus", execution=data)
    tokenizer = train_tokenizer.bind(recipe.tokenizer, corpus, name="tokenizer")
    shards = tokenize.bind(recipe.shards, corpus, tokenizer, name="shards", execution=data)

    # small models lose more by a second thread than by a neighbour: the models are made side by side
    beside = Resources(share=1 / len(recipe.future_tokens))
    checkpoints: list[Node[Checkpoint]] = []
    evaluations: list[Node[Evaluation]] = []
    benchmarks: list[Node[DecodingBenchmark]] = []
    pretrained: dict[int, Node[Checkpoint]] = {}
    for n in recipe.future_tokens:
        training = dataclasses.replace(recipe.training, seed=recipe.seed)
        pretrained[n] = pretrain.bind(
            PretrainConfig(recipe.model_for(n), training),
            shards,
            name=f"pretrain-n{n}",
            title=f"n={n} pretrain",
            group=f"n={n}",
            resources=_training_resources(recipe, beside.share),
            execution=recipe.cluster.training,
        )
        checkpoints.append(pretrained[n])
        evaluations.append(
            evaluate.bind(
                recipe.evaluation,
                pretrained[n],
                shards,
                corpus,
                name=f"evaluate-n{n}",
                title=f"n={n} evaluate",
                group=f"n={n}",
                resources=_measuring_resources(recipe, beside.share),
            )
        )
        if n > 1:
            benchmarks.append(
                benchmark_decoding.bind(
                    recipe.decoding_for(n),
                    pretrained[n],
                    shards,
                    name=f"decode-n{n}",
                    title=f"n={n} decode",
                    group=f"n={n}",
                    resources=_measuring_resources(recipe),
                )
            )

    if recipe.finetunes:
        pairs = draw_pairs.bind(recipe.pairs, corpus, name="pairs")
        for n, target in recipe.finetunes:
            tuned = finetune.bind(
                dataclasses.replace(recipe.finetune, n_future_tokens=target, seed=recipe.seed),
                pretrained[n],
                pairs,
                name=f"finetune-n{n}to{target}",
                title=f"n={n}→{target} finetune",
                group=f"n={n}→{target}",
                resources=_training_resources(recipe, beside.share),
                execution=recipe.cluster.training,
            )
            checkpoints.append(tuned)
            evaluations.append(
                evaluate_finetuned.bind(
                    recipe.evaluation,
                    tuned,
                    pairs,
                    name=f"evaluate-n{n}to{target}",
                    title=f"n={n}→{target} evaluate",
                    group=f"n={n}→{target}",
                    resources=_measuring_resources(recipe, beside.share),
                )
            )

    report = write_report.bind(
        ReportConfig(recipe.name, overrides),
        several(checkpoints),
        several(evaluations),
        several(benchmarks),
        name="report",
    )
    return Graph.of(report)


def _telling(overrides: list[str]) -> tuple[str, ...]:
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


def run(recipe: Recipe, options: Options, overrides: list[str]) -> int:
    """Plan, show, run, and say where everything is. Returns the exit code."""
    console = Console(highlight=False)
    workspace = Path(options.workspace).expanduser().absolute()
    store = Store(workspace)
    try:
        graph = select(full(recipe, _telling(overrides)), options.only, options.until)
        plan = make_plan(graph, store, options.reuse, options.only)
    except ValueError as error:
        return refuse([str(error)])

    console.print(f"[bold]{recipe.name}[/]: n = {', '.join(map(str, recipe.future_tokens))}, in {workspace}")
    capacity = capacity_of(recipe, options.plan)
    console.print(plan_table(plan, capacity))
    if options.plan:
        for problem in (*plan.problems, *misfits(plan, capacity)):
            console.print(Text.assemble(("before it can run: ", "yellow"), problem), soft_wrap=True)
        return 0

    cluster = ClusterConfig(recipe.cluster.address, recipe.cluster.dashboard_port)
    settings = RunSettings(workspace, recipe.name, cluster, options.tracking_uri, canonical(recipe), capacity)
    try:
        outcome = run_plan(plan, store, settings, console)
    except (Refused, ConnectionError) as error:
        return refuse(str(error).splitlines())
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is left running; the same command goes on from the last checkpoint.")
        raise
    _say_where(console, workspace, outcome, options)
    return 1 if outcome.failed else 0


def _say_where(console: Console, workspace: Path, outcome: Outcome, options: Options) -> None:
    """The end of a run: report, MLflow, dashboard, and the numbers that matter."""
    console.print()
    report = outcome.manifests.get("report")
    if report:
        for name, value in report.artifact["headline"].items():
            console.print(f"  {name:<24} {value:.4g}")
        console.print(f"\nReport     {outcome.directory / 'report' / 'index.html'}", soft_wrap=True)
    for name, cause in outcome.failed.items():
        console.print(f"[red]failed[/]     {name}: {escape(cause.splitlines()[0])}", soft_wrap=True)
    if outcome.failed:
        console.print(f"Log        {outcome.directory / 'log.txt'}; the same command goes on from here", soft_wrap=True)
    page = outcome.tracking_page or ""
    if options.tracking_uri is None:
        uri = shlex.quote(outcome.tracking_uri)
        server = f"MLFLOW_DISABLE_TELEMETRY=true {shlex.quote(sys.executable)} -m mlflow server"
        console.print(f"MLflow     {server} --backend-store-uri {uri} --port 5055 --workers 1", soft_wrap=True)
        console.print(f"           then open http://127.0.0.1:5055{page}", soft_wrap=True)
    else:
        console.print(f"MLflow     {options.tracking_uri}{page}", soft_wrap=True)
    console.print("Ray        a head that outlives the run: infra/README.md")
    console.print(f"Took       {duration(outcome.seconds)}")


def main() -> Any:
    """The command line; returns the exit code."""
    try:
        return launch(run)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
