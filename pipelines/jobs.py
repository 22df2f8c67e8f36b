"""From a job to its results: the plan of its graph, what a person sees of it, the run."""

import dataclasses
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console
from rich.text import Text

from components.flow.cluster import ClusterConfig, main_memory_bytes, this_machine
from components.flow.cost import Capacity
from components.flow.fit import blockers
from components.flow.identity import canonical
from components.flow.node import Graph
from components.flow.plan import Plan, make_plan, select
from components.flow.quantity import duration
from components.flow.run import Ended, Outcome, Refused, RunSettings, SoFar, run_plan
from components.flow.store import Store
from components.flow.table import plan_table
from components.training.config import NotSimulated
from pipelines.ending import say_mlflow, say_problems, say_results
from pipelines.launch import Job, refuse
from pipelines.recipe import ClusterSettings, Options
from pipelines.simulation import simulated_table


class AnyRecipe(Protocol):
    """What is needed of a recipe of any kind."""

    @property
    def name(self) -> str: ...
    @property
    def cluster(self) -> ClusterSettings: ...


R = TypeVar("R", bound=AnyRecipe)


@dataclass(frozen=True)
class Way(Generic[R]):
    """How a kind of recipe becomes a graph."""

    graph: Callable[[R, tuple[str, ...]], Graph]
    """Of a recipe and the overrides that its report is to print."""
    words: Callable[[R], str]
    """What is compared, for the first line of the terminal."""
    so_far: Callable[[Graph, Store], SoFar] | None = None
    """What to do with the results of a graph while others are to come."""
    page_so_far: str | None = None
    """The page that it writes, in the run's folder."""


def telling(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides that change a result, sorted: not those that say where or how to run."""
    options = {f.name for f in dataclasses.fields(Options)} | {"cluster"}
    return tuple(sorted(o for o in overrides if o.lstrip("+").split("=")[0].split(".")[0] not in options))


def capacity_of(recipe: AnyRecipe, plan: bool) -> Capacity:
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


def plan_job(way: Way[R], job: Job[R], made: Collection[str] = ()) -> tuple[Plan, Capacity]:
    """What a job would run, why, and what it is reckoned on. ValueError for stages that do not exist. `made`: see
    make_plan."""
    options = job.options
    if job.workspace.is_file():
        raise ValueError(f"workspace={job.workspace} is a file; give a folder, there or not")
    graph = select(way.graph(job.recipe, telling(job.overrides)), options.only, options.until)
    capacity = capacity_of(job.recipe, bool(options.plan))
    return make_plan(graph, Store(job.workspace), options.reuse, options.only, made, capacity), capacity


def problems_here(plan: Plan, recipe: AnyRecipe) -> list[str]:
    """What this machine lacks to run a plan by itself."""
    fault = recipe.cluster.training.lacks_compiler if plan.to_run() and not recipe.cluster.address else None
    return [fault] if fault else []


def run_job(
    way: Way[R], job: Job[R], plan: Plan, capacity: Capacity, console: Console, tags: Mapping[str, str]
) -> Outcome:
    """Run what a job's plan says must run."""
    recipe = job.recipe
    cluster = ClusterConfig(recipe.cluster.address, recipe.cluster.dashboard_port)
    config, store = canonical(recipe), Store(job.workspace)
    settings = RunSettings(
        job.workspace,
        recipe.name,
        cluster,
        job.options.tracking_uri,
        config,
        whole=not (job.options.only or job.options.until),
        capacity=capacity,
        tags=tags,
        so_far=way.so_far(Graph(tuple(row.node for row in plan.nodes)), store) if way.so_far else None,
    )
    if problems := problems_here(plan, recipe):
        raise Refused("\n".join(problems))
    return run_plan(plan, store, settings, console)


def run(way: Way[R], job: Job[R]) -> int:
    """Plan, show, run, and say where everything is. Returns the exit code."""
    console = Console(highlight=False)
    recipe, options = job.recipe, job.options
    try:
        plan, capacity = plan_job(way, job)
    except ValueError as error:
        return refuse([str(error)])

    console.print(f"[bold]{recipe.name}[/]: {way.words(recipe)}, in {job.workspace}")
    console.print(plan_table(plan, capacity, console.width))
    if options.plan:
        say_problems(console, [*blockers(plan, capacity), *problems_here(plan, recipe)])
        if options.plan == "simulate":
            try:
                console.print("", simulated_table([plan], capacity, console.width))
            except NotSimulated as error:
                return refuse([str(error)])
        return 0

    if way.page_so_far and len(plan.to_run()) > 1 and not (options.only or options.until):
        console.print(f"\nSo far     {job.workspace / 'latest' / way.page_so_far}", soft_wrap=True)
    try:
        outcome = run_job(way, job, plan, capacity, console, {})
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


def command_line(main: Callable[[], Any]) -> Any:
    """A program's exit code, an interrupt's included."""
    try:
        return main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one, while Python ends, would change the exit code
        return 130
