"""Several workers, each in a process of its own, against one: the whole model on each, and a part of it on each."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import get_args

import pytest
import torch
from compiler import HAS_COMPILER
from safetensors.torch import load_file
from tiny_training import CONFIG, EXECUTION, metrics_of, write_shards
from two_workers import Tiny, train_together

from components.model.config import Arrangement
from components.training.checkpoint import checkpoint_path, load_trained_model
from components.training.config import PretrainConfig
from components.training.gradients import norm_of
from components.training.parallel import own_share

SHARDED = replace(EXECUTION, workers=2, sharding="full", micro_batch_sequences=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards").path


def steps(config: PretrainConfig, n: int, **model) -> PretrainConfig:
    return replace(
        config, training=replace(config.training, steps=n, clip_norm=0.3), model=replace(config.model, **model)
    )


def test_two_workers_learn_what_one_learns_over_50_steps(shards: Path, tmp_path: Path) -> None:
    config = steps(CONFIG, 50)
    (alone,) = train_together([Tiny(config, EXECUTION, shards, tmp_path / "alone")], 1)
    data_parallel = Tiny(config, replace(SHARDED, sharding="none"), shards, tmp_path / "none")
    together = train_together([data_parallel, Tiny(config, SHARDED, shards, tmp_path / "full")])
    trained = load_trained_model(checkpoint_path(alone.work / "checkpoints", 50))
    for run in together:
        lines = metrics_of(run)
        assert [line["step"] for line in lines] == [1, *range(4, 50, 4), 50]
        for ours, theirs in zip(lines, metrics_of(alone), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        model = load_trained_model(checkpoint_path(run.work / "checkpoints", 50))
        for name, parameter in trained.named_parameters():
            torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-3, atol=1e-4, msg=name)


OTHER_WAYS: dict[str, tuple[dict, dict, dict]] = {
    **{a: ({"arrangement": a}, {}, {}) for a in get_args(Arrangement) if a != "parallel"},
    "tied": ({"tied_embeddings": True}, {}, {}),
    "odd": ({"n_kv_heads": 2}, {"gradient_sync": "micro_batch"}, {}),
    "kept": ({}, {"reshard_after_forward": False, "activation_checkpointing": True}, {}),
    "ever more heads": ({}, {}, {"curriculum": "forward"}),
    "whole, ever more heads": ({"arrangement": "replicated"}, {"sharding": "none"}, {"curriculum": "forward"}),
    "whole, ever fewer heads": ({"arrangement": "linear"}, {"sharding": "none"}, {"curriculum": "reverse"}),
}
if HAS_COMPILER:
    OTHER_WAYS["compiled"] = {}, {"compile": True, "activation_checkpointing": True}, {}
    OTHER_WAYS["whole, compiled"] = {"arrangement": "causal"}, {"compile": True, "sharding": "none"}, {}


def test_steps_of_two_are_those_of_one(shards: Path, tmp_path: Path) -> None:
    log = {"log_every": 1, "checkpoint_every": 3, "evaluate_every": 2, "evaluate_tokens": 160}
    alone, together = [], []
    for name, (model, execution, training) in OTHER_WAYS.items():
        config = steps(CONFIG, 3, n_future_tokens=3, **model)
        config = replace(config, training=replace(config.training, **training))
        alone.append(Tiny(config, replace(EXECUTION, **log), shards, tmp_path / "alone" / name))
        way = replace(SHARDED, **log, **execution)
        together.append(Tiny(config, way, shards, tmp_path / "together" / name))
    pairs = zip(OTHER_WAYS, train_together(together), train_together(alone, 1), strict=True)
    for name, ours, theirs in pairs:
        lines, expected = metrics_of(ours), metrics_of(theirs)
        assert [sorted(line) for line in lines] == [sorted(line) for line in expected]
        assert "heldout/tokens_per_forward" in lines[1], name
        for line, reference in zip(lines, expected, strict=True):
            assert line == pytest.approx(reference, rel=1e-5), name


def test_a_look_at_heldout_text_changes_nothing_in_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    """In parts that stay whole after a forward pass, in the products' precision: the parts are what is saved."""
    config = steps(CONFIG, 4)
    config = replace(config, training=replace(config.training, precision="bfloat16"))
    way = replace(SHARDED, reshard_after_forward=False, checkpoint_every=2, evaluate_tokens=160)
    runs = train_together(
        [Tiny(config, replace(way, evaluate_every=every), shards, tmp_path / str(every)) for every in (0, 2)]
    )
    for step in (2, 4):
        without, with_look = (saved_tensors(checkpoint_path(run.work / "checkpoints", step)) for run in runs)
        assert without.keys() == with_look.keys()
        for name, tensor in without.items():
            assert torch.equal(with_look[name], tensor), name
            assert tensor.dtype != torch.bfloat16, name


