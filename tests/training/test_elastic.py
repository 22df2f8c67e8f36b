"""A node of a cluster goes and another comes while training goes on."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import two_nodes
from tiny_training import CONFIG, EXECUTION, metrics_of, write_shards

from components.flow.cluster import environment
from components.flow.stage_run import StageRun
from components.training.stage import pretrain


@pytest.mark.faults
def test_a_lost_node_makes_one_worker_of_two_and_a_new_one_two_again(tmp_path: Path) -> None:
    """About a minute and a half: Ray's picture of its nodes is 20 s old, its wait for a place 10 s long."""
    shards = write_shards(tmp_path / "shards")
    own = {name: value for name, value in os.environ.items() if name not in environment(loopback=True)}
    command = [sys.executable, two_nodes.__file__, str(tmp_path)]
    done = subprocess.run(
        command, env=own | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "workers").read_text().split() == ["2", "1", "2"]
    alone, run = StageRun.local(tmp_path / "alone", EXECUTION), StageRun.local(tmp_path / "run")
    pretrain(CONFIG, shards, alone)
    assert [line["step"] for line in metrics_of(run)] == [1, 4, 8, 12, 16, 20]
    for ours, theirs in zip(metrics_of(run), metrics_of(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    (said,) = (run.directory / "warnings.jsonl").read_text().splitlines()
    assert said.endswith('training went on from step 5"')
