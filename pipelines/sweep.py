"""A sweep: the jobs of `-m` one after the other on one workspace, and one page that compares them.

What jobs share has one key in the store and is made by the first that needs it. A job that fails ends no other.
"""

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.flow.cost import Capacity
from components.flow.disk import no_place
from components.flow.fit import blockers, disk_shortage
from components.flow.folder import run_directory
from components.flow.plan import Plan
from components.flow.quantity import duration
from components.flow.run import Ended, Outcome, Refused
from components.flow.stage_run import write_json
from components.flow.table import in_words, plan_table
from components.report.sweep import JobResult, Sweep, groups, results
from components.report.sweep_page import STATUS, sweep_page
from components.report.sweep_sections import figure_of, in_order, interval_words
from pipelines.ending import root_causes, say_mlflow, say_problems, say_results
from pipelines.launch import Job, located, refuse, swept
from pipelines.recipe import Options, Recipe
from pipelines.simulation import simulated_table

PlanJob = Callable[[Job[Recipe], Collection[str]], tuple[Plan, Capacity]]
RunJob = Callable[[Job[Recipe], Plan, Capacity, Console, Mapping[str, str]], Outcome]


def run_sweep(jobs: Sequence[Job[Recipe]], plan_job: PlanJob, run_job: RunJob) -> int:
    """Plan all jobs, refuse the sweep whole if one cannot start, run them, and write the page. Returns the exit code.

    `plan_job` is given the recipe keys that earlier jobs answered, `run_job` the tags of the job's MLflow run.
    """
    console = Console(highlight=False)
    waiting = [
        JobResult(values, job.recipe.seed, "waiting")
        for job, values in zip(jobs, swept([job.overrides for job in jobs]), strict=True)
    ]
    names = [job.name for job in waiting]
    plans, faults = _planned(jobs, names, plan_job)
    if faults:
        return refuse(faults)
    workspace = jobs[0].workspace
    once = _once(names, plans)
    if jobs[0].options.plan:
        console.print(f"[bold]A sweep of {len(jobs)} jobs[/] in {workspace}", soft_wrap=True)
        _show_plans(console, jobs, names, once, plans)
        return 0
    fault = no_place(workspace)
    if short := [fault] if fault else disk_shortage(_together(once), workspace):
        return refuse(short)
    console.print(f"[bold]A sweep of {len(jobs)} jobs[/] in {workspace}", soft_wrap=True)
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        directory = run_directory(workspace, "sweep", "latest-sweep")
    except OSError as error:
        return refuse([f"workspace={workspace} cannot be written: {error.strerror}; give another"])
    return _run_all(console, jobs, waiting, directory, plan_job, run_job)


def _planned(
    jobs: Sequence[Job[Recipe]], names: Sequence[str], plan_job: PlanJob
) -> tuple[list[tuple[Plan, Capacity]], list[str]]:
    """The plan of every job, and all that keeps any of them from starting."""
    faults = [
        f"{option.name} is swept; a sweep has one: give it once"
        for option in dataclasses.fields(Options)
        if len({getattr(job.options, option.name) for job in jobs}) > 1
    ]
    asked = [(job.recipe, job.options) for job in jobs]
    for place, job in enumerate(jobs):
        if (first := asked.index((job.recipe, job.options))) < place:
            faults.append(f"{names[first]} and {names[place]} are the same recipe; give each value once")
    plans: list[tuple[Plan, Capacity]] = []
    wrong: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        try:
            plan, capacity = plan_job(job, ())
        except ValueError as error:
            wrong.setdefault(str(error), []).append(place)
            continue
        plans.append((plan, capacity))
        if not job.options.plan:
            for problem in blockers(plan, capacity):
                wrong.setdefault(problem, []).append(place)
    return plans, faults + located(wrong, names)


def _once(names: Sequence[str], plans: Sequence[tuple[Plan, Capacity]]) -> list[Plan]:
    """The plans as the jobs will find things: what an earlier job makes, a later one reuses."""
    maker: dict[str, str] = {}
    found = []
    for name, (plan, _) in zip(names, plans, strict=True):
        running = {node.recipe_key for node in plan.to_run()}
        rows = tuple(
            dataclasses.replace(row, status="reused", reason=f"made once, by {maker[row.recipe_key]}", cost=None)
            if row.recipe_key in running & maker.keys()
            else row
            for row in plan.nodes
        )
        maker = dict.fromkeys(running, name) | maker
        found.append(dataclasses.replace(plan, nodes=rows))
    return found


def _together(plans: Sequence[Plan]) -> Plan:
    """Every node of a sweep, what is made once counted once."""
    return Plan(tuple(row for plan in plans for row in plan.nodes))


def _show_plans(
    console: Console,
    jobs: Sequence[Job[Recipe]],
    names: Sequence[str],
    once: Sequence[Plan],
    plans: Sequence[tuple[Plan, Capacity]],
) -> None:
    """Every job's plan, what an earlier one makes not counted again (`once`); then what the sweep comes to."""
    for job, name, plan, (whole, capacity) in zip(jobs, names, once, plans, strict=True):
        console.print(
            f"\n[bold]{escape(name)}[/], {job.recipe.name}: n = {', '.join(map(str, job.recipe.future_tokens))}"
        )
        console.print(plan_table(plan, capacity, console.width))
        say_problems(console, blockers(whole, capacity))
    if jobs[0].options.plan == "simulate":
        console.print("", simulated_table([plan for plan, _ in plans], plans[0][1], console.width))
    console.print(f"\n[bold]The sweep[/]  {in_words(_together(once), plans[0][1])}", soft_wrap=True)


