"""A disk that is full, or cannot be written; a small file system in memory stands for it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import held_commit
import pytest
from fault_runs import Driver, Pipeline, no_process_of, same_results

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system"),
]
Watch = Callable[[Driver], Driver]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """300 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return ballast


def collects(pipeline: Pipeline) -> bool:
    return any(pipeline.workspace.glob("store/collect/*/attempt-*"))


def trains(pipeline: Pipeline) -> bool:
    return pipeline.has_stepped("pretrain", 20)


@pytest.mark.parametrize("moment", [collects, trains])
def test_the_disk_is_full(
    undisturbed: Pipeline, pipeline: Pipeline, disk: Path, watch: Watch, moment: Callable[[Pipeline], bool]
) -> None:
    pipeline = replace(pipeline, workspace=disk / "runs")
    driver = watch(pipeline.start())
    driver.wait_until(lambda: moment(pipeline))
    ballast = fill(disk)
    assert driver.wait() == 1
    no_process_of(driver)
    print(driver.text[driver.text.index("running") :])
    assert "No space left on device (0 B free at " in driver.text
    assert "Traceback" not in driver.text
    checkpoints = {path.name for path in pipeline.workspace.glob("store/pretrain/*/work/checkpoints/*")}
    assert not [name for name in checkpoints if not name.startswith("step-")]
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
    again = pipeline.finish(driver)
    if moment is trains:
        assert "n=1 pretrain    continue" in again.text
        assert "is damaged" not in again.text
    same_results(pipeline, undisturbed)


def test_the_disk_is_full_when_the_driver_commits(
    undisturbed: Pipeline, pipeline: Pipeline, disk: Path, watch: Watch, tmp_path: Path
) -> None:
    pipeline = replace(pipeline, workspace=disk / "runs")
    inside = tmp_path / "inside"
    driver = watch(pipeline.start(held_commit.__file__, "half a manifest", "pretrain-n2", str(inside)))
    driver.wait_until(inside.exists)
    ballast = fill(disk)
    inside.unlink()
    assert driver.wait() == 1
    no_process_of(driver)
    print(driver.text[driver.text.index("pretrain: running") :])
    assert f"Ended: No space left on device (0 B free at {pipeline.workspace}" in driver.text
    assert "Traceback" not in driver.text
    ballast.unlink()
    pipeline.finish(driver)
    same_results(pipeline, undisturbed)


def test_the_disk_cannot_be_written(undisturbed: Pipeline, pipeline: Pipeline, disk: Path, watch: Watch) -> None:
    pipeline = replace(pipeline, workspace=disk / "runs")
    shutil.copytree(undisturbed.workspace, pipeline.workspace, symlinks=True)
    shutil.rmtree(pipeline.workspace / "store" / "write_report")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    driver = watch(pipeline.start())
    assert driver.wait(60) == 2
    assert f"workspace={pipeline.workspace} cannot be written: Read-only file system; give another" in driver.text
    assert "Traceback" not in driver.text
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    pipeline.finish(driver)
    same_results(pipeline, undisturbed)
