"""Speed, side by side: prints a table and, as its last line, one line of JSON.

    python pipelines/bench.py subject=decode checkpoint=runs/latest/pretrain-n4
    python pipelines/bench.py subject=decode models=110m batches=1
    python pipelines/bench.py subject=memory      a plan's memory beside the measured peak
    python pipelines/bench.py subject=tokenize    tokenizing to shards beside one sentencepiece process
    python pipelines/bench.py subject=train       a training step of n = 1, 2, 4, beside a naive loss and transformers
    python pipelines/bench.py subject=flow        planning and running stages that do nothing

subject=decode: with checkpoint=… prompts come from the test split of the shards beside it (or shards=…, or UTF-8 files
text=code.py,prose.txt, each an experiment of its own), and every arm is checked for losslessness. Without it, models of
named sizes with random weights are timed, and the number of accepted drafts is drawn: the work is real, the text is
not.
"""

import dataclasses
import difflib
import functools
import json
import os
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from components.decoding.config import DecodingConfig
from components.flow.quantity import duration, size


@dataclasses.dataclass(frozen=True)
class DecodeSubject(DecodingConfig):
    """The fields of DecodingConfig, and what to measure them on."""

    checkpoint: Path | None = None
    """A trained model; None: random weights."""
    shards: Path | None = None
    """Where prompts come from; None: the directory with shards beside the checkpoint."""
    text: tuple[Path, ...] = ()
    """UTF-8 files to take prompts from instead; each is an experiment of its own, so that code and prose are apart."""
    models: tuple[str, ...] = ("110m", "350m", "byte")
    """Without a checkpoint: the models' sizes."""
    temperature: float = 0.0
    """With a checkpoint, above 0: sampled decoding is timed, prompt i with seed + i. Arms then draw other tokens of one
    distribution, so none are compared, and transformers is left out."""
    top_p: float = 1.0
    """Nucleus of sampled decoding."""
    transformers: bool = True
    """Whether transformers' own decoding is timed beside ours, if installed: of the checkpoint, or else of the 110m."""
    equality: float = 1.0
    """Without a checkpoint: share of 100,000 tokens, in each dtype and over the arrangements of the heads together, for
    which every k and batch is held against next-token decoding; of the fast mode a quarter."""
    cores: int | None = None
    """CPU cores to use, 1 or more; None: all."""
    batches: tuple[int, ...] = (1, 4, 16)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    prompts: int = 16
    new_tokens: int = 48


def parse(arguments: Sequence[str], kind: type) -> Any:
    """key=value arguments to a dataclass. ValueError lists every fault."""
    from pydantic import TypeAdapter, ValidationError

    allowed = list(typing.get_type_hints(kind))
    values: dict[str, Any] = {}
    faults = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            faults.append(f"{argument}: write key=value")
        elif key not in allowed:
            near = difflib.get_close_matches(key, allowed, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(allowed)}"
            faults.append(f"{key}: no such key; {hint}")
        else:
            values[key] = _value(value)
            if typing.get_origin(typing.get_type_hints(kind)[key]) is tuple and not isinstance(values[key], list):
                one = values[key]  # a list of one needs no comma, one of words no quotes
                values[key] = one.split(",") if isinstance(one, str) else [one]
    try:
        built: Any = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        for fault in error.errors():
            path = ".".join(map(str, fault["loc"]))
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "tuple_type":
                message = f"input should be a list, such as [{fault['input']}]"
            faults.append(f"{path}: {message}" if path else message)
    if faults:
        raise ValueError("\n".join(faults))
    return built


