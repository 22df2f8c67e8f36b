"""Timing on random weights with acceptance drawn from given rates: what steps cost, apart from any training.

All the work of drafting, verifying and rolling back is done; only the number of accepted drafts is replaced. The
text is invalid, and nothing is said about losslessness here (`checks.equality`).

Arms are timed in turns, and the machine's roofs between them. What is counted are the steps in which the whole batch
was live; prompts differ in length.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from components.decoding.checks import ids_hash
from components.decoding.engine import Decoder
from components.decoding.limits import step_limit
from components.decoding.loop import AcceptedCounts, Step
from components.decoding.machine import RoofMeter, watch_neighbours
from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer

STRATA = 12
"""Draws of acceptance among which each twelfth of the scale comes once."""
CONTEXT = 160
"""Positions that limits count as read per sequence; prompts and new tokens lie around it."""


@dataclass(frozen=True)
class Size:
    """A model to be timed without training."""

    model: ModelConfig
    high: tuple[float, ...]
    """Of drafts at place 1, 2, … that are reached, the shares accepted."""
    low: tuple[float, ...]


_THREE, _THREE_LOW = (0.94, 0.89, 0.86), (0.5, 0.4, 0.3)  # E = 3.5 and 1.8 at k = 4
_SEVEN, _SEVEN_LOW = (0.961,) * 7, (0.6,) * 7  # E = 7 and 2.5 at k = 8

SIZES = {
    "110m": Size(ModelConfig(dim=768, layers=9, n_attention_heads=12, n_future_tokens=4), _THREE, _THREE_LOW),
    "350m": Size(ModelConfig(dim=1024, layers=22, n_attention_heads=16, n_future_tokens=4), _THREE, _THREE_LOW),
    "byte": Size(
        ModelConfig(
            dim=768, layers=16, n_attention_heads=12, vocabulary_size=258, n_future_tokens=8, arrangement="replicated"
        ),
        _SEVEN,
        _SEVEN_LOW,
    ),
    "2m": Size(
        ModelConfig(dim=128, layers=10, n_attention_heads=4, ffn_dim=384, vocabulary_size=2048, n_future_tokens=4),
        _THREE,
        _THREE_LOW,
    ),
    "tiny": Size(
        ModelConfig(dim=64, layers=6, n_attention_heads=2, vocabulary_size=1031, n_future_tokens=4), _THREE, _THREE_LOW
    ),
    "25m": Size(ModelConfig(dim=256, layers=10, n_attention_heads=4, n_future_tokens=4), _THREE, _THREE_LOW),
}


def random_model(config: ModelConfig, seed: int, device: torch.device | str) -> MultiTokenTransformer:
    """A model of the given shape with random weights."""
    model = MultiTokenTransformer(config)
    model.init_weights(seed)
    return model.to(device).eval()


def expected_tokens(rates: Sequence[float], k: int) -> float:
    """E of k heads whose drafts are accepted at these rates, where reached."""
    total = share = 1.0
    for rate in rates[: k - 1]:
        share *= rate
        total += share
    return total


@dataclass
class Timed:
    """One arm's blocks at one batch size."""

    arm: str
    k: int | str
    mode: str
    rates: tuple[float, ...]
    acceptance: str
    decoder: Decoder
    new_tokens: int
    steps: list[list[Step]] = field(default_factory=list)
    """Per round, the steps of the whole batch."""
    seconds: list[dict[str, float]] = field(default_factory=list)
    passes: int = 0
    ids_hash: str | None = None
    """Of the tokens that came out; None where acceptance is drawn, since they then mean nothing."""

    def rate(self, number: int) -> float:
        """Tokens per second of a round."""
        steps = self.steps[number]
        return sum(len(s.accepted) + sum(s.accepted) for s in steps) / sum(s.seconds for s in steps)

    @property
    def step_seconds(self) -> float:
        return statistics.median(step.seconds for steps in self.steps for step in steps)

    @property
    def tokens_per_forward(self) -> float:
        accepted = [count for steps in self.steps for step in steps for count in step.accepted]
        return 1 + sum(accepted) / len(accepted)


