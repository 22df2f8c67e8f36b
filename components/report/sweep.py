"""What the jobs of a sweep came to, side by side: which differ in the seed alone, and what n changes over the seeds."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from components.report.intervals import Estimate, estimate, paired_difference

SEED = "seed"


@dataclass(frozen=True)
class JobResult:
    """One combination of the values swept, and what came of it."""

    values: Mapping[str, str]
    """What was swept, as field to this job's value."""
    seed: int
    status: Literal["done", "failed", "stopped", "running", "waiting"]
    cause: str = ""
    """Of a failure."""
    seconds: float | None = None
    """From the job's start to its end; what an earlier job had made took none of them."""
    headline: Mapping[str, float] = field(default_factory=dict)
    """Of its report, as `n4/bits_per_byte`; empty when it made none."""
    models: Sequence[Mapping[str, Any]] = ()
    """`models` of its report's results.json."""
    corpus: str | None = None
    """Digest of the text that it trained on and scored."""
    report: str | None = None
    """Its page, relative to the sweep's."""

    @property
    def name(self) -> str:
        return written(self.values) or f"seed={self.seed}"

    @property
    def figures(self) -> dict[tuple[str, int], float]:
        """Every headline figure by (name, n); of a study the name begins with size or arrangement: `3b/speedup`."""
        found = {}
        for key, value in self.headline.items():
            if match := re.fullmatch(r"(\w+/)?n(\d+)/(\w+)", key):
                found[(match[1] or "") + match[3], int(match[2])] = value
        return found


@dataclass(frozen=True)
class Sweep:
    """All jobs of one `-m`, in their order."""

    name: str
    """The folder's, and the tag `sweep` of the jobs' MLflow runs."""
    recipes: tuple[str, ...]
    command: tuple[str, ...]
    when: str
    jobs: tuple[JobResult, ...]

    @property
    def swept(self) -> dict[str, list[str]]:
        """Every field swept, with its values in their order."""
        fields: dict[str, list[str]] = {}
        for job in self.jobs:
            for key, value in job.values.items():
                if value not in fields.setdefault(key, []):
                    fields[key].append(value)
        return fields

    @property
    def numeric_field(self) -> str | None:
        """The field beside the seed, where there is exactly one and its values are numbers."""
        fields = [name for name in self.swept if name != SEED]
        return fields[0] if len(fields) == 1 and all(number(v) is not None for v in self.swept[fields[0]]) else None


@dataclass(frozen=True)
class Comparison:
    """One headline figure of the models with one n, over the seeds of a group."""

    figure: str
    n: int
    by_seed: Mapping[int, float]
    mean: Estimate
    difference: Estimate | None
    """From the baseline, paired by seed; None for the baseline itself and where it has no such figure."""


@dataclass(frozen=True)
class Group:
    """Jobs that differ in the seed alone."""

    values: Mapping[str, str]
    """What they share of what was swept."""
    jobs: tuple[JobResult, ...]

    @property
    def name(self) -> str:
        return written(self.values)

    @property
    def baseline(self) -> int:
        """The least n measured: 1 in most sweeps."""
        return min((n for job in self.jobs for _, n in job.figures), default=1)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Figure by figure in the order of the headline, the least n first."""
        found = [(job.seed, job.figures) for job in self.jobs]
        names = dict.fromkeys(name for _, figures in found for name, _ in figures)
        made = []
        for name in names:
            for n in sorted({n for _, figures in found for other, n in figures if other == name}):
                values = {seed: figures[name, n] for seed, figures in found if (name, n) in figures}
                base = {
                    seed: value for seed, figures in found if (value := self._of_baseline(name, figures)) is not None
                }
                difference = paired_difference(values, base) if n != self.baseline else None
                made.append(Comparison(name, n, values, estimate([*values.values()]), difference))
        return tuple(made)

    def _of_baseline(self, name: str, figures: Mapping[tuple[str, int], float]) -> float | None:
        """What a job's baseline has of a figure: next-token decoding is 1 by definition where decoding is compared, and
        arrangements have one next-token model for all."""
        plain = name.rpartition("/")[2]
        if self.baseline == 1 and plain in ("speedup", "tokens_per_forward"):
            return 1.0
        return figures.get((name, self.baseline), figures.get((plain, self.baseline)))

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """The models of any of its jobs by their keys, `n4` or `causal/n4`: their sizes do not depend on the seed. None
        of a scaling study, where many have the same n."""
        every = [model for job in reversed(self.jobs) for model in job.models]
        # a reused report of an earlier version has no keys, and no arrangements either
        return {model.get("key", f"n{model['n_future_tokens']}"): model for model in every if not model.get("size")}


def groups(sweep: Sweep) -> tuple[Group, ...]:
    """The jobs by what they share beside the seed, in the order of their first."""
    found: dict[tuple[tuple[str, str], ...], list[JobResult]] = {}
    for job in sweep.jobs:
        found.setdefault(tuple((k, v) for k, v in job.values.items() if k != SEED), []).append(job)
    return tuple(Group(dict(values), tuple(jobs)) for values, jobs in found.items())


def written(values: Mapping[str, str]) -> str:
    """`seed=1 training.steps=8`, as on the command line."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def number(value: str) -> float | None:
    """A value of the command line as a number, where it is one."""
    try:
        made = float(value)
    except ValueError:
        return None
    return made if math.isfinite(made) else None


def results(sweep: Sweep) -> dict[str, Any]:
    """`results.json` of a sweep: every number of its page in full precision."""
    return {
        "sweep": sweep.name,
        "recipes": list(sweep.recipes),
        "command": list(sweep.command),
        "when": sweep.when,
        "swept": sweep.swept,
        "jobs": [dataclasses.asdict(job) for job in sweep.jobs],
        "groups": [
            {
                "values": dict(group.values),
                "seeds": [job.seed for job in group.jobs],
                "baseline": group.baseline,
                "figures": [*_figures(group)],
            }
            for group in groups(sweep)
        ],
    }


def _figures(group: Group) -> Iterator[dict[str, Any]]:
    for row in group.comparisons:
        yield {
            "figure": row.figure,
            "n_future_tokens": row.n,
            "by_seed": {str(seed): value for seed, value in row.by_seed.items()},
            "mean": _plain(row.mean),
            "difference": _plain(row.difference) | {"zero_inside": row.difference.zero_inside}
            if row.difference
            else None,
        }


def _plain(made: Estimate) -> dict[str, Any]:
    low, high = made.interval or (None, None)
    return {"mean": made.mean, "seeds": made.seeds, "low_95": low, "high_95": high}
