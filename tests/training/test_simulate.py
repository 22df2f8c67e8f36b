"""A simulated step against real ones by two processes, and against what can be reckoned by hand."""

import functools
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from watched_workers import Setting, watch_together

from components.model.config import ModelConfig
from components.training.benchmark_arms import SIZES
from components.training.config import TrainingConfig, TrainingExecution
from components.training.simulate import Simulation, simulate

MODEL = ModelConfig(dim=64, layers=6, n_attention_heads=4, vocabulary_size=512, n_future_tokens=4)
TRAINING = TrainingConfig(batch_tokens=8 * 64, context_length=64, precision="bfloat16")
SHARDED = TrainingExecution(workers=2, micro_batch_sequences=1, sharding="full")
WHOLE = replace(SHARDED, sharding="none")
NEXT_TOKEN = replace(MODEL, n_future_tokens=1)

SETTINGS: dict[str, Setting] = {
    "whole, n = 1": (NEXT_TOKEN, TRAINING, WHOLE),
    "whole": (MODEL, TRAINING, WHOLE),
    "whole, float32, fewer micro-batches": (
        MODEL,
        replace(TRAINING, precision="float32"),
        replace(WHOLE, micro_batch_sequences=3),
    ),
    "parts, n = 1": (NEXT_TOKEN, TRAINING, SHARDED),
    "parts": (MODEL, TRAINING, SHARDED),
    "parts, summed often": (MODEL, TRAINING, replace(SHARDED, gradient_sync="micro_batch")),
    "parts, kept, summed often": (
        MODEL,
        TRAINING,
        replace(SHARDED, reshard_after_forward=False, gradient_sync="micro_batch"),
    ),
    "parts, checkpointed": (MODEL, TRAINING, replace(SHARDED, activation_checkpointing=True)),
    "parts, causal": (replace(MODEL, arrangement="causal"), TRAINING, SHARDED),
    "parts, anticausal": (replace(MODEL, arrangement="anticausal"), TRAINING, SHARDED),
    "parts, linear": (replace(MODEL, arrangement="linear"), TRAINING, SHARDED),
    "parts, replicated": (replace(MODEL, arrangement="replicated"), TRAINING, SHARDED),
    "parts, tied, uneven": (replace(MODEL, tied_embeddings=True, vocabulary_size=513), TRAINING, SHARDED),
}


def numbers(simulation: Simulation) -> dict[str, Counter[int]]:
    """By kind of collective: bytes of payload and how often."""
    found: dict[str, Counter[int]] = {}
    for collective, times in simulation.collectives.items():
        found.setdefault(collective.kind, Counter())[collective.payload_bytes] += times
    return found


def test_a_simulated_step_holds_and_sends_what_two_real_workers_do(tmp_path: Path) -> None:
    real = watch_together(list(SETTINGS.values()), tmp_path)
    for (name, setting), workers in zip(SETTINGS.items(), real, strict=True):
        simulation = simulate(*setting)
        assert len(workers) == 2
        for peak_bytes, at_peak, collectives in workers:
            assert simulation.collectives == collectives, name
            assert simulation.peak_bytes == pytest.approx(peak_bytes, rel=0.1), name
            assert sum(at_peak.values()) == peak_bytes
            for kind in ("parameters", "optimizer"):
                assert simulation.at_peak[kind] == pytest.approx(at_peak[kind], rel=0.01), (name, kind)


def test_data_parallel_workers_send_every_gradient_once_a_step() -> None:
    """4 bytes a parameter, however many micro-batches; beside them targets, sums of losses per head, and no more."""
    for heads in (1, 4):
        model = replace(MODEL, n_future_tokens=heads)
        for micro in (1, 4):
            sent = numbers(simulate(model, TRAINING, replace(WHOLE, micro_batch_sequences=micro)))
            (reduced,) = sent.values()
            small = Counter({8 * heads: 1, 3 * 8 * heads: 1})
            gradients = reduced - small
            assert small <= reduced
            assert sum(size * times for size, times in gradients.items()) == 4 * model.n_parameters()


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_parts_are_gathered_twice_in_the_trunk_and_once_in_a_head(heads: int, micro: int) -> None:
    """So that more heads gather no more than one head does, where the paper lost up to 22 % (Appendix C, Table S5)."""
    model = replace(MODEL, n_future_tokens=heads)
    simulation = simulate(model, TRAINING, replace(SHARDED, micro_batch_sequences=micro))
    micro_batches = 4 // micro
    layer, table = 2 * model.layer_matrix_parameters(), 2 * model.vocabulary_size * model.dim
    layers_gathered = micro_batches * (2 * model.n_trunk_layers + model.n_head_layers)
    sent = numbers(simulation)
    assert simulation.micro_batches == micro_batches
    assert sent["all_gather"] == {layer: layers_gathered, table: 2}
    assert sent["reduce_scatter"] == {2 * layer: model.layers, 2 * table: 2}, "float32, once a step"
    one_head = simulate(NEXT_TOKEN, TRAINING, replace(SHARDED, micro_batch_sequences=micro))
    assert simulation.total("all_gather")[:2] <= one_head.total("all_gather")[:2]


