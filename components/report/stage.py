"""The door of the room: the report as a stage."""

from components.artifacts import Checkpoint, DecodingBenchmark, Evaluation, Report
from components.flow.node import Resources, stage
from components.flow.stage_run import StageRun
from components.report.config import ReportConfig


@stage(version=1, resources=Resources(cpus=1))
def write_report(
    config: ReportConfig,
    checkpoints: tuple[Checkpoint, ...],
    evaluations: tuple[Evaluation, ...],
    benchmarks: tuple[DecodingBenchmark, ...],
    run: StageRun,
) -> Report:
    """`index.html` and `results.json` from everything that was measured; pretrained and fine-tuned models mixed."""
    raise NotImplementedError