def _run_all(
    console: Console,
    jobs: Sequence[Job[Recipe]],
    found: list[JobResult],
    directory: Path,
    plan_job: PlanJob,
    run_job: RunJob,
) -> int:
    """Run job after job; the page says after each how far the sweep is. `found` holds what came of them."""
    made: set[str] = set()
    outcomes: list[Outcome] = []
    for place, job in enumerate(jobs):
        waiting = found[place]
        console.print(f"\n[bold]Job {place + 1} of {len(jobs)}: {escape(waiting.name)}[/]")
        found[place] = dataclasses.replace(waiting, status="running")
        _write(directory, jobs, found)
        started = time.time()
        try:
            plan, capacity = plan_job(job, made)
            console.print(plan_table(plan, capacity, console.width))
            outcome = run_job(job, plan, capacity, console, {"sweep": directory.name})
        except Exception as error:
            if not isinstance(error, Refused | Ended | ConnectionError | ValueError):  # those say all there is to say
                traceback.print_exc()
            cause = str(error) or type(error).__name__
            console.print(f"[red]failed[/]     {escape(cause)}", soft_wrap=True)
            found[place] = dataclasses.replace(waiting, status="failed", cause=cause, seconds=time.time() - started)
            continue
        except KeyboardInterrupt:
            found[place] = dataclasses.replace(waiting, status="stopped", seconds=time.time() - started)
            _write(directory, jobs, found)
            console.print("\nStopped. Nothing is left running; the same command goes on from the last checkpoint.")
            console.print(f"Sweep      {directory / 'index.html'}, as far as it came", soft_wrap=True)
            raise
        outcomes.append(outcome)
        made |= {p.recipe_key for p in plan.nodes if p.node.name in outcome.manifests}
        found[place] = _result(waiting, outcome, directory)
        say_results(console, outcome)
    sweep = _write(directory, jobs, found)
    _say_sweep(console, sweep, directory)
    if outcomes:
        tracked = next((done for done in reversed(outcomes) if done.tracking_page), None)
        say_mlflow(console, tracked or outcomes[-1], jobs[0].options.tracking_uri)
        if tracked:
            console.print(f"           the runs of this sweep: tags.sweep = '{directory.name}'", soft_wrap=True)
    return 1 if any(job.status == "failed" for job in found) else 0


def _result(waiting: JobResult, outcome: Outcome, directory: Path) -> JobResult:
    """What came of a job that ran to its end."""
    failed = [f"{name}: {cause}" for name, cause in root_causes(outcome).items()]
    made = dataclasses.replace(
        waiting, status="failed" if failed else "done", cause="; ".join(failed), seconds=outcome.seconds
    )
    report = outcome.manifests.get("report")
    if report is None:
        return made
    page = outcome.directory / "report" / "index.html"
    numbers = json.loads(page.with_name("results.json").read_text(encoding="utf-8"))
    return dataclasses.replace(
        made,
        headline=report.artifact["headline"],
        models=numbers["models"],
        corpus=(numbers["corpus"] or {}).get("digest"),
        report=os.path.relpath(page, directory),
    )


def _write(directory: Path, jobs: Sequence[Job[Recipe]], found: Sequence[JobResult]) -> Sweep:
    """The page and its numbers, as far as the sweep is."""
    sweep = Sweep(
        directory.name,
        tuple(dict.fromkeys(job.recipe.name for job in jobs)),
        ("python", f"pipelines/{Path(sys.argv[0]).name}", *sys.argv[1:]),
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        tuple(found),
    )
    (directory / "index.html").write_text(sweep_page(sweep), encoding="utf-8")
    write_json(directory / "results.json", results(sweep))
    return sweep


def _say_sweep(console: Console, sweep: Sweep, directory: Path) -> None:
    """Every job's figures, what n changes over the seeds, and where the page is."""
    columns = in_order(key for job in sweep.jobs for key in job.figures)
    table = _table("job", "", *(f"{figure_of(name).short}\nn = {n}" for name, n in columns), "took")
    for job in sweep.jobs:
        figures = [figure_of(key[0]).show(job.figures[key]) if key in job.figures else "–" for key in columns]
        took = "–" if job.seconds is None else duration(job.seconds)
        table.add_row(escape(job.name), STATUS[job.status], *figures, took)
    console.print()
    console.print(table)
    changes = _table("over the seeds", "", "95 % interval", "zero is")
    for group in groups(sweep):
        for row in group.comparisons:
            if row.difference and row.difference.interval:
                figure = figure_of(row.figure)
                zero = "inside" if row.difference.zero_inside else "outside"
                models = f"{figure.short}, n = {row.n} against {group.baseline}"
                name = f"{escape(group.name)}: {models}" if group.name else models
                words = interval_words(figure, row.difference)
                changes.add_row(name, figure.change(row.difference.mean), words, zero)
    if changes.row_count:
        console.print()
        console.print(changes)
    console.print(f"\nSweep      {directory / 'index.html'}", soft_wrap=True)


def _table(*head: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in head:
        table.add_column(title, overflow="fold")
    return table