def test_the_middle_of_a_long_step_counts_as_often_as_it_comes() -> None:
    training = replace(TRAINING, batch_tokens=2 * 11 * 64)
    short = simulate(MODEL, replace(TRAINING, batch_tokens=2 * 3 * 64), SHARDED)
    long, often = (simulate(MODEL, training, replace(SHARDED, gradient_sync=when)) for when in ("step", "micro_batch"))
    layer = 2 * MODEL.layer_matrix_parameters()
    per_micro_batch = 2 * MODEL.n_trunk_layers + MODEL.n_head_layers
    assert long.micro_batches == 11
    assert numbers(long)["all_gather"][layer] == 11 * per_micro_batch
    assert numbers(often)["reduce_scatter"][2 * layer] == 11 * MODEL.layers
    assert long.peak_bytes == pytest.approx(short.peak_bytes, rel=0.01)


def test_what_each_worker_sends_is_a_ring_s() -> None:
    simulation = simulate(MODEL, TRAINING, SHARDED)
    for kind, rounds in (("all_gather", 1), ("reduce_scatter", 1), ("all_reduce", 2)):
        _, payload, sent = simulation.total(kind)
        assert sent == pytest.approx(rounds * payload / 2)


def test_the_peak_moves_with_how_a_step_is_carried_out() -> None:
    @functools.cache
    def peak(**how: object) -> int:
        return simulate(MODEL, TRAINING, replace(SHARDED, **how)).peak_bytes  # type: ignore[arg-type]

    position = MODEL.n_trunk_layers * (2 * 4 * MODEL.dim + 3 * 2 * MODEL.ffn_width)  # inputs of norms and of products
    layers = 2 * MODEL.n_trunk_layers * MODEL.layer_matrix_parameters()
    sizes = [peak(micro_batch_sequences=size) for size in (1, 2, 4)]
    assert sizes[1] - sizes[0] > 64 * position
    assert sizes[2] - sizes[1] > 2 * 64 * position
    assert peak() < peak(reshard_after_forward=False) < peak() + layers
    assert peak(gradient_sync="micro_batch") < peak()
    assert peak(activation_checkpointing=True, micro_batch_sequences=4) < peak(micro_batch_sequences=4)
    assert simulate(MODEL, TRAINING, SHARDED, workers=8).peak_bytes < peak()


@pytest.mark.parametrize(("name", "measured"), [("0.3b", 0.890), ("1.3b", 0.946)])
def test_more_heads_hold_as_much_less_as_was_measured_on_a_gpu(name: str, measured: float) -> None:
    """On an H200, by torch's allocator (components/README.md): the peak of n = 4 over that of n = 1. Layers were
    compiled there; what that saves is as much at any n."""
    size = SIZES[name]
    training = TrainingConfig(batch_tokens=size.tokens, context_length=size.context, precision="bfloat16")
    execution = TrainingExecution(gpus_per_worker=1, micro_batch_sequences=size.sequences)
    one, four = (simulate(replace(size.model, n_future_tokens=n), training, execution).peak_bytes for n in (1, 4))
    assert four / one == pytest.approx(measured, abs=0.01)


def test_more_workers_than_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="9 workers share 8 sequences"):
        simulate(MODEL, TRAINING, SHARDED, workers=9)


def test_13_billion_parameters_on_512_gpus_take_no_memory_here() -> None:
    """The real thing holds tens of gigabytes a device; the process that simulates it grows by a few megabytes."""
    workers = 512
    program = f"""
        import resource
        from components.model.config import ModelConfig
        from components.training.config import TrainingConfig, TrainingExecution
        from components.training.simulate import simulate

        small = ModelConfig(dim=64, layers=6, n_attention_heads=4, vocabulary_size=512, n_future_tokens=4)
        model = ModelConfig(dim=5120, layers=40, n_attention_heads=40, n_future_tokens=4)
        training = TrainingConfig(batch_tokens={workers} * 4096, context_length=4096, precision="bfloat16")
        execution = TrainingExecution({workers}, gpus_per_worker=1, sharding="full", micro_batch_sequences=1)
        simulate(small, training, execution)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        simulation = simulate(model, training, execution)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(simulation.peak_bytes, simulation.at_peak["optimizer"], 1024 * (after - before))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=300
    )
    peak_bytes, optimizer_bytes, grown_bytes = map(int, done.stdout.split())
    parameters = ModelConfig(dim=5120, layers=40, n_attention_heads=40).n_parameters()
    assert optimizer_bytes == pytest.approx(8 * parameters / workers, rel=0.02)
    assert peak_bytes > 30e9
    assert grown_bytes < 300e6