def time_cases(
    name: str,
    size: Size,
    batches: Sequence[int],
    dtype: torch.dtype,
    heads: Sequence[int] | None,
    rounds: int,
    new_tokens: int,
    cores: int,
    seed: int,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """The cases of one model, batch by batch."""
    config = size.model
    model = random_model(config, seed, device)
    ks = [k for k in (heads or range(2, config.n_future_tokens + 1)) if k > 1]
    decoders = {
        "row-invariant": Decoder(model, dtype, row_invariant=True),
        "fast": Decoder(model, dtype, row_invariant=False),
    }
    del model
    torch.set_num_threads(cores)
    for batch in batches:
        meter = RoofMeter(dtype, device, cores)
        arms = _arms(size, ks, decoders, new_tokens)
        prompts = draw_random_prompts(batch, config.vocabulary_size, seed)
        for arm in arms:
            say(f"{name} batch {batch}: warming up {arm.arm} {arm.k} {arm.mode}")
            _block(arm, prompts, seed, keep=False)
        quiet: list[bool | None] = []
        # reading the prompts takes most of a round of many sequences: fewer of them
        for number in range(max(2, rounds - batch // 8)):
            say(f"{name} batch {batch}: round {number + 1}")
            with watch_neighbours() as others:
                meter.measure()
                for arm in arms:
                    _block(arm, prompts, seed + number, keep=True)
            quiet.append(others.quiet)
        yield from _figures(name, config, batch, dtype, arms, meter, all(q is not False for q in quiet))


def _arms(size: Size, ks: Sequence[int], decoders: dict[str, Decoder], new_tokens: int) -> list[Timed]:
    arms = [Timed("next-token", 1, mode, (), "", decoder, new_tokens) for mode, decoder in decoders.items()]
    invariant, fast = decoders["row-invariant"], decoders["fast"]
    arms += [Timed("self-speculative", k, "row-invariant", size.high, "high", invariant, new_tokens) for k in ks]
    if ks:
        arms.append(Timed("self-speculative", ks[-1], "fast", size.high, "high", fast, new_tokens))
        for acceptance, rates in (("high", size.high), ("low", size.low)):
            arms.append(
                Timed("adaptive", "adaptive", "row-invariant", rates, acceptance, invariant.fresh(), new_tokens)
            )
    return arms


def draw_random_prompts(batch: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Prompts of 128 to 160 tokens, as many as the batch takes."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [128 + 32 * i // max(1, batch - 1) if batch > 1 else 144 for i in range(batch)]
    return [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]


def _block(arm: Timed, prompts: Sequence[Sequence[int]], seed: int, keep: bool) -> None:
    draw = draws_with(shares(arm.rates), seed) if arm.rates else None
    made = arm.decoder.generate(prompts, arm.new_tokens, k=arm.k, draw_accepted=draw)  # type: ignore[arg-type]
    if keep:
        arm.steps.append([step for step in made.steps if len(step.accepted) == len(prompts)])
        arm.seconds.append(made.seconds)
        arm.passes += len(made.steps)
        arm.ids_hash = None if arm.rates else ids_hash(made.tokens)


def draws_with(acceptance: Sequence[float], seed: int) -> AcceptedCounts:
    """Synthetic acceptance: a share acceptance[j] of the steps accepts at least j + 1 drafts. ValueError when the
    shares are no such shares."""
    if any(not 0 <= b <= a for a, b in zip((1.0, *acceptance), acceptance, strict=False)):
        raise ValueError(f"acceptance is {list(acceptance)}; it must list shares in 0..1 that do not increase")
    generator = torch.Generator().manual_seed(seed)
    shares, waiting = torch.tensor(acceptance), torch.zeros(0)

    def draw(sequences: int, k: int) -> Tensor:
        # every few draws are spread evenly, so that short runs have the shares as well
        nonlocal waiting
        while len(waiting) < sequences:
            spread = torch.randperm(STRATA, generator=generator) + torch.rand(STRATA, generator=generator)
            waiting = torch.cat((waiting, spread / STRATA))
        levels, waiting = waiting[:sequences, None], waiting[sequences:]
        return (levels < shares[: k - 1]).sum(1)

    return draw


def shares(rates: Sequence[float]) -> tuple[float, ...]:
    """Of steps, the shares that accept at least 1, 2, … drafts."""
    return tuple(expected_tokens(rates, k + 1) - expected_tokens(rates, k) for k in range(1, len(rates) + 1))


def _figures(
    name: str, config: ModelConfig, batch: int, dtype: torch.dtype, arms: Sequence[Timed], meter: RoofMeter, quiet: bool
) -> Iterator[dict[str, Any]]:
    """The figures of every arm: ratios within rounds, medians over them."""
    plain = {arm.mode: arm for arm in arms if arm.arm == "next-token"}
    roofs, value_bytes = meter.roofs(), torch.empty(0, dtype=dtype).element_size()
    rounds = range(len(arms[0].steps))
    fixed = {arm.k: arm for arm in arms if arm.mode == "row-invariant" and isinstance(arm.k, int)}
    for arm in arms:
        speedups = [arm.rate(i) / max(other.rate(i) for other in plain.values()) for i in rounds]
        limit = step_limit(config, arm.k, batch, CONTEXT, roofs, value_bytes) if isinstance(arm.k, int) else None
        most = arm.tokens_per_forward * step_limit(config, 1, batch, CONTEXT, roofs, value_bytes)
        case: dict[str, Any] = {
            "model": name,
            "arrangement": config.arrangement,
            "n_future_tokens": config.n_future_tokens,
            "batch": batch,
            "k": arm.k,
            "dtype": str(dtype).removeprefix("torch."),
            "mode": arm.mode,
            "arm": arm.arm,
            "acceptance_name": arm.acceptance,
            "tokens_per_forward": arm.tokens_per_forward,
            "step_ms": 1e3 * arm.step_seconds,
            "limit_ms": 1e3 * limit if limit else None,
            "limit_share": limit / arm.step_seconds if limit else None,
            "limit_speedup": most / limit if limit else None,
            "r": arm.step_seconds / plain[arm.mode].step_seconds,
            "speedup": statistics.median(speedups),
            "speedup_low": min(speedups),
            "speedup_high": max(speedups),
            "tokens_per_second": statistics.median(arm.rate(i) for i in rounds),
            "parts_ms": {part: 1e3 * sum(s[part] for s in arm.seconds) / arm.passes for part in arm.seconds[0]},
            "ids_hash": arm.ids_hash,
            "quiet": quiet,
            "read_gb_per_second": roofs.read_bytes_per_second / 1e9,
            "matmul_gflops": roofs.flops_per_second / 1e9,
        }
        case["predicted_speedup"] = case["tokens_per_forward"] / case["r"]
        if arm.arm == "adaptive":
            # what the best fixed number would have reached at these rates, by its measured step
            best = max(fixed, key=lambda k: expected_tokens(arm.rates, k) / fixed[k].step_seconds)
            per_step = batch * expected_tokens(arm.rates, best)
            reached = [
                arm.rate(i) / per_step * statistics.mean(step.seconds for step in fixed[best].steps[i]) for i in rounds
            ]
            case |= {"best_fixed_k": best, "of_best_fixed": statistics.median(reached)}
        yield case
