"""Everything the page says, gathered from artifacts and from how they came about. Reads files, writes none."""

import datetime
import json
import math
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from components.artifacts import Checkpoint, DecodingBenchmark, DecodingRow, Evaluation
from components.report.config import Labels, ReportConfig

PACKAGES = ("headstart", "torch", "ray", "mlflow", "pyarrow", "sentencepiece")


@dataclass(frozen=True)
class Step:
    """One stage as it ran, before this page."""

    name: str
    title: str
    inputs: tuple[str, ...]
    reused: bool
    seconds: float
    config: Any
    artifact: Mapping[str, Any]
    machine: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """A trained model with what was measured of it."""

    size: str
    """Name of its size in a scaling study; empty in an ordinary recipe."""
    checkpoint: Checkpoint
    evaluation: Evaluation | None
    shape: Mapping[str, Any]
    """Its model.json."""
    history: tuple[Mapping[str, float], ...]
    """Its metrics.jsonl."""
    completions: tuple[Mapping[str, Any], ...]
    """Its completions.jsonl."""
    windows: tuple[tuple[float, int], ...] = ()
    """Its windows.json: bits and bytes of every held-out window."""
    arrangement: str = ""
    """Name of its heads' arrangement in a study of these; empty elsewhere, and for n = 1."""

    @property
    def n(self) -> int:
        return self.checkpoint.n_future_tokens

    @property
    def heads(self) -> str:
        """`n = 4`, or `4 → 1` for a fine-tuned model; its spaces do not break. In a study of arrangements behind the
        name of its own: `causal n = 4`."""
        before = self.checkpoint.n_pretrained
        said = f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{self.n}" if before is None else f"{before} → {self.n}"
        return f"{arrangement_words(self.arrangement, before or self.n)} {said}".lstrip()

    @property
    def name(self) -> str:
        """Its heads, in a scaling study after its size: `3b n = 4`."""
        return f"{self.size}\N{NO-BREAK SPACE}{self.heads}" if self.size else self.heads

    @property
    def key(self) -> str:
        """`n4`, or `3b/n4` in a scaling study, `causal/n4` in one of arrangements."""
        return "/".join(part for part in (self.size, self.arrangement, f"n{self.n}") if part)


@dataclass(frozen=True)
class Decoded:
    """The decoding benchmark of a model."""

    size: str
    """Of the model, as there."""
    benchmark: DecodingBenchmark
    samples: tuple[Mapping[str, Any], ...]
    """Its samples.json."""
    arrangement: str = ""
    """Of the model, as there."""

    @property
    def n(self) -> int:
        return self.benchmark.n_future_tokens

    @property
    def name(self) -> str:
        """`n = 4`, in a study after the size or the arrangement."""
        of = self.size or arrangement_words(self.arrangement, self.n)
        return f"{of} n = {self.n}".strip()

    def is_of(self, model: Model) -> bool:
        """Whether it was measured on this pretrained model."""
        return (self.size, self.arrangement, self.n) == (model.size, model.arrangement, model.n)