def _value(text: str) -> Any:
    """A JSON value where it is one, else the text; lists need no quotes or brackets: batches=1,4."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            return json.loads(candidate)
        except json.JSONDecodeError:
            continue
    return {"null": None, "None": None}.get(text, text)


def decode(arguments: Sequence[str]) -> dict[str, Any]:
    """Self-speculative against next-token decoding. Returns what the last line says."""
    from components.decoding.machine import ask_for_large_pages
    from components.decoding.sampling import Sampling

    subject: DecodeSubject = parse(arguments, DecodeSubject)
    if subject.cores is not None and subject.cores < 1:
        raise ValueError(f"cores is {subject.cores}; it must be at least 1")
    sampling = Sampling(subject.temperature, top_p=subject.top_p, seed=subject.seed)
    if subject.checkpoint is None and sampling.temperature:
        raise ValueError("temperature is for a trained model's distributions; give checkpoint=PATH")
    if not sampling.temperature and sampling.top_p < 1:
        raise ValueError(f"top_p is {sampling.top_p}, and temperature 0, which is greedy; give temperature=0.8, say")
    ask_for_large_pages()
    if subject.checkpoint is None:
        return _decode_random(subject)
    from components.decoding.trained import compare_on_checkpoint

    config = DecodingConfig(**{f.name: getattr(subject, f.name) for f in dataclasses.fields(DecodingConfig)})
    return compare_on_checkpoint(
        config, subject.checkpoint, subject.shards, subject.text, sampling, subject.transformers,
        subject.cores or os.cpu_count() or 1, functools.partial(print, file=sys.stderr, flush=True), _progress,
    )  # fmt: skip


def _decode_random(subject: DecodeSubject) -> dict[str, Any]:
    import torch

    from components.decoding.arrangements import equality_of_arrangements
    from components.decoding.benchmark import heads_to_measure
    from components.decoding.beside import beside_transformers
    from components.decoding.machine import describe
    from components.decoding.synthetic import SIZES, time_cases

    if unknown := sorted(set(subject.models) - set(SIZES)):
        raise ValueError(f"models has {', '.join(unknown)}; there are {', '.join(SIZES)}")
    for name in subject.models:
        heads_to_measure(subject, SIZES[name].model.n_future_tokens)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, cores = getattr(torch, subject.dtype), subject.cores or os.cpu_count() or 1
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{duration(time.perf_counter() - started)}  {text}", file=sys.stderr, flush=True)

    cases: list[dict[str, Any]] = []
    for name in subject.models:
        cases += time_cases(
            name, SIZES[name], subject.batches, dtype, subject.heads, subject.repeats, subject.new_tokens, cores,
            subject.seed, device, say,
        )  # fmt: skip
    peers: dict[str, Any] = {}
    if subject.transformers and "110m" in subject.models:
        peers = beside_transformers(
            SIZES["110m"], subject.batches, dtype, subject.repeats, subject.new_tokens, cores, subject.seed, device, say
        )
    torch.set_num_threads(cores)
    checks = []
    if subject.equality:
        checks = equality_of_arrangements(subject.equality, subject.seed, device, say, "110m" in subject.models)
    return {
        "subject": "decode",
        "text": "invalid: random weights, acceptance drawn",
        "cases": cases,
        "lossless": all(not c["differences"] for c in checks if c["mode"] == "row-invariant") if checks else None,
        "vs_transformers": {batch: row["ratio"] for batch, row in peers.items()},
        "machine": {
            **describe(),
            "threads": cores,
            "read_gb_per_second": median(case["read_gb_per_second"] for case in cases),
            "matmul_gflops": median(case["matmul_gflops"] for case in cases),
        },
        "quiet": all(case["quiet"] for case in cases),
        "equality": checks,
        "transformers": peers,
    }


@dataclasses.dataclass(frozen=True)
class MemorySubject:
    """What subject=memory takes."""

    threads: int = 2
    """CPU threads of a step."""


def memory(arguments: Sequence[str]) -> dict[str, Any]:
    """The closed form that a plan uses beside live tensors of a step and the resident size, each in a new process."""
    from components.training.measured_memory import plans_beside_peaks

    subject: MemorySubject = parse(arguments, MemorySubject)
    rows = plans_beside_peaks(subject.threads)
    return {"subject": "memory", "rows": rows, "quiet": True, "text": "", "machine": _machine()}


@dataclasses.dataclass(frozen=True)
class TrainSubject:
    """What subject=train takes."""

    sizes: tuple[str, ...] = ()
    """Of components/training/benchmark_arms.py; none: 5m, 30m and 100m on a CPU, 0.3b and 1.3b on a GPU."""
    threads: int | None = None
    """CPU threads of a step; None: all cores."""
    compiled: bool = True
    """Whether compiled layers are tried too, on both sides."""


TRAIN_FIGURES = (
    "step_ratio_n4_n1",
    "step_ratio_n2_n1",
    "flop_ratio_n4_n1",
    "peak_ratio_n4_n1",
    "peak_ratio_naive",
    "time_ratio_naive",
    "speed_vs_transformers",
    "matmul_share",
)


def train(arguments: Sequence[str]) -> dict[str, Any]:
    """Training steps side by side; what was measured of every size under the figures' names."""
    import torch

    from components.decoding.machine import describe
    from components.training.benchmark import measure
    from components.training.benchmark_arms import SIZES

    subject: TrainSubject = parse(arguments, TrainSubject)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    sizes = subject.sizes or (("0.3b", "1.3b") if on_gpu else ("5m", "30m", "100m"))
    if unknown := sorted(set(sizes) - set(SIZES)):
        raise ValueError(f"sizes has {', '.join(unknown)}; there are {', '.join(SIZES)}")
    torch.set_num_threads(subject.threads or os.cpu_count() or 1)
    say = functools.partial(print, file=sys.stderr, flush=True)
    rows = [measure(size, SIZES[size], device, say, subject.compiled) for size in sizes]
    return {
        "subject": "train",
        **{figure: {row["size"]: row[figure] for row in rows} for figure in TRAIN_FIGURES},
        "machine": {**describe(), "threads": torch.get_num_threads()},
        "quiet": all(row["quiet"] for row in rows),  # where the system does not tell, it is not known to be
        "text": "",
        "rows": rows,
    }