def saved_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint.rglob("*.safetensors"))
    assert files
    return {f"{path.name}: {name}": tensor for path in files for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_workers_with_unequal_shares_go_through_a_step_together(sharding: str, shards: Path, tmp_path: Path) -> None:
    """Three sequences, one at a time: one worker has two of them, and layers in parts are gathered by both."""
    config = steps(CONFIG, 3)
    config = replace(config, training=replace(config.training, batch_tokens=3 * CONFIG.training.context_length))
    execution = replace(EXECUTION, micro_batch_sequences=1, log_every=1)
    in_two = replace(execution, workers=2, sharding=sharding)
    (alone,) = train_together([Tiny(config, execution, shards, tmp_path / "alone")], 1)
    (together,) = train_together([Tiny(config, in_two, shards, tmp_path / "together")])
    for ours, theirs in zip(metrics_of(together), metrics_of(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_parts_in_bfloat16_over_several_micro_batches_learn_what_the_whole_does(shards: Path, tmp_path: Path) -> None:
    execution = replace(EXECUTION, micro_batch_sequences=1, log_every=1)
    config = steps(CONFIG, 6, n_future_tokens=3)
    config = replace(config, training=replace(config.training, precision="bfloat16"))
    in_parts = replace(execution, workers=2, sharding="full")
    (alone,) = train_together([Tiny(config, execution, shards, tmp_path / "alone")], 1)
    (together,) = train_together([Tiny(config, in_parts, shards, tmp_path / "full")])
    for ours, theirs in zip(metrics_of(together), metrics_of(alone), strict=True):
        assert {k: v for k, v in ours.items() if k.startswith("loss")} == pytest.approx(
            {k: v for k, v in theirs.items() if k.startswith("loss")}, rel=0.01
        )


def test_another_number_of_workers_or_sharding_goes_on_from_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    config, short = steps(CONFIG, 8), replace(EXECUTION, checkpoint_every=4, log_every=1)
    sharded, parallel = replace(short, workers=2, sharding="full"), replace(short, workers=2)
    (whole,) = train_together([Tiny(config, short, shards, tmp_path / "whole")], 1)
    train_together([Tiny(config, short, shards, tmp_path / "one, two", until=4)], 1)
    parts = train_together(
        [
            Tiny(config, sharded, shards, tmp_path / "two, one", until=4),
            Tiny(config, parallel, shards, tmp_path / "whole, parts", until=4),
            Tiny(config, sharded, shards, tmp_path / "parts"),
            Tiny(config, sharded, shards, tmp_path / "parts, disturbed", until=6),
            Tiny(config, sharded, shards, tmp_path / "parts, disturbed"),
            Tiny(config, sharded, shards, tmp_path / "whole, parts"),
            Tiny(config, sharded, shards, tmp_path / "one, two"),
        ]
    )
    undisturbed, _, disturbed, *changed = parts[2:]
    assert metrics_of(disturbed) == metrics_of(undisturbed), "bit for bit, in the same layout"
    weights, same = (saved_tensors(checkpoint_path(run.work / "checkpoints", 8)) for run in (undisturbed, disturbed))
    assert weights.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())
    runs = [undisturbed, *changed, *train_together([Tiny(config, short, shards, tmp_path / "two, one")], 1)]
    for run in runs:
        lines = metrics_of(run)
        assert [line["step"] for line in lines] == list(range(1, 9)), "it went on"
        for ours, theirs in zip(lines, metrics_of(whole), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_norm_over_many_numbers_is_right() -> None:
    """torch's own in float32, over all at once on a CPU, is off by a thousandth here and by a hundredth at 10^8."""
    numbers = torch.randn(20_000_003, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.vector_norm(numbers, dtype=torch.float64)
    assert norm_of([numbers[:5_000_001], numbers[5_000_001:]]).item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize(("items", "workers"), [(8, 1), (8, 2), (8, 3), (3, 3), (2, 5)])
def test_shares_cover_a_batch_once(monkeypatch: pytest.MonkeyPatch, items: int, workers: int) -> None:
    shares = []
    for rank in range(workers):
        monkeypatch.setattr("components.training.parallel.rank_and_workers", lambda rank=rank: (rank, workers))
        shares.append(list(range(items))[own_share(items)])
    assert list(chain(*shares)) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