@dataclass(frozen=True)
class Facts:
    """All there is to tell."""

    config: ReportConfig
    pretrained: tuple[Model, ...]
    """By size, the smallest first, then by n, the fewest heads first; arrangements in the recipe's order."""
    finetuned: tuple[Model, ...]
    decoded: tuple[Decoded, ...]
    """In the same order."""
    steps: tuple[Step, ...]
    seconds: float
    """From the start of the invocation to this page."""
    when: str
    commit: str | None
    versions: Mapping[str, str]
    platform: str

    @property
    def by_size(self) -> tuple[tuple[Model, ...], ...]:
        """The pretrained models of each size; all in one in an ordinary recipe."""
        sizes = dict.fromkeys(model.size for model in self.pretrained)
        return tuple(tuple(model for model in self.pretrained if model.size == size) for size in sizes)

    def baseline(self, size: str) -> Model | None:
        """The next-token model of a size, when there is one."""
        return next((model for model in self.pretrained if model.size == size and model.n == 1), None)

    def place(self, of: "Model | Decoded") -> int:
        """Where a model, or the one that was measured, stands among those of its size: decides its colour."""
        beside = [(m.arrangement, m.n) for m in self.pretrained if m.size == of.size]
        mine = (of.arrangement, of.n)
        return beside.index(mine) if mine in beside else 1

    @property
    def machine(self) -> str:
        """Where the measuring or else the last stage ran."""
        return next((step.machine for step in reversed(self.steps) if step.machine), self.platform)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings that made the pretrained models."""
        found = {seed for step in self.steps if _is_pretraining(step) for seed in _values(step.config, "seed")}
        return tuple(sorted(found))

    def artifact(self, *fields: str) -> Mapping[str, Any] | None:
        """The record of the first stage whose artifact has these fields (stages may be named as one likes)."""
        return next((step.artifact for step in self.steps if all(f in step.artifact for f in fields)), None)

    @property
    def corpus(self) -> Mapping[str, Any] | None:
        return self.artifact("documents", "text_bytes", "dropped")

    @property
    def tokenizer(self) -> Mapping[str, Any] | None:
        return self.artifact("bytes_per_token", "round_trip_failures")

    @property
    def shards(self) -> Mapping[str, Any] | None:
        return self.artifact("tokens", "documents", "vocabulary_size")

    @property
    def pairs(self) -> Mapping[str, Any] | None:
        return self.artifact("pairs")

    @property
    def given_pairs(self) -> bool:
        """Whether fine-tuning was on given pairs and not on functions of the corpus."""
        return any("pairs" in step.artifact and (step.config or {}).get("source") == "table" for step in self.steps)

    def best_row(self, model: Model) -> DecodingRow | None:
        """The fastest self-speculative arm of a model at the smallest batch measured."""
        rows = [row for decoded in self.decoded if decoded.is_of(model) for row in decoded.benchmark.rows if row.k > 1]
        smallest = min((row.batch for row in rows), default=0)
        return max((row for row in rows if row.batch == smallest), key=lambda row: row.speedup, default=None)


def gather(
    config: ReportConfig,
    checkpoints: Sequence[Checkpoint],
    evaluations: Sequence[Evaluation],
    benchmarks: Sequence[DecodingBenchmark],
    steps: Sequence[Step],
    seconds: float,
    now: float,
) -> Facts:
    """Match every model with its evaluation, by what a study calls it, by the heads it was pretrained and fine-tuned
    with, and by order."""
    one = Labels(("",) * len(checkpoints), ("",) * len(evaluations), ("",) * len(benchmarks))
    sizes, arrangements = config.sizes or one, config.arrangements or one
    left = list(zip(sizes.evaluations, arrangements.evaluations, evaluations, strict=True))
    models = []
    for size, arrangement, checkpoint in zip(sizes.checkpoints, arrangements.checkpoints, checkpoints, strict=True):
        key = (size, arrangement, checkpoint.n_pretrained, checkpoint.n_future_tokens)
        mine = next((of for of in left if (*of[:2], of[2].n_pretrained, of[2].n_future_tokens) == key), None)
        if mine is not None:
            left.remove(mine)
        models.append(_model(size, arrangement, checkpoint, mine[2] if mine else None))
    pretrained = [m for m in models if m.checkpoint.n_pretrained is None]
    smallest = {
        size: min(m.checkpoint.parameters for m in pretrained if m.size == size)
        for size in {m.size for m in pretrained}
    }
    decoded = [
        Decoded(size, benchmark, tuple(_json(benchmark.path / "samples.json", [])), arrangement)
        for size, arrangement, benchmark in zip(sizes.benchmarks, arrangements.benchmarks, benchmarks, strict=True)
    ]
    return Facts(
        config=config,
        pretrained=tuple(sorted(pretrained, key=lambda m: (smallest[m.size], m.size, m.n))),
        finetuned=tuple(m for m in models if m.checkpoint.n_pretrained is not None),
        decoded=tuple(sorted(decoded, key=lambda d: (smallest.get(d.size, 0), d.size, d.n))),
        steps=tuple(steps),
        seconds=seconds,
        when=datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=code_commit(),
        versions=dict(package_versions()),
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def _model(size: str, arrangement: str, checkpoint: Checkpoint, evaluation: Evaluation | None) -> Model:
    return Model(
        size,
        checkpoint,
        evaluation,
        _json(checkpoint.path / "model.json", {}),
        tuple(_json_lines(checkpoint.path / "metrics.jsonl")),
        tuple(_json_lines(evaluation.path / "completions.jsonl")) if evaluation else (),
        tuple((bits, n_bytes) for bits, n_bytes in _json(evaluation.path / "windows.json", [])) if evaluation else (),
        arrangement,
    )


def arrangement_words(name: str, n: int) -> str:
    """`parallel_extra_layers` of n = 4 as `parallel + 3 layers`, as Table S4 counts them; others as they are called."""
    kind, extra, _ = name.partition("_extra_layers")
    return f"{kind} + {n - 1} layer{'s' * (n > 2)}" if extra else kind


def known(value: float | None) -> float | None:
    """The value, or None for what was not measured (None or not a number)."""
    return value if value is not None and math.isfinite(value) else None


def _is_pretraining(step: Step) -> bool:
    return "training_flops" in step.artifact and step.artifact.get("n_pretrained") is None


def _values(config: Any, field: str) -> Iterator[Any]:
    """Every value of a field anywhere in a config."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == field:
                yield value
            else:
                yield from _values(value, field)


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def _json_lines(path: Path) -> Iterator[Any]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def package_versions() -> Iterator[tuple[str, str]]:
    """The installed packages that results depend on, with their versions."""
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue


def code_commit() -> str | None:
    """The commit of the code that wrote this page, `+` where files were changed since; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return result.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