@dataclasses.dataclass(frozen=True)
class TokenizeSubject:
    """What subject=tokenize takes."""

    megabytes: tuple[int, ...] = (10, 50, 200)
    """Text to tokenize, in MB, an experiment each."""
    vocabulary_size: int = 4096
    """Symbols of the tokenizer."""
    repeats: int = 3
    """Turns of one process and Ray."""


def tokenize(arguments: Sequence[str]) -> dict[str, Any]:
    """The shards stage's way on Ray beside one sentencepiece process, in turns; Ray's start is not counted."""
    from components.flow import cluster
    from components.shards.benchmark import compare

    subject: TokenizeSubject = parse(arguments, TokenizeSubject)
    with tempfile.TemporaryDirectory() as folder:
        cluster.start(cluster.ClusterConfig(), Path(folder), "bench tokenize")
        try:
            rows = [compare(size, subject.vocabulary_size, subject.repeats) for size in subject.megabytes]
        finally:
            cluster.stop()
    return {
        "subject": "tokenize", "rows": rows, "quiet": True, "text": "", "machine": _machine(),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FlowSubject:
    """What subject=flow takes."""

    stages: int = 201
    """Trivial stages in the graph."""


def flow(arguments: Sequence[str]) -> dict[str, Any]:
    """What the engine costs by itself."""
    from components.flow.benchmark import time_stages

    subject: FlowSubject = parse(arguments, FlowSubject)
    return {
        "subject": "flow", "rows": [time_stages(subject.stages)], "quiet": True, "text": "", "machine": _machine(),
    }  # fmt: skip


def _machine() -> dict[str, Any]:
    from components.flow.identity import machine

    return machine()


def _progress(done: float, total: float, text: str) -> None:
    if sys.stderr.isatty():
        print(
            f"\r{100 * done / total:3.0f} % {text:<20}", end="" if done < total else "\n", file=sys.stderr, flush=True
        )


Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]
DECODE_COLUMNS: Columns = {
    "model": lambda row: row.get("model", ""),
    "batch": lambda row: str(row["batch"]),
    "arm": lambda row: row["arm"],
    "k": lambda row: str(row["k"] or "-"),
    "mode": lambda row: row["mode"],
    "drafts right": lambda row: row.get("acceptance_name", ""),
    "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
    "step ms": lambda row: f"{row['step_ms']:.2f}",
    "limit ms": lambda row: f"{row['limit_ms']:.2f}" if row["limit_ms"] else "",
    "limit/step": lambda row: f"{row['limit_ms'] / row['step_ms']:.2f}" if row["limit_ms"] else "",
    "E": lambda row: f"{row['tokens_per_forward']:.2f}",
    "r": lambda row: f"{row['r']:.2f}",
    "E/r": lambda row: f"{row['predicted_speedup']:.2f}",
    "at limits": lambda row: f"{row['limit_speedup']:.2f}" if row.get("limit_speedup") else "",
    "speed-up": lambda row: f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})",
    "lossless": lambda row: {True: "yes", False: "NO", None: "-"}[row.get("lossless")],
}


