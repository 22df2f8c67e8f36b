"""The door of the room: the report as a stage."""

from components.artifacts import Cell, Checkpoint, DecodingBenchmark, Evaluation, Report
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun
from components.report.config import GridConfig, ReportConfig


@stage(version=1, resources=Resources(cpus=1), publish=True)
def write_report(
    config: ReportConfig,
    checkpoints: tuple[Checkpoint, ...],
    evaluations: tuple[Evaluation, ...],
    benchmarks: tuple[DecodingBenchmark, ...],
    run: StageRun,
) -> Report:
    """`index.html` and `results.json` from everything that was measured; pretrained and fine-tuned models mixed."""
    import hashlib
    import json
    import time

    from components.report.facts import Step, gather
    from components.report.page import page
    from components.report.results import headline, results

    steps = tuple(
        Step(r.name, r.title, r.inputs, r.reused, r.seconds, r.config, r.artifact, r.machine, r.warnings)
        for r in run.lineage
    )
    now = time.time()
    facts = gather(config, checkpoints, evaluations, benchmarks, steps, now - run.run_started, now)
    html = page(facts)
    numbers = json.dumps(results(facts), indent=2, allow_nan=False) + "\n"
    (run.directory / "index.html").write_text(html, encoding="utf-8")
    (run.directory / "results.json").write_text(numbers, encoding="utf-8")
    digest = hashlib.sha256((html + numbers).encode()).hexdigest()
    return Report(run.directory, digest, headline(facts))


@stage(version=1, resources=Resources(cpus=1), publish=True)
def write_grid_report(config: GridConfig, cells: tuple[Cell, ...], run: StageRun) -> Report:
    """`index.html` and `results.json` of a grid of small trainings."""
    import hashlib
    import time

    from components.report.grid import headline
    from components.report.grid_files import write_grid

    now = time.time()
    machine = run.lineage[-1].machine if run.lineage else ""
    grid = write_grid(run.directory, config, dict(enumerate(cells)), now, machine, now - run.run_started)
    files = (run.directory / name for name in ("index.html", "results.json"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return Report(run.directory, digest, headline(grid))
