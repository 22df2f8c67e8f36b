"""The decoding benchmark: next-token against self-speculative decoding by the same engine, with its checks.

How the figures are taken: `arms` (time), `checks` (losslessness, acceptance on given text), `machine` (limits).
"""

import codecs
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from components.artifacts import DecodingBenchmark, DecodingRow
from components.decoding.arms import Arm, Block, measure, timing
from components.decoding.checks import (
    differences,
    full_forward_mismatches,
    heldout_steps,
    ids_hash,
    repeated_4grams,
    row_noise,
)
from components.decoding.config import DecodingConfig
from components.decoding.engine import Decoder
from components.decoding.limits import Roofs, step_limit
from components.decoding.machine import RoofMeter, describe
from components.decoding.sampling import Sampling
from components.model.acceptance import tokens_per_forward_of
from components.model.transformer import MultiTokenTransformer

SAMPLES = 4
Progress = Callable[[float, float, str], None]


class Tokens(Protocol):
    """A long sequence of held-out tokens."""

    def __len__(self) -> int: ...

    def window(self, start: int, length: int) -> Any: ...


def heads_to_measure(config: DecodingConfig, n_future_tokens: int) -> list[int]:
    """The k of the self-speculative arms. ValueError when the model has fewer heads."""
    if config.heads is None:
        return list(range(2, n_future_tokens + 1))
    if max(config.heads, default=1) > n_future_tokens:
        raise ValueError(
            f"decoding.heads is {list(config.heads)}; this model has {n_future_tokens} prediction heads, "
            f"so each must be in 1..{n_future_tokens}"
        )
    return [k for k in config.heads if k > 1]


