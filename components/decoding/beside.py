"""transformers' decoding of the same weights beside this engine's next-token decoding, in turns, so that all see the
same machine. Ratios are taken within a turn. Nothing is measured where transformers is not installed.

Random weights (`beside_transformers`) and held-out prompts (`transformers_cases`), there with transformers' prompt
lookup as arms of its own: it drafts without a model, by copying what stood behind the same tokens before.
"""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from components.decoding.checks import ids_hash
from components.decoding.engine import Decoder
from components.decoding.machine import watch_neighbours
from components.decoding.peers import PeerBlock, Transformers
from components.decoding.synthetic import Size, draw_random_prompts, random_model
from components.model.transformer import MultiTokenTransformer

OURS = "next-token"
THEIRS = "transformers"
LOOKUPS = (3, 10)
"""Tokens that prompt lookup copies at a time; transformers' examples have 3 or 10."""

Decode = Callable[[Sequence[Sequence[int]]], PeerBlock]
"""Continues prompts, a batch at a time."""


@dataclass
class Turns:
    """What the arms did in turns: entry i of each list is turn i's."""

    blocks: dict[str, list[PeerBlock]]
    threads: dict[str, int] = field(default_factory=dict)
    quiet: bool | None = True
    """Whether other processes left the machine alone; None: the system does not tell."""

    def ratios(self, arm: str, other: str) -> list[float]:
        """Tokens per second of an arm over another's."""
        pairs = zip(self.blocks[arm], self.blocks[other], strict=True)
        return [a.tokens_per_second / b.tokens_per_second for a, b in pairs]

    def rate(self, arm: str) -> float:
        """Tokens per second, the median."""
        return statistics.median(block.tokens_per_second for block in self.blocks[arm])


def take_turns(
    arms: Mapping[str, Decode], prompts: Sequence[Sequence[int]], batch: int, threads: Sequence[int], turns: int
) -> Turns:
    """Decode all prompts with every arm, one after the other, `turns` times, each with the number of threads that was
    fastest for it on the first batch."""
    made = Turns({name: [] for name in arms})
    before = torch.get_num_threads()
    try:
        for name, decode in arms.items():
            times = []
            for number in threads:
                torch.set_num_threads(number)
                decode(prompts[:batch])  # warms up
                if len(threads) > 1:
                    times.append((sum(decode(prompts[:batch]).step_seconds), number))
            made.threads[name] = min(times)[1] if times else threads[0]
        for _ in range(turns):
            with watch_neighbours() as others:
                for name, decode in arms.items():
                    torch.set_num_threads(made.threads[name])
                    made.blocks[name].append(decode(prompts))
            made.quiet = False if others.quiet is False else made.quiet and others.quiet
    finally:
        torch.set_num_threads(before)
    return made


def _arms(
    decoder: Decoder, peer: Transformers, batch: int, new_tokens: int, lookups: Sequence[int]
) -> dict[str, Decode]:
    """Both next-token arms, and at batch 1, which is all that it takes, prompt lookup."""

    def ours(prompts: Sequence[Sequence[int]]) -> PeerBlock:
        made = decoder.generate(prompts, new_tokens, k=1, batch=batch)
        return PeerBlock(made.tokens, [step.seconds for step in made.steps], sum(len(row) - 1 for row in made.tokens))

    def theirs(prompts: Sequence[Sequence[int]], lookup: int | None = None) -> PeerBlock:
        groups = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
        blocks = [peer.decode(group, new_tokens, lookup) for group in groups]
        return PeerBlock(
            [row for block in blocks for row in block.tokens],
            [seconds for block in blocks for seconds in block.step_seconds],
            sum(block.decoded for block in blocks),
        )

    return {
        OURS: ours,
        THEIRS: theirs,
        **{f"prompt lookup {n}": functools.partial(theirs, lookup=n) for n in lookups if batch == 1},
    }


def transformers_cases(
    model: MultiTokenTransformer,
    dtype: torch.dtype,
    prompts: Sequence[Sequence[int]],
    batches: Sequence[int],
    new_tokens: int,
    turns: int,
    cores: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """transformers' arms on given prompts, as cases like those of the engine's arms: `speedup` is over this engine's
    next-token decoding, `r` a step over its step. The number of prompts is a multiple of each batch."""
    try:
        peer = Transformers(model, dtype)
    except ImportError:
        return []
    decoder = Decoder(model, dtype)
    choices = sorted({min(1 << i, cores) for i in range(cores.bit_length() + 1)})
    cases: list[dict[str, Any]] = []
    for batch in batches:
        say(f"transformers, batch {batch}")
        made = take_turns(_arms(decoder, peer, batch, new_tokens, LOOKUPS), prompts, batch, choices, turns)
        expected = made.blocks[OURS][0].tokens
        own_step = _step_seconds(made.blocks[OURS])
        for arm, blocks in made.blocks.items():
            if arm == OURS:
                continue
            speedups, step = made.ratios(arm, OURS), _step_seconds(blocks)
            steps = sum(len(block.step_seconds) for block in blocks)
            per_forward = sum(block.decoded for block in blocks) / (batch * steps)
            outputs = [block.tokens for block in blocks]
            cases.append(
                {
                    "n_future_tokens": model.config.n_future_tokens,
                    "batch": batch,
                    "k": None,
                    "dtype": str(dtype).removeprefix("torch."),
                    "mode": "transformers",
                    "arm": arm,
                    "threads": made.threads[arm],
                    "tokens_per_forward": per_forward,
                    "step_ms": 1e3 * step,
                    "limit_ms": None,
                    "r": step / own_step,
                    "predicted_speedup": per_forward * own_step / step,
                    "speedup": statistics.median(speedups),
                    "speedup_low": min(speedups),
                    "speedup_high": max(speedups),
                    "speedups": speedups,
                    "tokens_per_second": made.rate(arm),
                    "own_tokens_per_second": made.rate(OURS),
                    "own_threads": made.threads[OURS],
                    "ids_hash": ids_hash(outputs[0]),
                    # rounding of its own decides near-ties in bfloat16
                    "lossless": all(o == expected for o in outputs) if dtype == torch.float32 else None,
                    "quiet": made.quiet is not False,
                }
            )
    return cases


def _step_seconds(blocks: Sequence[PeerBlock]) -> float:
    return statistics.median(seconds for block in blocks for seconds in block.step_seconds)


def beside_transformers(
    size: Size,
    batches: Sequence[int],
    dtype: torch.dtype,
    rounds: int,
    new_tokens: int,
    cores: int,
    seed: int,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Random weights of a size, by batch: this engine over transformers, and its prompt lookup of 3 tokens."""
    model = random_model(size.model, seed, device)
    try:
        peer = Transformers(model, dtype)
    except ImportError:
        return {}
    decoder = Decoder(model, dtype)
    found = {}
    for batch in batches:
        say(f"transformers, batch {batch}")
        prompts = draw_random_prompts(batch, size.model.vocabulary_size, seed)
        arms = _arms(decoder, peer, batch, new_tokens, LOOKUPS[:1])
        made = take_turns(arms, prompts, batch, (cores,), max(2, rounds - batch // 8))
        lookup = f"prompt lookup {LOOKUPS[0]}"
        found[str(batch)] = {
            "ratio": statistics.median(made.ratios(OURS, THEIRS)),
            "ours_tokens_per_second": made.rate(OURS),
            "transformers_tokens_per_second": made.rate(THEIRS),
            "prompt_lookup_tokens_per_second": made.rate(lookup) if lookup in made.blocks else None,
        }
    return found