MEMORY_COLUMNS: Columns = {
    "setting": lambda row: row["setting"],
    "planned": lambda row: size(row["planned_bytes"]),
    "peak of tensors": lambda row: size(row["peak_bytes"]),
    "ratio": lambda row: f"{row['ratio']:.3f}",
    "resident": lambda row: size(row["resident_bytes"]),
    "of it before": lambda row: size(row["resident_before_bytes"]),
}
TRAIN_COLUMNS: Columns = {
    "size": lambda row: row["size"],
    "tokens/s n=1": lambda row: f"{row['tokens_per_second']['n=1']:,.0f}",
    "n=4": lambda row: f"{row['tokens_per_second']['n=4']:,.0f}",
    "transformers": lambda row: f"{row['tokens_per_second']['transformers']:,.0f}",
    "speed over transformers": lambda row: f"{row['speed_vs_transformers']:.2f}",
    "of matmul": lambda row: f"{100 * row['matmul_share']:.0f} %",
    "step n=4 / n=1": lambda row: f"{row['step_ratio_n4_n1']:.3f}",
    "FLOPs n=4 / n=1": lambda row: f"{row['flop_ratio_n4_n1']:.3f}",
    "peak n=4 / n=1": lambda row: f"{row['peak_ratio_n4_n1']:.2f}",
    "peak / naive": lambda row: f"{row['peak_ratio_naive']:.2f}",
    "time / naive": lambda row: f"{row['time_ratio_naive']:.2f}",
    "setting": lambda row: f"{row['setting']} (transformers: {row['transformers_setting']})",
}
TOKENIZE_COLUMNS: Columns = {
    "text": lambda row: size(row["text_bytes"]),
    "one process": lambda row: f"{median(row['one_process_seconds']):.2f} s",
    "Ray": lambda row: f"{median(row['ray_seconds']):.2f} s",
    "MB/s": lambda row: f"{row['bytes_per_second'] / 1e6:.1f}",
    "ratio": lambda row: f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})",
    "driver grew by": lambda row: size(row["driver_growth_bytes"]),
    "largest worker": lambda row: size(row["largest_worker_bytes"]),
}
FLOW_COLUMNS: Columns = {
    "stages": lambda row: str(row["stages"]),
    "plan": lambda row: f"{row['plan_seconds']:.2f} s",
    "run": lambda row: f"{row['run_seconds']:.1f} s",
    "plan again": lambda row: f"{row['plan_again_seconds']:.2f} s",
}


def table(rows: Sequence[Mapping[str, Any]], columns: Columns) -> str:
    """Rows for people."""
    cells = [list(columns), *([show(row) for show in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells)


SUBJECTS: Mapping[str, tuple[type, Callable[[Sequence[str]], dict[str, Any]], Columns]] = {
    "decode": (DecodeSubject, decode, DECODE_COLUMNS),
    "memory": (MemorySubject, memory, MEMORY_COLUMNS),
    "train": (TrainSubject, train, TRAIN_COLUMNS),
    "tokenize": (TokenizeSubject, tokenize, TOKENIZE_COLUMNS),
    "flow": (FlowSubject, flow, FLOW_COLUMNS),
}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or set(arguments) & {"-h", "--help", "help"}:
        print(__doc__)
        for subject, (keys, _, _) in SUBJECTS.items():
            print(f"Keys of subject={subject} (defaults):")
            for field in dataclasses.fields(keys):
                print(f"  {field.name}={field.default}")
        return 0
    named = [argument for argument in arguments if argument.startswith("subject=")]
    name = named[-1].partition("=")[2] if named else ""
    if name not in SUBJECTS:
        near = difflib.get_close_matches(name, SUBJECTS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        print(f"bench.py: subject={name or '…'}: {hint}give one of {', '.join(SUBJECTS)}", file=sys.stderr)
        return 2
    _, measure, columns = SUBJECTS[name]
    try:
        result = measure([argument for argument in arguments if argument not in named])
    except (ValueError, OSError) as error:
        print("\n".join(f"bench.py: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    rows = result["cases"] if name == "decode" else result["rows"]
    if len({row["text"] for row in rows if "text" in row}) > 1:
        columns = {"text": lambda row: row["text"], **columns}
    print(table(rows, columns))
    if not result["quiet"]:
        print("Other processes used the machine meanwhile: read these figures with care.")
    if str(result["text"]).startswith("invalid"):
        print("Random weights: acceptance was drawn, the text is invalid.")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