def draw_prompts(config: DecodingConfig, text: Tokens) -> list[list[int]]:
    """Prompts from random places of the text, with lengths spread evenly over the range, in random order."""
    shortest, longest = config.prompt_tokens
    if len(text) < longest:
        raise ValueError(f"the held-out text has {len(text)} tokens; decoding.prompt_tokens asks for up to {longest}")
    generator = random.Random(config.seed)
    count = config.prompts
    lengths = [shortest + (longest - shortest) * i // max(1, count - 1) for i in range(count)]
    generator.shuffle(lengths)
    return [[int(t) for t in text.window(generator.randint(0, len(text) - length), length)] for length in lengths]


def draw_windows(config: DecodingConfig, text: Tokens, n_future_tokens: int) -> list[list[int]]:
    """Windows of held-out text, as long as the longest prompt with its new tokens, so that contexts compare."""
    length = config.prompt_tokens[1] + config.new_tokens + n_future_tokens - 1
    length = min(length, len(text))
    counted = length - (n_future_tokens - 1) - config.prompt_tokens[0]
    if counted < 1:
        raise ValueError(
            f"the held-out text has {len(text)} tokens, too few to measure acceptance on behind "
            f"{config.prompt_tokens[0]} tokens of context; give more, or lower decoding.prompt_tokens"
        )
    generator = random.Random(config.seed + 1)
    starts = [generator.randint(0, len(text) - length) for _ in range(-(-config.heldout_tokens // counted))]
    return [[int(t) for t in text.window(start, length)] for start in starts]


def run_benchmark(
    config: DecodingConfig,
    model: MultiTokenTransformer,
    text: Tokens,
    decode_bytes: Callable[[Sequence[int]], bytes],
    directory: Path,
    cores: int,
    progress: Progress = lambda done, total, what: None,
    warn: Callable[[str], None] = lambda message: None,
) -> DecodingBenchmark:
    """Measure, check, and write `decoding.json` and `samples.json`. `model` has config.dtype, on the device to use."""
    n = model.config.n_future_tokens
    heads = heads_to_measure(config, n)
    prompts = draw_prompts(config, text)
    dtype = getattr(torch, config.dtype)
    assert isinstance(dtype, torch.dtype)
    progress(0.0, 1.0, "held-out text")
    heldout = heldout_steps(model, draw_windows(config, text, n), config.prompt_tokens[0], (1, *heads))

    decoder = Decoder(model, dtype)
    measured = _measure_batches(decoder, prompts, config, heads, cores, Sampling(), progress)
    progress(0.9, 1.0, "checks")
    roofs = _roofs(decoder, cores)
    # in bfloat16 rounding alone moves the choice now and then: the margins say so
    expected = measured[0][0].blocks[0].tokens
    rows: list[DecodingRow] = []
    adaptive: list[DecodingRow] = []
    facts_of_rows = []
    for arms in measured:
        for arm in arms:
            outputs = _distinct(arm.blocks)
            against_next = [m for made in outputs for m in differences(model, prompts, expected, made)]
            against_full = [m for made in outputs for m in full_forward_mismatches(model, prompts, made)]
            facts = _facts(arm, arms[0], decoder, config, roofs) | {
                "tokens_per_forward_heldout": tokens_per_forward_of(heldout[arm.k]),
                "repeated_4grams": repeated_4grams(prompts, outputs[0]),
                # a full forward rounds otherwise, which in bfloat16 decides near-ties: its mismatches have margins
                "lossless": not against_next and not (against_full and config.dtype == "float32"),
                "ids_hash": ids_hash(outputs[0]),
            }
            row = DecodingRow(**{field.name: facts[field.name] for field in dataclasses.fields(DecodingRow)})
            (adaptive if arm.adaptive else rows).append(row)
            facts["mismatches_next_token"] = [dataclasses.asdict(m) for m in against_next]
            facts["mismatches_full_forward"] = [dataclasses.asdict(m) for m in against_full]
            facts_of_rows.append(facts)
    dirty = sum(block.quiet is False for arms in measured for arm in arms for block in arm.blocks)
    if dirty:
        warn(f"other processes used the machine during {dirty} timed blocks: read the decoding speeds with care")
    lossless = all(facts["lossless"] for facts in facts_of_rows)
    page = {
        "config": dataclasses.asdict(config),
        "n_future_tokens": n,
        "machine": _machine(roofs),
        "quiet": not dirty,
        # what margins of mismatches are to be held against
        "row_noise": None if lossless else row_noise(decoder, prompts[:SAMPLES], max(config.batches) * n),
        "heldout_histogram": heldout,
        "rows": facts_of_rows,
    }
    content = json.dumps(page, indent=2) + "\n"
    (directory / "decoding.json").write_text(content, encoding="utf-8")
    samples = _samples(prompts, [arm for arm in measured[0] if not arm.adaptive][-1], decode_bytes)
    (directory / "samples.json").write_text(json.dumps(samples, indent=2) + "\n", encoding="utf-8")
    return DecodingBenchmark(directory, hashlib.sha256(content.encode()).hexdigest(), n, tuple(rows), tuple(adaptive))


def time_sampled(
    config: DecodingConfig,
    sampling: Sampling,
    model: MultiTokenTransformer,
    text: Tokens,
    cores: int,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Sampled decoding of the same prompts, timed alone: arms draw other tokens of one distribution (`sampling`), so
    there are none to compare. A page like that of `run_benchmark`."""
    prompts, heads = draw_prompts(config, text), heads_to_measure(config, model.config.n_future_tokens)
    decoder = Decoder(model, getattr(torch, config.dtype))
    measured = _measure_batches(decoder, prompts, config, heads, cores, sampling, progress)
    roofs = _roofs(decoder, cores)
    rows = [
        _facts(arm, arms[0], decoder, config, roofs)
        | {"repeated_4grams": repeated_4grams(prompts, arm.blocks[0].tokens), "lossless": None}
        | dataclasses.asdict(sampling)
        for arms in measured
        for arm in arms
    ]
    progress(1.0, 1.0, "sampled")
    return {"machine": _machine(roofs), "rows": rows}


def _measure_batches(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    config: DecodingConfig,
    heads: Sequence[int],
    cores: int,
    sampling: Sampling,
    progress: Progress,
) -> list[list[Arm]]:
    """The arms of every batch size."""
    measured: list[list[Arm]] = []
    for number, batch in enumerate(config.batches):
        after_each = measure(decoder, prompts, heads, batch, config.new_tokens, config.repeats, cores, sampling)
        for done, arms in enumerate(after_each):
            share = min(1.0, (done + 1) / (config.repeats + 1))
            progress(0.1 + 0.8 * (number + share) / len(config.batches), 1.0, f"batch {batch}")
            measured[number:] = [arms]
    return measured


def _roofs(decoder: Decoder, cores: int) -> Roofs:
    meter = RoofMeter(decoder.dtype, decoder.device, cores)
    meter.measure()
    return meter.roofs()


def _machine(roofs: Roofs) -> dict[str, Any]:
    reads, products = roofs.read_bytes_per_second / 1e9, roofs.flops_per_second / 1e9
    return {**describe(), "read_gb_per_second": reads, "matmul_gflops": products}


def _facts(arm: Arm, baseline: Arm, decoder: Decoder, config: DecodingConfig, roofs: Roofs) -> dict[str, Any]:
    """An arm's figures beside its limit, at the prompts' middle context."""
    context = sum(config.prompt_tokens) // 2 + config.new_tokens // 2
    weight_bytes = torch.empty(0, dtype=decoder.dtype).element_size()
    limits = [step_limit(decoder.config, k, arm.batch, context, roofs, weight_bytes) for k in (arm.k, 1)]
    return timing(arm, baseline, *limits) | {
        "n_future_tokens": decoder.config.n_future_tokens,
        "dtype": config.dtype,
        "mode": "row-invariant" if decoder.row_invariant else "fast",
    }


def _distinct(blocks: Sequence[Block]) -> list[list[list[int]]]:
    """The tokens of all repeats; equal ones, as they should be, are looked at once."""
    return list({json.dumps(block.tokens): block.tokens for block in blocks}.values())


def _samples(
    prompts: Sequence[Sequence[int]], arm: Arm, decode_bytes: Callable[[Sequence[int]], bytes]
) -> list[dict[str, Any]]:
    """Prompts and what followed, cut into the runs that one forward emitted."""
    samples = []
    block = arm.blocks[0]
    for prompt, tokens, runs in list(zip(prompts, block.tokens, block.runs, strict=True))[:SAMPLES]:
        # a character cut by the edge of a run goes to the run that completes it
        reader = codecs.getincrementaldecoder("utf-8")(errors="replace")
        opening = reader.decode(decode_bytes(prompt))
        pieces, start = [], 0
        for length in runs:
            pieces.append({"text": reader.decode(decode_bytes(tokens[start : start + length])), "tokens": length})
            start += length
        samples.append({"prompt": opening, "k": arm.k, "runs": pieces})
    return samples
