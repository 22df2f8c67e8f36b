"""The driver is killed, interrupted or doubled; the same command goes on, and nobody sees it in the result."""

import bisect
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import held_commit
import pytest
from fault_runs import Driver, Pipeline, no_process_of, same_results

pytestmark = [pytest.mark.ray, pytest.mark.faults]
SEED = int(os.environ["FAULTS_SEED"])
KILLS = 10
AMID = 4
"""The kill that every run of the tests tries."""

Watch = Callable[[Driver], Driver]


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=pytest.mark.faults(always=n == AMID), id=f"FAULTS_SEED={SEED}-{n}") for n in range(KILLS)],
)
def test_random_kill(timed: tuple[Pipeline, list[float]], pipeline: Pipeline, watch: Watch, number: int) -> None:
    """One kill in each tenth of the time that a run takes, reckoned from the turn of the run before it: a machine is
    not equally fast at all times."""
    reference, turns = timed
    duration = turns[-1] + 0.5
    moment = (number + random.Random(f"{SEED}-{number}").random()) / KILLS * duration
    turn = bisect.bisect_right(turns, moment)
    after = moment - (turns[turn - 1] if turn else 0.0)
    driver = watch(pipeline.start())
    driver.wait_until(lambda: driver.turns() >= turn)
    reached = time.monotonic()
    while driver.turns() == turn and time.monotonic() < reached + after and driver.process.poll() is None:
        time.sleep(0.005)
    assert driver.process.poll() is None, f"it was over before {moment:.1f} s of {duration:.1f} s"
    driver.kill()
    print(f"killed at {moment:.1f} s of {duration:.1f} s, {time.monotonic() - reached:.1f} s after turn {turn}")
    print("last words:", driver.text.splitlines()[-1:], "checkpoints:", len(pipeline.checkpoints()))
    driver.wait()
    again = pipeline.finish(driver)
    print(f"went on for {time.monotonic() - again.started:.1f} s")
    same_results(pipeline, reference)


@pytest.mark.parametrize("window", held_commit.WINDOWS)
def test_kill_inside_a_commit(
    undisturbed: Pipeline, pipeline: Pipeline, watch: Watch, tmp_path: Path, window: str
) -> None:
    inside = tmp_path / "inside"
    driver = watch(pipeline.start(held_commit.__file__, window, "pretrain-n2", str(inside)))
    driver.wait_until(inside.exists)
    driver.kill()
    pipeline.finish(driver)
    same_results(pipeline, undisturbed)


def ray_starts(driver: Driver, pipeline: Pipeline) -> bool:
    return driver.process_called("gcs_server") is not None


def trains(driver: Driver, pipeline: Pipeline) -> bool:
    return pipeline.has_stepped("pretrain", 20)


@pytest.mark.parametrize("moment", [ray_starts, trains])
@pytest.mark.parametrize("pause", [0.05, 0.5])
def test_ctrl_c_twice(
    undisturbed: Pipeline,
    pipeline: Pipeline,
    watch: Watch,
    moment: Callable[[Driver, Pipeline], bool],
    pause: float,
) -> None:
    """As a terminal does it: to every process of the group."""
    driver = watch(pipeline.start())
    driver.wait_until(lambda: moment(driver, pipeline))
    asked = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    time.sleep(pause)
    if driver.process.poll() is None:
        os.killpg(driver.pid, signal.SIGINT)
    code = driver.wait(60)
    print(f"ended after {time.monotonic() - asked:.1f} s with {code}")
    no_process_of(driver)
    print(f"nothing left after {time.monotonic() - asked:.1f} s")
    assert code == 130, driver.text
    assert "the same command goes on" in driver.text
    assert "Traceback" not in driver.text
    pipeline.finish(driver)
    same_results(pipeline, undisturbed)


def test_a_second_run_on_the_workspace_is_refused_by_name(
    undisturbed: Pipeline, pipeline: Pipeline, watch: Watch
) -> None:
    first = watch(pipeline.start())
    first.wait_until(lambda: pipeline.has_stepped("pretrain", 10))
    second = watch(pipeline.start())
    assert second.wait(60) == 2
    assert f"another driver works in {pipeline.workspace} (process {first.pid}: " in second.text
    assert first.process.poll() is None
    assert first.wait() == 0
    no_process_of(first, second)
    same_results(pipeline, undisturbed)
