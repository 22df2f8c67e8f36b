"""Timing of decoding arms (k = 1 and k = 2..n) in turn, so that all see the same machine.

A repeat decodes all prompts with every arm, one after the other; ratios are taken within a repeat. Only decoding is
timed, reading the prompts is apart. Tokens are counted as ids.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from components.decoding.engine import Decoder
from components.decoding.loop import Generation
from components.decoding.machine import watch_neighbours
from components.decoding.sampling import Sampling


@dataclass
class Block:
    """All prompts decoded once by one arm."""

    tokens: list[list[int]]
    runs: list[list[int]]
    accepted: list[int]
    """Drafts accepted, per step and sequence."""
    full_step_seconds: list[float]
    """Times of the steps in which the whole batch was live."""
    decode_seconds: float
    prefill_seconds: float
    row_seconds: list[float] = field(default_factory=list)
    """Per prompt, from the beginning of its reading to its last token."""
    parts_seconds: dict[str, float] = field(default_factory=dict)
    """All steps' time by part (`live.PARTS`)."""
    steps: int = 0
    other_share: float | None = None
    """Share of the machine that other processes used meanwhile."""
    quiet: bool | None = None

    @property
    def decoded_tokens(self) -> int:
        """Tokens emitted by steps; the first of each sequence comes with its prompt."""
        return sum(len(row) - 1 for row in self.tokens)

    @property
    def tokens_per_second(self) -> float:
        return self.decoded_tokens / self.decode_seconds


@dataclass
class Arm:
    """One k at one batch size."""

    k: int
    """Heads used; of an adaptive arm, the most that it may use."""
    batch: int
    adaptive: bool = False
    threads: int = 1
    blocks: list[Block] = field(default_factory=list)

    @property
    def tokens_per_forward(self) -> float:
        """E over all repeats."""
        steps = sum(len(block.accepted) for block in self.blocks)
        return sum(block.decoded_tokens for block in self.blocks) / steps

    @property
    def step_seconds(self) -> float:
        """Median of a step of the whole batch."""
        return statistics.median(s for block in self.blocks for s in block.full_step_seconds)

    @property
    def histogram(self) -> list[int]:
        """Entry m: steps of a sequence that accepted m drafts."""
        counts = [0] * self.k
        for block in self.blocks:
            for count in block.accepted:
                counts[count] += 1
        return counts

    @property
    def acceptance(self) -> tuple[float, ...]:
        """Entry j: share of steps that accepted at least j + 1 drafts."""
        histogram = self.histogram
        return tuple(sum(histogram[j + 1 :]) / sum(histogram) for j in range(self.k - 1))

    def speedups(self, baseline: "Arm") -> list[float]:
        """Tokens per second over the baseline's in the same repeat, per repeat."""
        pairs = zip(self.blocks, baseline.blocks, strict=True)
        return [ours.tokens_per_second / theirs.tokens_per_second for ours, theirs in pairs]


def decode_block(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    batch: int,
    new_tokens: int,
    k: int | Literal["adaptive"],
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
) -> Block:
    """Decode all prompts, `batch` at a time: as one ends, the next takes its place. Prompt i draws with seed + i."""
    samplings = [replace(sampling, seed=sampling.seed + number) for number in range(len(prompts))]
    with watch_neighbours() as others:
        made: Generation = decoder.generate(prompts, new_tokens, k=k, sampling=samplings, batch=batch)
    block = Block(
        made.tokens,
        made.runs,
        [count for step in made.steps for count in step.accepted],
        [step.seconds for step in made.steps if len(step.accepted) == batch],
        made.decode_seconds,
        made.prefill_seconds,
        [end - start for start, end in zip(made.joined_seconds, made.finished_seconds, strict=True)],
        made.seconds,
        len(made.steps),
    )
    block.other_share, block.quiet = others.share, others.quiet
    return block


