"""What the terminal says at the end of a plan or run: what is short, the numbers that matter, where everything is."""

import shlex
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from components.flow.run import Outcome


def say_problems(console: Console, problems: Iterable[str]) -> None:
    """What keeps a plan from being run."""
    for problem in problems:
        console.print(Text.assemble(("before it can run: ", "yellow"), problem), soft_wrap=True)


def say_results(console: Console, outcome: Outcome) -> None:
    """The headline, the report, and what failed."""
    console.print()
    report = outcome.manifests.get("report")
    if report:
        headline = report.artifact["headline"]
        width = max(map(len, headline), default=0)
        for name, value in headline.items():
            console.print(f"  {name:<{width}} {value:.4g}")
        console.print(f"\nReport     {outcome.directory / 'report' / 'index.html'}", soft_wrap=True)
    for name, cause in root_causes(outcome).items():
        console.print(f"[red]failed[/]     {name}: {escape(cause.splitlines()[0])}", soft_wrap=True)
    if outcome.failed:
        if below := [name for name in outcome.failed if name not in root_causes(outcome)]:
            console.print(f"Not run    {', '.join(below)}", soft_wrap=True)
        console.print(f"Log        {outcome.directory / 'log.txt'}; the same command goes on from here", soft_wrap=True)


def say_mlflow(console: Console, outcome: Outcome, tracking_uri: str | None) -> None:
    """Where the runs are, or the command that shows them."""
    page = outcome.tracking_page or ""
    if tracking_uri is None:
        uri = shlex.quote(outcome.tracking_uri)
        server = f"MLFLOW_DISABLE_TELEMETRY=true {shlex.quote(sys.executable)} -m mlflow server"
        console.print(f"MLflow     {server} --backend-store-uri {uri} --port 5055 --workers 1", soft_wrap=True)
        console.print(f"           then open http://127.0.0.1:5055{page}", soft_wrap=True)
    else:
        console.print(f"MLflow     {tracking_uri}{page}", soft_wrap=True)


def root_causes(outcome: Outcome) -> dict[str, str]:
    """What failed itself, with its cause: without what only waited for something that failed."""
    return {name: cause for name, cause in outcome.failed.items() if not cause.startswith("needs ")}
