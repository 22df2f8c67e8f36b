"""Training speed and memory, side by side: what n heads cost, against a loss over all heads at once, and against
transformers' Llama on the same shape. `pipelines/bench.py subject=train` prints it.

Arms of a size take turns within one process, so that a slow moment of the machine meets all. Every arm trains: forward,
backward, clipping and AdamW, bfloat16 autocast over float32 weights. The fastest of the settings tried stands for each
side, and all of our arms have the same one.
"""

import gc
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from components.decoding.machine import watch_neighbours
from components.model.config import ModelConfig
from components.training.config import TrainingConfig, TrainingExecution
from components.training.loop import TrainState, train_step
from components.training.loss import window_targets
from components.training.metrics import resident_bytes
from components.training.simulate import kept
from components.training.worker import keep_freed_memory, make_state

Step = Callable[[], None]


@dataclass(frozen=True)
class Size:
    """A model with one head, and the batch that a step takes through it at once."""

    model: ModelConfig
    context: int
    sequences: int
    rounds: int
    """Turns of all arms."""
    together: bool = True
    """Whether all arms fit into memory at a time."""

    @property
    def tokens(self) -> int:
        return self.context * self.sequences


def _llama(layers: int, dim: int, heads: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(dim=dim, layers=layers, n_attention_heads=heads, vocabulary_size=vocabulary)


SIZES: Mapping[str, Size] = {
    "5m": Size(_llama(6, 256, 4, 4096), 256, 8, 11),
    "30m": Size(_llama(10, 512, 8, 8192), 256, 8, 7),
    "100m": Size(_llama(12, 768, 12, 32000), 256, 18, 4),
    "0.3b": Size(_llama(18, 1024, 16, 32000), 4096, 4, 15),
    "1.3b": Size(_llama(24, 2048, 16, 32000), 4096, 2, 9, together=False),
}
"""The last two are the paper's (Table S14), for a GPU."""
HEADS = (1, 2, 4)


def config_of(size: Size) -> TrainingConfig:
    """A step takes the whole batch in bfloat16."""
    return TrainingConfig(batch_tokens=size.tokens, context_length=size.context, precision="bfloat16")


def state_of(size: Size, n: int, compiled: bool, device: torch.device) -> TrainState:
    """Random weights, `n` heads at equal parameters."""
    model = replace(size.model, n_future_tokens=n)
    execution = TrainingExecution(micro_batch_sequences=size.sequences, compile=compiled)
    state = make_state(model, config_of(size), execution, device)
    with torch.no_grad():
        for parameter in state.model.parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0, 0.02)
    return state


