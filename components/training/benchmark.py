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
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from components.decoding.machine import watch_neighbours
from components.training.benchmark_arms import (
    HEADS,
    Size,
    Step,
    discard,
    naive_arm,
    our_arm,
    our_step,
    transformers_arm,
)
from components.training.loop import TrainState
from components.training.metrics import resident_bytes
from components.training.simulate import kept
from components.training.worker import keep_freed_memory


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
    return 2 * size**3 / min(seconds(lambda: discard(a @ b), device) for _ in range(10))


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


def measure(
    name: str, size: Size, device: torch.device, progress: Callable[[str], None], compiled_too: bool = True
) -> dict[str, Any]:
    """All figures of a size, which is called `name`. On a CPU the peaks come from processes of their own."""
    on_gpu = device.type == "cuda"
    if not on_gpu:
        keep_freed_memory()
    progress(f"{name}: settings")
    settings = (False, True)[: 1 + compiled_too]
    ours, our_tries = fastest(
        {("eager", "compiled")[c]: partial(our_step, size, 1, c, device) for c in settings}, device
    )
    compiled = ours == "compiled"
    theirs, their_tries = fastest(
        {
            f"{attention}{', compiled' * c}": partial(transformers_arm, size, attention, c, device)
            for attention, c in itertools.product(("sdpa",) if on_gpu else ("sdpa", "eager"), settings)
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
    with watch_neighbours() as neighbours:
        roofs = [matmul_rate(device, roof_size)]
        times = take_turns(makers, size.rounds, device, keep=size.together)
        roofs.append(matmul_rate(device, roof_size))
    progress(f"{name}: memory")
    peaks = {arm: peak(size, arm, compiled, device) for arm in ("n=1", "n=4", "naive n=4")}
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


def peak(size: Size, arm: str, compiled: bool, device: torch.device) -> dict[str, int]:
    """Most bytes of live tensors during the second step, and the resident size on a CPU."""
    clear(device)
    if device.type == "cuda":
        _, step = _named_arm(size, arm, compiled, device)
        step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return {"peak_bytes": torch.cuda.max_memory_allocated()}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_in_this_process, size, arm, compiled, torch.get_num_threads()).result()


def _named_arm(size: Size, arm: str, compiled: bool, device: torch.device) -> tuple[TrainState, Step]:
    kind, _, n = arm.rpartition("n=")
    return (naive_arm if kind else our_arm)(size, int(n), compiled, device)


def _peak_in_this_process(size: Size, arm: str, compiled: bool, threads: int) -> dict[str, int]:
    torch.set_num_threads(threads)
    state, step = _named_arm(size, arm, compiled, torch.device("cpu"))
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
    most: int = before + max(alive, default=0)
    return most