def measure(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    heads: Sequence[int],
    batch: int,
    new_tokens: int,
    repeats: int,
    cores: int,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
) -> Iterator[list[Arm]]:
    """Time k = 1, every k of `heads`, and, if there is more than one to choose from, the choice while running; yields
    the arms (k = 1 first, the choice last) after the warm-up and after every repeat.

    Each arm uses the number of threads, of 1, 2, 4, … up to `cores`, that was fastest for it in a first pass, which
    is not counted: tiny models lose by a second thread. (The choice uses that of the fastest arm.) A repeat during
    which other processes used the machine is made again, at most as often as there are repeats; if too few were quiet,
    the quietest are kept and marked.
    """
    arms = [Arm(k, batch) for k in (1, *(k for k in heads if k > 1))]
    if decoder.config.n_future_tokens in heads:
        arms.append(Arm(decoder.config.n_future_tokens, batch, adaptive=True))
    choices = sorted({min(1 << i, cores) for i in range(cores.bit_length() + 1)})

    def block(arm: Arm, some: Sequence[Sequence[int]]) -> Block:
        torch.set_num_threads(arm.threads)
        return decode_block(decoder, some, batch, new_tokens, "adaptive" if arm.adaptive else arm.k, sampling)

    before = torch.get_num_threads()
    try:
        fastest: list[tuple[float, int]] = []
        for arm in arms:
            if arm.adaptive:  # what it tries at first says little: the number of the fastest k
                arm.threads = min(fastest)[1]
                block(arm, prompts[:batch])
                continue
            times = []
            for threads in choices:
                arm.threads = threads
                block(arm, prompts[:batch])
                times.append((block(arm, prompts[:batch]).decode_seconds, threads))
            arm.threads = min(times)[1]
            fastest.append(min(times))
        yield arms
        kept: list[list[Block]] = []
        for attempt in range(2 * repeats):
            kept.append([block(arm, prompts) for arm in arms])
            # the quietest are kept; the sort is stable, so where the system does not tell, the first
            kept.sort(key=lambda blocks: max(b.other_share or 0.0 for b in blocks))
            del kept[repeats:]
            for i, arm in enumerate(arms):
                arm.blocks = [blocks[i] for blocks in kept]
            yield arms
            if attempt + 1 >= repeats and all(b.quiet is not False for blocks in kept for b in blocks):
                break
    finally:
        torch.set_num_threads(before)


def timing(arm: Arm, baseline: Arm, limit_seconds: float, baseline_limit_seconds: float) -> dict[str, Any]:
    """The figures of an arm as JSON values: medians over repeats, the spread beside them. `limit_speedup` is what its
    tokens per forward would bring if both arms' steps took their limits. An adaptive arm, whose steps differ, has no
    limit."""
    limit = None if arm.adaptive else limit_seconds
    speedups = arm.speedups(baseline)
    rates = [block.tokens_per_second for block in arm.blocks]
    r = arm.step_seconds / baseline.step_seconds
    steps = sum(block.steps for block in arm.blocks)
    parts = arm.blocks[0].parts_seconds
    latencies = [seconds for block in arm.blocks for seconds in block.row_seconds]
    return {
        "k": arm.k,
        "batch": arm.batch,
        "threads": arm.threads,
        "tokens_per_second": statistics.median(rates),
        "tokens_per_forward": arm.tokens_per_forward,
        "r": r,
        "predicted_speedup": arm.tokens_per_forward / r,
        "limit_speedup": arm.tokens_per_forward * baseline_limit_seconds / limit if limit else None,
        "speedup": statistics.median(speedups),
        "speedup_low": min(speedups),
        "speedup_high": max(speedups),
        "acceptance": arm.acceptance,
        "histogram": arm.histogram,
        "step_seconds": arm.step_seconds,
        "step_limit_seconds": limit,
        "step_ms": 1e3 * arm.step_seconds,
        "limit_ms": 1e3 * limit if limit else None,
        "arm": "next-token" if arm.k == 1 else "adaptive" if arm.adaptive else "self-speculative",
        "parts_ms": {part: 1e3 * sum(b.parts_seconds[part] for b in arm.blocks) / steps for part in parts},
        "row_seconds": statistics.median(latencies),
        "row_seconds_highest": max(latencies),
        "conditional_acceptance": [
            later / earlier if earlier else 0.0 for earlier, later in itertools.pairwise((1.0, *arm.acceptance))
        ],
        "quiet": all(block.quiet is not False for block in arm.blocks),
        "repeats_tokens_per_second": rates,
        "repeats_other_processes_share": [block.other_share for block in arm.blocks],
        "repeats_prefill_seconds": [block.prefill_seconds for block in arm.blocks],
    }