def _batch(size: Size, n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (size.sequences, size.context + n)
    windows = torch.randint(0, size.model.vocabulary_size, shape, generator=torch.Generator().manual_seed(1))
    return window_targets(windows.to(device), n)


def our_arm(size: Size, n: int, compiled: bool, device: torch.device) -> tuple[TrainState, Step]:
    """A step of ours with `n` heads."""
    state, batch, config = state_of(size, n, compiled, device), _batch(size, n, device), config_of(size)
    return state, lambda: void(train_step(state, batch, config, size.sequences))


def our_step(size: Size, n: int, compiled: bool, device: torch.device) -> Step:
    """`our_arm` where nobody looks at its state."""
    return our_arm(size, n, compiled, device)[1]


def naive_arm(size: Size, n: int, compiled: bool, device: torch.device) -> tuple[TrainState, Step]:
    """The same model and optimizer, but the losses of all heads are there before one backward pass over their sum."""
    state, (tokens, targets), config = state_of(size, n, compiled, device), _batch(size, n, device), config_of(size)
    model = state.model

    def step() -> None:
        state.placement.begin_step(n)
        with torch.autocast(device.type, torch.bfloat16):
            rotary = model.rotary(size.context, device)
            states = model.forward_heads(model.forward_trunk(model.embedding(tokens), rotary), rotary, n)
            losses = [
                F.cross_entropy(model.head_unembedding(i)(h_BTD).flatten(0, 1).float(), target.flatten())
                for i, (h_BTD, target) in enumerate(zip(states, targets, strict=True))
            ]
        torch.autograd.backward(torch.stack(losses).sum())
        state.placement.finish()
        state.placement.clip(config.clip_norm).item()
        state.optimizer.step(config.learning_rate)

    return state, step


def transformers_arm(size: Size, attention: str, compiled: bool, device: torch.device) -> Step:
    """transformers' LlamaForCausalLM of the same shape, fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = size.model
    config = LlamaConfig(
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.n_attention_heads,
        intermediate_size=shape.ffn_width,
        vocab_size=shape.vocabulary_size,
        max_position_embeddings=size.context,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    with device:
        model = LlamaForCausalLM(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    tokens, _ = _batch(size, 1, device)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def void(_: object) -> None:
    """Makes a Step of what returns something."""


def seconds(step: Step, device: torch.device) -> float:
    """Of one step, what the device still has to do included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matmul_rate(device: torch.device, size: int) -> float:
    """FLOP/s of one bfloat16 product of square matrices of random numbers, the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: void(a @ b), device) for _ in range(10))


def fastest(arms: Mapping[str, Callable[[], Step]], device: torch.device) -> tuple[str, dict[str, float]]:
    """The name of the fastest of several settings, and each one's second step; one that does not run is left out."""
    times: dict[str, float] = {}
    for name, make in arms.items():
        try:
            step = make()
            step()
            times[name] = seconds(step, device)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        step = None  # type: ignore[assignment]
        clear(device)
    return min(times, key=times.__getitem__), times


def clear(device: torch.device) -> None:
    """Give up what is not held any more, before the next arm is built."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def flops(size: Size, n: int, device: torch.device) -> int:
    """FLOPs of a step by torch's counter, of the layers as they are written; those of a sequence, so many times."""
    step = our_step(replace(size, sequences=1), n, False, device)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm: _addmm_flops}) as counter:
        step()
    of_sequence: int = counter.get_total_flops()
    return size.sequences * of_sequence


def _addmm_flops(_: Sequence[int], a: Sequence[int], b: Sequence[int], *rest: object, **named: object) -> int:
    return 2 * a[0] * a[1] * b[1]  # the counter's own does not take an out_dtype


