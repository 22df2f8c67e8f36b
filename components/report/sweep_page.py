"""The page of a sweep: what n changes, with its interval over seeds; how it moves with what was swept; every job."""

import shlex
from collections.abc import Iterator, Sequence

from components.report.markup import (
    NONE,
    Markup,
    decimal,
    duration,
    join,
    note,
    paragraph,
    section,
    table,
    tag,
    times,
)
from components.report.page import document
from components.report.provenance import facts_list
from components.report.sweep import SEED, Group, JobResult, Sweep, groups
from components.report.sweep_sections import (
    FIGURES,
    figure_of,
    in_order,
    interval_words,
    named,
    over_the_field,
    over_the_seeds,
    range_words,
)

STATUS = {"done": "done", "failed": "failed", "stopped": "stopped", "running": "running", "waiting": "not run"}


def sweep_page(sweep: Sweep) -> str:
    """The whole page, at any time of the sweep: jobs that did not run yet are shown as such."""
    found = groups(sweep)
    return document(
        title(sweep),
        tag(
            "header",
            paragraph(f"Headstart, {sweep.name}, recipe {', '.join(sweep.recipes)}, {sweep.when}", class_="kicker"),
            tag("h1", title(sweep)),
            paragraph(join(_lead(sweep, found), " "), class_="lead"),
            _tiles(found[0]) if len(found) == 1 else None,
        ),
        over_the_field(sweep, found),
        over_the_seeds(found),
        _jobs(sweep),
        _again(sweep),
    )


def title(sweep: Sweep) -> str:
    """The n measured, and what they were swept over."""
    measured = sorted({n for job in sweep.jobs for _, n in job.figures})
    versus = ", ".join(map(named, measured[1:])) + " against " if len(measured) > 1 else ""
    models = f"{versus}{named(measured[0])}" if measured else "A sweep"
    seeds = len({job.seed for job in sweep.jobs})
    fields = [name for name in sweep.swept if name != SEED] or [f"{seeds} seed{'s' * (seeds > 1)}"]
    return f"{models} over {' and '.join(fields)}"


def _lead(sweep: Sweep, found: Sequence[Group]) -> Iterator[str]:
    """What was swept, what did not come off, and for one group the findings as sentences."""
    swept = "; ".join(f"{name} = {', '.join(values)}" for name, values in sweep.swept.items())
    yield f"{len(sweep.jobs)} job{'s' * (len(sweep.jobs) > 1)}{': ' * bool(swept)}{swept}."
    for status in ("failed", "stopped", "running", "waiting"):
        if some := sum(job.status == status for job in sweep.jobs):
            yield tag("b", f"{some} {STATUS[status]}.")
    if len(found) > 1:
        return
    group = found[0]
    for row in group.comparisons:
        if row.figure == "bits_per_byte" and row.difference and row.difference.interval:
            made = row.difference
            yield (
                f"{named(row.n)} needs {decimal(abs(made.mean), 4)} {'more' if made.mean > 0 else 'fewer'} bits per "
                f"byte of unseen text than {named(group.baseline)}; paired over {made.seeds} seeds the 95 % "
                f"interval of the difference is {range_words(FIGURES[row.figure], made)}, and zero lies "
                f"{'inside' if made.zero_inside else 'outside'}."
            )
        if row.figure == "speedup" and row.mean.interval:
            speed = tag("b", f"{times(row.mean.mean)} the speed")
            interval = f"{range_words(FIGURES[row.figure], row.mean)} over {row.mean.seeds} seeds"
            yield join((f"{named(row.n)} decodes at", speed, f"of next-token decoding ({interval})."), " ")


def _tiles(group: Group) -> Markup | None:
    """What n changes of every figure that the baseline has too; what decoding gains as it is."""
    tiles = []
    for row in group.comparisons:
        figure = figure_of(row.figure)
        as_it_is = row.figure.rpartition("/")[2] in ("speedup", "tokens_per_forward")
        made = row.mean if as_it_is else row.difference
        if made is None:
            continue
        models = named(row.n) if as_it_is else f"{named(row.n)} minus {named(group.baseline)}"
        tiles.append(
            tag(
                "div",
                tag("b", figure.show(made.mean) if as_it_is else figure.change(made.mean)),
                tag("span", f"{figure.title.lower()}, {models}"),
                note(interval_words(figure, made)),
                class_="tile",
            )
        )
    return tag("div", *tiles, class_="tiles") if tiles else None


def _jobs(sweep: Sweep) -> Markup:
    """A row per job with every headline figure, and below it why those failed that did."""
    columns = in_order(key for job in sweep.jobs for key in job.figures)
    head = ["", "", *(f"{figure_of(name).title}, {named(n)}" for name, n in columns), "Took"]

    def row(job: JobResult) -> list[str]:
        figures = job.figures
        words = tag("span", STATUS[job.status], class_="no" if job.status == "failed" else None)
        cells = [figure_of(key[0]).show(figures[key]) if key in figures else NONE for key in columns]
        took = NONE if job.seconds is None else duration(job.seconds)
        return [tag("a", job.name, href=job.report) if job.report else job.name, words, *cells, took]

    failed = {job.name: f"failed: {job.cause}" for job in sweep.jobs if job.status == "failed"}
    return section(
        "jobs",
        "Every job",
        table(head, [row(job) for job in sweep.jobs]),
        facts_list(failed) if failed else None,
        paragraph(
            "The name of a job leads to its report. Jobs run one after the other in one workspace: a stage that an "
            "earlier job made, the corpus among them, is reused, and the time of a job does not count it.",
            class_="caption",
        ),
    )


def _again(sweep: Sweep) -> Markup:
    return section(
        "again",
        "Make it again",
        tag("pre", shlex.join(sweep.command), class_="command"),
        facts_list(
            {
                "MLflow": f"the runs of jobs that ran anything carry the tag sweep = {sweep.name}",
                "Numbers": "results.json beside this page, in full precision",
            }
        ),
    )
