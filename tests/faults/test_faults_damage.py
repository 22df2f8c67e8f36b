"""Files of the store are cut in half or changed while nobody looks."""

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fault_runs import TWO_WORKERS, Driver, Pipeline, no_process_of, same_results

pytestmark = [pytest.mark.ray, pytest.mark.faults]
Watch = Callable[[Driver], Driver]


def cut_in_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def copied(undisturbed: Pipeline, pipeline: Pipeline) -> Pipeline:
    """The store of a run that is done, without what it made of its shards."""
    shutil.copytree(undisturbed.workspace, pipeline.workspace, symlinks=True)
    for stage in ("pretrain", "finetune", "evaluate", "evaluate_finetuned", "benchmark_decoding", "write_report"):
        shutil.rmtree(pipeline.workspace / "store" / stage)
    return pipeline


def test_the_newest_checkpoint_is_cut_in_half(undisturbed: Pipeline, pipeline: Pipeline, watch: Watch) -> None:
    driver = watch(pipeline.start())
    driver.wait_until(lambda: pipeline.has_stepped("pretrain", 30))
    driver.kill()
    driver.wait()
    no_workers(driver)
    newest = pipeline.checkpoints()[-1]
    cut_in_half(next(newest.glob("*.safetensors")))
    again = pipeline.finish(driver)
    before = int(newest.name.removeprefix("step-")) - 10
    assert f"checkpoint {newest} is damaged; going on from step {before} instead" in again.text
    same_results(pipeline, undisturbed)


def no_workers(driver: Driver) -> None:
    """Stage processes of a killed driver end by themselves."""
    end = time.monotonic() + 60
    while [c for c in driver.processes().values() if c.startswith("ray::") and "Agent" not in c]:
        assert time.monotonic() < end, driver.processes()
        time.sleep(0.1)


def test_a_manifest_is_cut_in_half(undisturbed: Pipeline, pipeline: Pipeline) -> None:
    """The stage runs again where something needs it; as it comes out the same, what was made of it counts still."""
    shutil.copytree(undisturbed.workspace, pipeline.workspace, symlinks=True)
    shutil.rmtree(pipeline.workspace / "store" / "write_report")
    place = (pipeline.workspace / "latest" / "pretrain-n2").resolve().parent
    cut_in_half(place / "manifest.json")
    again = pipeline.finish()
    print(again.text)
    ran = set(re.findall(r"(?m)^(.*): running$", again.text))
    assert ran == {"n=2 pretrain", "report"}
    same_results(pipeline, undisturbed)


@pytest.mark.parametrize(
    ("split", "damage", "workers", "stage"),
    [
        ("train", cut_in_half, 1, "pretrain"),
        ("train", flip_a_byte, 1, "pretrain"),
        ("train", flip_a_byte, 2, "pretrain"),
        ("test", flip_a_byte, 1, "evaluate"),
    ],
)
def test_a_shard_is_damaged(
    undisturbed: Pipeline,
    undisturbed_pair: Pipeline,
    copied: Pipeline,
    watch: Watch,
    split: str,
    damage: Callable[[Path], None],
    workers: int,
    stage: str,
) -> None:
    """It is named before it is used, once; what the message advises mends it."""
    if workers > 1:
        copied = replace(copied, overrides=TWO_WORKERS)
    shard = max((copied.workspace / "latest" / "shards" / split).resolve().glob("*.arrow"))
    damage(shard)
    driver = watch(copied.start())
    trainers: set[int] = set()
    while driver.process.poll() is None:
        trainers |= {number for number, command in driver.processes().items() if "RayTrainWorker" in command}
        time.sleep(0.1)
    assert driver.wait() == 1
    assert len(trainers) == (workers if workers > 1 else 0), "tried again what can only fail again"
    no_process_of(driver)
    print(re.findall(r"(?m)^failed .*", driver.text))
    assert f"shard {shard}" in driver.text
    assert not [*copied.workspace.glob(f"store/{stage}/*/work/checkpoints/step-*")]
    assert not [*copied.workspace.glob(f"store/{stage}/*/manifest.json")]
    advised = re.search(r"delete the folder (\S+) and give the same command again", driver.text)
    assert advised, driver.text
    shutil.rmtree(advised[1])
    copied.finish(driver)
    same_results(copied, undisturbed_pair if workers > 1 else undisturbed)