def measure(name: str, device: torch.device, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures of a size. On a CPU the peaks come from processes of their own."""
    size = SIZES[name]
    on_gpu = device.type == "cuda"
    if not on_gpu:
        keep_freed_memory()
    progress(f"{name}: settings")
    ways = {"eager": partial(our_step, size, 1, False, device), "compiled": partial(our_step, size, 1, True, device)}
    ours, our_tries = fastest(ways, device)
    compiled = ours == "compiled"
    theirs, their_tries = fastest(
        {
            f"{attention}{', compiled' * c}": partial(transformers_arm, size, attention, bool(c), device)
            for attention, c in itertools.product(("sdpa",) if on_gpu else ("sdpa", "eager"), (0, 1))
        },
        device,
    )
    attention, _, with_compiler = theirs.partition(", ")
    makers: dict[str, Callable[[], Step]] = {
        **{f"n={n}": partial(our_step, size, n, compiled, device) for n in HEADS},
        "naive n=4": lambda: naive_arm(size, 4, compiled, device)[1],
        "transformers": partial(transformers_arm, size, attention, bool(with_compiler), device),
    }
    progress(f"{name}: steps")
    roof_size = 8192 if on_gpu else 2048
    roofs = [matmul_rate(device, roof_size)]
    with watch_neighbours() as neighbours:
        times = take_turns(makers, size.rounds, device, keep=size.together)
    roofs.append(matmul_rate(device, roof_size))
    progress(f"{name}: memory")
    peaks = {arm: peak(name, arm, compiled, device) for arm in ("n=1", "n=4", "naive n=4")}
    counted = {n: flops(size, n, device) for n in HEADS}
    median = {arm: statistics.median(of_arm) for arm, of_arm in times.items()}
    roof = max(roofs)
    return {
        "size": name,
        "model": size.model.n_parameters(),
        "context": size.context,
        "sequences": size.sequences,
        "setting": ours,
        "our_tries": our_tries,
        "transformers_setting": theirs,
        "transformers_tries": their_tries,
        "seconds": times,
        "median_seconds": median,
        "tokens_per_second": {arm: size.tokens / value for arm, value in median.items()},
        "flops": counted,
        "matmul_flops": roof,
        "peaks": peaks,
        "quiet": neighbours.quiet,
        "step_ratio_n4_n1": ratio(times, "n=4", "n=1"),
        "step_ratio_n2_n1": ratio(times, "n=2", "n=1"),
        "flop_ratio_n4_n1": counted[4] / counted[1],
        "peak_ratio_n4_n1": peaks["n=4"]["peak_bytes"] / peaks["n=1"]["peak_bytes"],
        "peak_ratio_naive": peaks["n=4"]["peak_bytes"] / peaks["naive n=4"]["peak_bytes"],
        "time_ratio_naive": ratio(times, "n=4", "naive n=4"),
        "speed_vs_transformers": ratio(times, "transformers", "n=1"),
        "matmul_share": counted[1] / median["n=1"] / roof,
    }


def ratio(times: Mapping[str, Sequence[float]], a: str, b: str) -> float:
    """Median over the rounds of a's time over b's in the same round."""
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


def take_turns(
    makers: Mapping[str, Callable[[], Step]], rounds: int, device: torch.device, keep: bool
) -> dict[str, list[float]]:
    """Seconds of every arm in every round. `keep`: all arms stay in memory and each takes one step a round; else each
    is built anew for a third of its rounds, in turns."""
    times: dict[str, list[float]] = {arm: [] for arm in makers}
    if keep:
        clear(device)
        arms = {arm: make() for arm, make in makers.items()}
        for step in arms.values():
            step()
        for _ in range(rounds):
            for arm, step in arms.items():
                times[arm].append(seconds(step, device))
        return times
    for _ in range(3):
        for arm, make in makers.items():
            step = make()
            step()
            step()
            times[arm] += [seconds(step, device) for _ in range(rounds // 3)]
            del step
            clear(device)
    return times


def peak(name: str, arm: str, compiled: bool, device: torch.device) -> dict[str, int]:
    """Most bytes of live tensors during the second step, and the resident size on a CPU."""
    clear(device)
    if device.type == "cuda":
        _, step = _named_arm(name, arm, compiled, device)
        step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return {"peak_bytes": torch.cuda.max_memory_allocated()}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_in_this_process, name, arm, compiled, torch.get_num_threads()).result()


def _named_arm(name: str, arm: str, compiled: bool, device: torch.device) -> tuple[TrainState, Step]:
    kind, _, n = arm.rpartition("n=")
    return (naive_arm if kind else our_arm)(SIZES[name], int(n), compiled, device)


def _peak_in_this_process(name: str, arm: str, compiled: bool, threads: int) -> dict[str, int]:
    torch.set_num_threads(threads)
    state, step = _named_arm(name, arm, compiled, torch.device("cpu"))
    step()
    return {"peak_bytes": peak_of_allocator(state, step), "resident_bytes": resident_bytes()}


def peak_of_allocator(state: TrainState, step: Step) -> int:
    """Most bytes of live tensors while `step` runs, those of `state` included: from every allocation that torch's
    profiler saw, since its memory tracker sees nothing of what compiled code allocates."""
    for parameter in state.model.parameters():
        parameter.grad = None  # as the step begins; the profiler would not see them go
    held = [*state.model.parameters(), *kept(state)["optimizer"], *state.placement.own_tensors()]
    before = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    most: int = before + max(alive)
    return most
