"""Made-up jobs of sweeps with exactly known numbers. They are no results."""

import itertools
import random
from collections.abc import Mapping, Sequence

from components.report.sweep import JobResult, Sweep


def build_sweep(
    seeds: Sequence[int] = (1, 2, 3),
    fields: Mapping[str, Sequence[str]] | None = None,
    future_tokens: Sequence[int] = (1, 4),
    failed: Sequence[int] = (),
    sizes: Sequence[str] = ("",),
    arrangements: Sequence[str] = ("",),
) -> Sweep:
    """A job for every seed and combination of `fields`; those at the places `failed` have failed. With sizes every job
    is a scaling study, with arrangements one of these."""
    fields = fields or {}
    draw = random.Random(5)
    jobs = []
    for place, (*values, seed) in enumerate(itertools.product(*fields.values(), seeds)):
        swept = dict(zip(fields, values, strict=True)) | ({"seed": str(seed)} if len(seeds) > 1 else {})
        if place in failed:
            cause = "n=4 pretrain: loss is not finite at step 17; lower training.learning_rate"
            jobs.append(JobResult(swept, seed, "failed", cause, 31.5))
            continue
        level = 4.1 + 0.1 * draw.random() + sum(0.05 * i for i, v in enumerate(fields) if values[i] != fields[v][0])
        headline = {}
        every = [
            (size, "/".join(part for part in (size, arrangement, f"n{n}") if part), n)
            for size, n in itertools.product(sizes, future_tokens)
            for arrangement in (arrangements if n > 1 else ("",))
        ]
        for _, key, n in every:
            headline[f"{key}/bits_per_byte"] = level + 0.06 * (n > 1) * n**0.5 + 0.02 * draw.random()
            headline[f"{key}/line_exact_match"] = 0.046875 - 0.0078125 * (n > 1) * draw.randint(0, 2)
            if n > 1:
                headline[f"{key}/speedup"] = 1.2 + 0.05 * n + 0.04 * draw.random()
                headline[f"{key}/tokens_per_forward"] = 1.6 + 0.1 * n + 0.05 * draw.random()
        models = [
            {
                "key": key, "size": size or None, "n_future_tokens": n,
                "parameters": 13_100_000 + 131_072 * (n - 1), "tokens": 768_000,
            }
            for size, key, n in every
        ]  # fmt: skip
        jobs.append(
            JobResult(
                swept, seed, "done", "", 411.0 if place == 0 else 287.5, headline, models, "c0ffee",
                f"../demo-20260101-0{place}0000/report/index.html",
            )
        )  # fmt: skip
    over = [f"{name}={','.join(values)}" for name, values in fields.items()]
    command = ("python", "pipelines/full.py", "-m", *over, f"seed={','.join(map(str, seeds))}")
    return Sweep("sweep-20260101-000000", ("demo",), command, "2026-01-01 00:00 UTC", tuple(jobs))
