"""What each of several workers does is in the metrics, so that the one that all wait for is found."""

import json
from dataclasses import replace
from pathlib import Path

from tiny_training import CONFIG, EXECUTION, write_shards
from two_workers import Tiny, train_together


def test_the_worker_that_all_wait_for_is_told_apart(tmp_path: Path) -> None:
    """The second worker's data take 1,000 s a step, by its own clock."""
    shards = write_shards(tmp_path / "shards").path
    config = replace(CONFIG, training=replace(CONFIG.training, steps=5))
    execution = replace(EXECUTION, workers=2, log_every=2)
    slow = Tiny(config, execution, shards, tmp_path / "slow", slow_reader=(1, 1000.0))
    (run,) = train_together([slow])
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 5]
    for line in lines:
        for name in ("data_seconds", "busy_seconds", "peak_bytes"):
            of_rank = [line[f"workers/{name}/{rank}"] for rank in (0, 1)]
            assert line[f"workers/{name}/least"] == min(of_rank) > 0
            assert line[f"workers/{name}/most"] == max(of_rank)
        assert line["workers/data_seconds/most"] == line["workers/data_seconds/1"] >= 1000, "per step"
        assert line["workers/data_seconds/1"] < 1500, "not of several steps"
        assert line["workers/data_seconds/0"] < 1000
        assert line["workers/busy_seconds/most"] < 1000, "nobody computes for so long"


def test_one_worker_has_nobody_to_be_held_against(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards").path
    config = replace(CONFIG, training=replace(CONFIG.training, steps=1))
    (run,) = train_together([Tiny(config, EXECUTION, shards, tmp_path / "alone")], 1)
    assert "workers/" not in run.metrics_path.read_text()
