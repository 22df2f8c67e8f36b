"""Made-up artifacts that look like those of a run, with exactly known numbers. They are no results."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.artifacts import (
    Checkpoint,
    CompletionScore,
    Corpus,
    DecodingBenchmark,
    DecodingRow,
    Evaluation,
    HeadScore,
    Pairs,
    Shards,
    ShardsSource,
    Tokenizer,
)
from components.flow.stage_run import StageRecord, StageRun
from components.report.config import Labels, ReportConfig


@dataclass(frozen=True)
class Sample:
    """The arguments of write_report."""

    config: ReportConfig
    checkpoints: tuple[Checkpoint, ...]
    evaluations: tuple[Evaluation, ...]
    benchmarks: tuple[DecodingBenchmark, ...]
    run: StageRun


def build_sample(
    folder: Path,
    future_tokens: Sequence[int] = (1, 4),
    finetunes: Sequence[tuple[int, int]] = ((1, 1), (4, 1)),
    benchmarks: bool = True,
    arrangement: str = "parallel",
    text: str = "return left, right",
    steps: int = 1200,
    mixture: bool = False,
    sizes: Sequence[str] = ("",),
    arrangements: Sequence[str] = (),
    pairs_from: str = "functions",
    looks: bool = False,
) -> Sample:
    """A whole run in `folder`: checkpoints, evaluations, benchmarks and their lineage. With sizes a scaling study, each
    four times the size before it and closer to the point where more heads pay; with arrangements a study of these, each
    a little worse than the one before it."""
    draw = random.Random(7)
    replicated = arrangement == "replicated"
    records: list[StageRecord] = []

    def directory(name: str) -> Path:
        (folder / name).mkdir(parents=True)
        return folder / name

    def record(
        name: str, title: str, inputs: tuple[str, ...], seconds: float, artifact: Any, config: Any = None
    ) -> None:
        values = json.loads(json.dumps(dataclasses.asdict(artifact), default=str))
        reused = name in ("corpus", "tokenizer")
        records.append(
            StageRecord(
                name, title, name, "k", inputs, reused, 0.0, seconds, config or {}, values, "Xeon @ 2.1 GHz, 2 cores"
            )
        )

    corpus = Corpus(
        directory("corpus"), "c", {"train": 1407, "validation": 104, "test": 118},
        {"train": 27_513_204, "validation": 1_880_412, "test": 2_094_871},
        {"exact_duplicate": 46, "vendored": 31, "long_line": 22, "not_utf8": 9, "too_short": 121},
    )  # fmt: skip
    record("corpus", "corpus", (), 18.3, corpus)
    kind, symbols = ("bytes", 258) if replicated else ("sentencepiece", 4096)
    tokenizer = Tokenizer(directory("tokenizer"), "t", kind, symbols, 1.0 if replicated else 2.871, 0, 104)
    record("tokenizer", "tokenizer", ("corpus",), 9.7, tokenizer)
    tokens = {split: int(size / tokenizer.bytes_per_token) for split, size in corpus.text_bytes.items()}
    shards = Shards(directory("shards"), "s", symbols, tokens, corpus.documents, corpus.text_bytes)
    if mixture:
        quarter = {split: count // 4 for split, count in tokens.items()}
        rest = {split: count - quarter[split] for split, count in tokens.items()}
        few, none = dict.fromkeys(tokens, 25), dict.fromkeys(tokens, 0)
        sources = {
            "code": ShardsSource(0.75, rest, corpus.documents, corpus.text_bytes, dict.fromkeys(tokens, 411), few),
            "prose <b>": ShardsSource(0.25, quarter, few, few, none, none),
        }
        shards = dataclasses.replace(shards, sources=sources)
    record("shards", "shards", ("corpus", "tokenizer"), 12.4, shards)
    made_checkpoints: list[Checkpoint] = []
    made_evaluations: list[Evaluation] = []
    made_benchmarks: list[DecodingBenchmark] = []

    def checkpoint(
        n: int,
        before: int | None,
        title: str,
        inputs: tuple[str, ...],
        bigger: int,
        worse: float,
        kind: str = "",
    ) -> Checkpoint:
        name = title.replace(" ", "-").replace("→", "to").replace("=", "")
        path = directory(name)
        shape = {
            "layers": 8, "dim": 128, "n_future_tokens": n,
            "arrangement": kind.removesuffix("_extra_layers") or arrangement,
            "extra_layers": kind.endswith("_extra_layers"),
        }  # fmt: skip
        (path / "model.json").write_text(json.dumps(shape))
        with (path / "metrics.jsonl").open("w") as file:
            for step in range(10, steps + 1, 10):
                row: dict[str, float] = {"step": step, "learning_rate": 1e-3}
                for head in range(1, n + 1):
                    floor = 2.1 / bigger**0.1 + 0.62 * math.log(head) + worse
                    row[f"loss/head_{head}"] = floor + 5.2 * math.exp(-((step / 70) ** 0.6)) + draw.gauss(0, 0.05)
                    if looks and step % 100 == 0:
                        row[f"heldout/loss/head_{head}"] = 9 + head - step / 1000
                if looks and step % 100 == 0:
                    row["heldout/tokens_per_forward"] = 1 + (n - 1) * step / 10000
                file.write(json.dumps(row) + "\n")
        parameters = bigger * 2_104_448 + (n - 1) * 33_024 * (replicated or kind.endswith("_extra_layers"))
        flops = bigger * (1 + 0.21 * (n - 1)) * 3.71e13
        seconds = 71.52 * (1 + 0.19 * (n - 1))
        made = Checkpoint(path, name, n, parameters, steps, steps * 4096, flops, seconds, 1, before)
        record(name, title, inputs, made.training_seconds + 4, made, {"training": {"seed": 3}})
        made_checkpoints.append(made)
        return made

    of = Labels((), (), ())
    for i, size in enumerate(sizes):
        bigger = 4**i
        kinds = [(n, kind) for n in future_tokens for kind in ((arrangements or ("",)) if n > 1 else ("",))]
        for place, (n, kind) in enumerate(kinds):
            label = size or kind
            short, long = f"{label}-".lstrip("-"), f"{label} ".lstrip()
            worse = (0.02 - 0.012 * i * (n - 1) ** 0.5 + 0.001 * place * bool(kind)) * (n > 1)
            made = checkpoint(n, None, f"{long}n={n} pretrain", ("shards",), bigger, worse, kind)
            name = made.path.name
            heads = tuple(
                HeadScore(2.2 / bigger**0.1 + 0.61 * math.log(h) + 1.55 * worse, 0.52 / h**0.7) for h in range(1, n + 1)
            )
            path = directory(f"evaluate-{short}n{n}")
            with (path / "completions.jsonl").open("w") as file:
                for j in range(12):
                    truth = f"{text} + {j}"
                    item = {
                        "id": f"pkg/module_{j}.py:{j}", "prompt": f"def function_{j}(left, right):\n    # {text}\n    ",
                        "truth": truth, "generated": truth if (j + n) % 3 == 0 else f"return self._{j}",
                        "similarity": 0.5,
                    }  # fmt: skip
                    file.write(json.dumps(item) + "\n")
            lines = CompletionScore(0.1328125 - 0.008 * (n > 1), 0.41234 - 0.011 * (n > 1), 128)
            bits = 1.1051 / bigger**0.1 + 0.78 * worse
            evaluation = Evaluation(path, f"e{short}{n}", n, heads, 65536, bits, lines)
            record(path.name, f"{long}n={n} evaluate", (name, "shards", "corpus"), 14.9, evaluation)
            made_evaluations.append(evaluation)
            of = dataclasses.replace(of, checkpoints=(*of.checkpoints, label), evaluations=(*of.evaluations, label))
            if n > 1 and benchmarks:
                made_benchmarks.append(
                    _benchmark(directory(f"decode-{short}n{n}"), n, text, 0.2 * i + 0.01 * place * bool(kind))
                )
                record(f"decode-{short}n{n}", f"{long}n={n} decode", (name, "shards"), 41.0, made_benchmarks[-1])
                of = dataclasses.replace(of, benchmarks=(*of.benchmarks, label))
    if finetunes:
        pairs = Pairs(directory("pairs"), "p", {"train": 4211, "validation": 301, "test": 322})
        record("pairs", "pairs", ("corpus",), 3.1, pairs, {"source": pairs_from})
        tuned = [(s, *pair) for s, pair in itertools.product(sizes, finetunes)]
        if arrangements:
            tuned = [(a, *pair) for pair in finetunes for a in (arrangements if pair[0] > 1 else ("",))]
        for label, before, n in tuned:
            short, long = f"{label}-".lstrip("-"), f"{label} ".lstrip()
            inputs = (f"{short}n{before}-pretrain", "pairs")
            made = checkpoint(n, before, f"{long}n={before}→{n} finetune", inputs, 1, 0.02 * (n > 1), label)
            path = directory(f"evaluate-{short}n{before}to{n}")
            heads = tuple(HeadScore(1.9 + 0.3 * h - 0.012 * before, 0.55) for h in range(n))
            body = CompletionScore(0.0208, 0.3121 + 0.004 * before, 48)
            evaluation = Evaluation(path, f"f{short}{before}{n}", n, heads, 12431, 0.98, None, before, body)
            record(path.name, f"{long}n={before}→{n} evaluate", (made.path.name, "pairs"), 9.0, evaluation)
            made_evaluations.append(evaluation)
            of = dataclasses.replace(of, checkpoints=(*of.checkpoints, label), evaluations=(*of.evaluations, label))
    run = dataclasses.replace(StageRun.local(folder / "report"), lineage=tuple(records))
    run = dataclasses.replace(run, run_started=run.run_started - 431.7)
    return Sample(
        ReportConfig(
            "bytes" if replicated else "demo",
            ("conf=bytes",) if replicated else ("conf=demo",),
            of if any(sizes) else None,
            of if arrangements else None,
        ),
        tuple(made_checkpoints),
        tuple(made_evaluations),
        tuple(made_benchmarks),
        run,
    )


def _benchmark(path: Path, n: int, text: str, faster: float) -> DecodingBenchmark:
    rows = []
    for batch in (1, 4):
        for k in range(1, n + 1):
            acceptance = tuple(0.61 * 0.66**j for j in range(k - 1))
            speedup = 1.0 if k == 1 else (1 + sum(acceptance)) / (1.05 + 0.11 * k + 0.05 * batch) + faster
            rows.append(
                DecodingRow(
                    n,
                    k,
                    batch,
                    "float32",
                    1 + sum(acceptance),
                    1 + 0.83 * sum(acceptance),
                    0.3127,
                    1.0 if k == 1 else 1.05 + 0.11 * k,
                    speedup,
                    speedup * 0.97,
                    speedup * 1.02,
                    410.25 * speedup * batch**0.7,
                    acceptance,
                    True,
                    4.1 / speedup * batch**0.3,
                )
            )
    runs = [{"text": t, "tokens": c} for t, c in [(text[:7], 3), (text[7:], 1), (":\n        ", 4), ("x = 1", 2)]]
    (path / "samples.json").write_text(json.dumps([{"prompt": "def quick(\n", "runs": runs * 6}] * 3))
    chosen = [dataclasses.replace(max((r for r in rows if r.batch == b), key=lambda r: r.speedup), k=n) for b in (1, 4)]
    return DecodingBenchmark(path, f"b{n}", n, tuple(rows), tuple(chosen) if n > 1 else ())
