"""What a killed driver's Ray left is ended, and nothing else that has to do with its folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from components.flow.cluster import LEFTOVERS, sweep_leftovers

SLEEP = "import sys, time; file = open(sys.argv[1], sys.argv[2]); print(flush=True); time.sleep(60)"


@pytest.fixture
def background() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            return process

        yield start


def test_only_what_writes_the_logs_of_the_dead_session_is_ended(
    tmp_path: Path, background: Callable[..., subprocess.Popen[bytes]]
) -> None:
    logs = tmp_path / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "agent.log").write_text("line\n")
    other = tmp_path / "ray" / "session_10" / "logs"
    other.mkdir(parents=True)
    agent = background(sys.executable, "-c", SLEEP, str(logs / "agent.log"), "a")
    reader = background(sys.executable, "-c", SLEEP, str(logs / "agent.log"), "r")
    neighbour = background(sys.executable, "-c", SLEEP, str(other / "agent.log"), "a")
    for process in (agent, reader, neighbour):
        assert process.stdout is not None
        process.stdout.readline()
    tail = background("tail", "-f", str(logs / "agent.log"))
    tee = background("tee", "-a", str(logs / "tee.log"))
    while not (logs / "tee.log").exists():
        time.sleep(0.01)
    workspace = tmp_path / "runs"
    workspace.mkdir()
    (workspace / LEFTOVERS).write_text(json.dumps({"driver": 1, "session": str(logs.parent)}))

    with (logs / "own.log").open("w"):  # a driver that looks at the session itself
        assert sweep_leftovers(workspace) == 1
    assert agent.wait(5) == -9
    assert [p.poll() for p in (reader, neighbour, tail, tee)] == [None] * 4
    assert not (workspace / LEFTOVERS).exists()
    assert sweep_leftovers(workspace) == 0


def test_a_driver_killed_while_ray_started_left_its_number_alone(
    tmp_path: Path, background: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    old, other, own = (tmp_path / "ray" / f"session_2026-01-0{end}" for end in ("1_7", "3_77", "3_7"))
    old.mkdir(parents=True)
    (tmp_path / LEFTOVERS).write_text(json.dumps({"driver": 7}))
    agents = []
    for session in (old, other, own):
        session.mkdir(exist_ok=True)
        (session / "agent.log").touch()
        agents.append(background(sys.executable, "-c", SLEEP, str(session / "agent.log"), "a"))
        assert agents[-1].stdout is not None
        agents[-1].stdout.readline()
    os.utime(old, (0, 0))  # of another process that had the number before
    assert sweep_leftovers(tmp_path) == 1
    assert agents[2].wait(5) == -9
    assert [agent.poll() for agent in agents[:2]] == [None, None]


@pytest.mark.parametrize("record", ["", "{", "[]", '{"session": 3}'])
def test_a_broken_record_ends_nothing(tmp_path: Path, record: str) -> None:
    (tmp_path / LEFTOVERS).write_text(record)
    assert sweep_leftovers(tmp_path) == 0
