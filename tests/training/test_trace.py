"""The trace of some steps, read as the tools that show it do."""

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_training import CONFIG, EXECUTION, write_shards
from two_workers import Tiny, train_together

from components.artifacts import Shards
from components.flow.stage_run import StageRun
from components.training.config import PretrainConfig
from components.training.stage import pretrain


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


def config(arrangement: str = "parallel") -> PretrainConfig:
    model = replace(CONFIG.model, n_future_tokens=3, arrangement=arrangement)
    return replace(CONFIG, model=model, training=replace(CONFIG.training, steps=8))


def parts(path: Path) -> list[dict[str, Any]]:
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [event for event in events if event.get("cat") == "user_annotation" and event["ph"] == "X"]


@pytest.mark.parametrize("arrangement", ["parallel", "causal"])
def test_a_trace_has_the_parts_of_the_steps_that_were_asked_for(
    shards: Shards, tmp_path: Path, arrangement: str
) -> None:
    """8 sequences a step in micro-batches of 4: each part twice, but for what happens once a step."""
    execution = replace(EXECUTION, profile_steps=2, micro_batch_sequences=4)
    checkpoint = pretrain(config(arrangement), shards, StageRun.local(tmp_path, execution))
    events = parts(checkpoint.path / "trace.json.gz")
    steps = sorted((e for e in events if e["name"].startswith("ProfilerStep#")), key=lambda event: event["ts"])
    assert [event["name"] for event in steps] == ["ProfilerStep#2", "ProfilerStep#3"]  # from 0
    counts = Counter(event["name"] for event in events if event not in steps and "Optimizer.step" not in event["name"])
    once = {"data": 2, "sum over workers": 2, "optimizer": 2}
    times = 2 if arrangement == "parallel" else 4  # heads that stand one upon another go forth together, then back
    heads = {f"head {i}": 2 * times for i in (1, 2, 3)}
    assert counts == once | heads | {"trunk forward": 4, "unembedding": 12, "trunk backward": 4}

    def within(name: str, outer: dict[str, Any]) -> int:
        end = outer["ts"] + outer["dur"]
        return sum(e["name"] == name and outer["ts"] <= e["ts"] and e["ts"] + e["dur"] <= end for e in events)

    assert [within("unembedding", step) for step in steps] == [6, 6]
    heads_of = [event for event in events if event["name"].startswith("head ")]
    assert sum(within("unembedding", head) for head in heads_of) == 12


def test_a_trace_changes_nothing_and_none_is_made_unasked(shards: Shards, tmp_path: Path) -> None:
    plain = pretrain(config(), shards, StageRun.local(tmp_path / "plain", EXECUTION))
    traced = pretrain(config(), shards, StageRun.local(tmp_path / "traced", replace(EXECUTION, profile_steps=3)))
    assert traced.digest == plain.digest
    assert not list(plain.path.glob("trace*"))
    longer = StageRun.local(tmp_path / "longer", replace(EXECUTION, profile_steps=100))
    assert len(parts(pretrain(config(), shards, longer).path / "trace.json.gz")) > 0, "it ends with the training"


def test_of_several_workers_the_first_writes_its_trace(shards: Shards, tmp_path: Path) -> None:
    execution = replace(EXECUTION, workers=2, sharding="full", profile_steps=1)
    (run,) = train_together([Tiny(config(), execution, shards.path, tmp_path / "run")])
    assert [path.name for path in run.work.glob("*trace*")] == ["trace.json.gz"]
    names = {event["name"] for event in parts(run.work / "trace.json.gz")}
    assert {"ProfilerStep#2", "head 3", "sum over workers"} <= names
    assert "ProfilerStep#3" not in names
