"""From the command line to jobs: all combinations of a sweep are composed, and refused together, before any runs."""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic

from components.report.sweep import written
from pipelines import keys
from pipelines.compose import Faults, build, register, sizes_of
from pipelines.keys import Program, R
from pipelines.overrides import as_written, faults_of_overrides, for_hydra, readable
from pipelines.recipe import Options

SHOWN_JOBS = 3
"""Jobs named beside a fault that they share."""


@dataclass(frozen=True)
class Job(Generic[R]):
    """One recipe to run, as it was asked for."""

    recipe: R
    options: Options
    overrides: tuple[str, ...]
    """What the command line says; of what is swept, this job's value."""

    @property
    def workspace(self) -> Path:
        return Path(self.options.workspace).expanduser().absolute()


def launch(program: Program[R], run: Callable[[Job[R]], int], sweep: Callable[[Sequence[Job[R]]], int]) -> int:
    """Parse sys.argv with Hydra, then `run` the job or, with `-m`, `sweep` over them. Returns the exit code.

    Hydra only composes: it never sees a job run, so that a fault in one combination is said before any has begun.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf

    if fault := other_checkout(Path(sys.argv[0]), keys.ROOT):
        return refuse([fault])
    arguments = [readable(argument) for argument in sys.argv[1:]]
    arguments.sort(key=lambda argument: argument not in ("-m", "--multirun"))  # Hydra reads it first or last alone
    try:
        faults, good = faults_of_overrides(arguments, program, partial(sizes_of, program=program))
    except Faults as error:  # the recipe's file itself is at fault
        return refuse(error.faults)
    sys.argv[1:] = [for_hydra(argument, program) for argument in good]
    jobs: list[Job[R]] = []
    combinations: list[tuple[str, ...]] = []
    wrong: dict[str, list[int]] = {}
    multirun = False

    @hydra.main(version_base="1.3", config_path=str(keys.CONF), config_name="full")
    def compose_job(values: DictConfig) -> None:
        nonlocal multirun
        multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        overrides = tuple(as_written(override) for override in HydraConfig.get().overrides.task)
        combinations.append(overrides)
        plain = OmegaConf.to_container(values, resolve=True)
        assert isinstance(plain, dict)
        try:
            jobs.append(Job(*build({str(k): v for k, v in plain.items()}, program), overrides))
        except Faults as error:
            for fault in error.faults:
                wrong.setdefault(fault, []).append(len(combinations) - 1)

    try:
        with tempfile.TemporaryDirectory() as folder:  # Hydra writes the sweep's settings, which our page has too
            register(program, folder)
            compose_job()
    except SystemExit:  # Hydra has said why
        if not faults:
            raise
    faults += located(wrong, [written(values) for values in swept(combinations)])
    if faults:
        return refuse(faults)
    if not jobs:  # Hydra was asked to show something
        return 0
    return sweep(jobs) if multirun else run(jobs[0])


def other_checkout(program: Path, imported: Path) -> str | None:
    """The program may lie in one checkout while Python imports the packages of another, which would run unseen."""
    own = program.resolve().parents[1] if program.resolve().parent.name == "pipelines" else imported
    if own == imported or not (own / "components").is_dir():
        return None
    return (
        f"{program} belongs to {own}, but this Python imports {imported}: run {imported / 'pipelines' / program.name}, "
        f"or install the other with `pip install -e {own}`"
    )


def swept(combinations: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Of the overrides of every job those that are not the same in all, as field to value."""
    given = [dict(o.lstrip("+").split("=", 1) for o in overrides if "=" in o) for overrides in combinations]
    fields = {key for values in given for key in values}
    varied = {key for key in fields if len({values.get(key) for values in given}) > 1}
    return [{key: value for key, value in values.items() if key in varied} for values in given]


def located(wrong: Mapping[str, Sequence[int]], names: Sequence[str]) -> list[str]:
    """Faults, each with the jobs that have it unless all have it. `wrong`: fault to places in `names`."""
    lines = []
    for fault, found in wrong.items():
        places = list(dict.fromkeys(found))  # a job may have it twice
        few = "; ".join(names[place] for place in places[:SHOWN_JOBS])
        more = f" and {len(places) - SHOWN_JOBS} more" if len(places) > SHOWN_JOBS else ""
        lines.append(fault if len(places) == len(names) else f"{fault} (with {few}{more})")
    return lines


def refuse(faults: Sequence[str]) -> int:
    """Print faults for a person; exit code 2."""
    print("This cannot run as asked:", file=sys.stderr)
    for fault in faults:
        print("  " + fault.replace("\n", "\n  "), file=sys.stderr)
    print("Recipes and fields: conf/README.md, or --help", file=sys.stderr)
    return 2
