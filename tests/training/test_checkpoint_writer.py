"""Checkpoints that a thread writes, and workers of which one cannot write."""

import errno
import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from tiny_training import CONFIG, EXECUTION, write_shards
from two_workers import Tiny, train_together

from components.artifacts import Shards
from components.flow.disk import full_disk
from components.flow.stage_run import StageRun
from components.model.transformer import MultiTokenTransformer
from components.training import checkpoint
from components.training.checkpoint import CheckpointWriter
from components.training.config import PretrainConfig
from components.training.optimizer import Optimizer
from components.training.parallel import rank_and_workers
from components.training.stage import pretrain
from components.training.windows import WindowBatches


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


def steps(n: int) -> PretrainConfig:
    return replace(CONFIG, training=replace(CONFIG.training, steps=n))


def contents(run: StageRun) -> dict[str, Any]:
    """Every tensor of every checkpoint with its bytes, by file; a file's own bytes have its notes in any order."""
    found: dict[str, Any] = {}
    for path in sorted((run.work / "checkpoints").glob("step-*/*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                found[f"{path.parent.name}/{path.name}/{name}"] = file.get_tensor(name).numpy().tobytes()
    return found


def digests_are_right(run: StageRun) -> bool:
    for path in (run.work / "checkpoints").glob("step-*"):
        stated = checkpoint.read_state(path)["sha256"]
        if stated != {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in stated}:
            return False
    return True


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_thread_writes_the_files_that_training_would_wait_for(shards: Shards, tmp_path: Path, sharding: str) -> None:
    waited = replace(EXECUTION, workers=2, sharding=sharding, checkpoint_every=3)
    threaded = replace(waited, asynchronous_checkpoints=True)
    runs = train_together(
        [
            Tiny(steps(7), waited, shards.path, tmp_path / "waited"),
            Tiny(steps(7), threaded, shards.path, tmp_path / "threaded"),
        ]
    )
    expected, found = map(contents, runs)
    assert {name.partition("/")[0] for name in expected} == {"step-000006", "step-000007"}
    assert {name.rpartition("/")[2] for name in expected} > {"norm.weight", "mean.norm.weight", "square.norm.weight"}
    assert found == expected
    assert all(map(digests_are_right, runs))


def test_training_goes_on_while_a_checkpoint_is_written(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint, of step 3, is held until the data of the sixth step is asked for: waiting for it first
    would never end. The second begins only when the first is done."""
    events: list[str] = []
    sixth = threading.Event()
    write, batch = CheckpointWriter._write_or_raise, WindowBatches.batch

    def held(self: CheckpointWriter, step: int, *rest: Any) -> None:
        assert step != 3 or sixth.wait(60), "training stood still"
        write(self, step, *rest)
        events.append(f"checkpoint {step} written")

    def noted(self: WindowBatches, asked: int):
        events.append(f"step {asked + 1}")
        if asked == 5:
            sixth.set()
        return batch(self, asked)

    monkeypatch.setattr(CheckpointWriter, "_write_or_raise", held)
    monkeypatch.setattr(WindowBatches, "batch", noted)
    run = StageRun.local(tmp_path / "run", replace(EXECUTION, checkpoint_every=3, asynchronous_checkpoints=True))
    overtaken = pretrain(steps(9), shards, run)
    assert events.index("step 6") < events.index("checkpoint 3 written") < events.index("step 7")
    assert events[-1] == "checkpoint 9 written"
    monkeypatch.undo()
    waited = pretrain(steps(9), shards, StageRun.local(tmp_path / "waited", replace(EXECUTION, checkpoint_every=3)))
    assert overtaken.digest == waited.digest, "what was written is the state at its step"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_told_as_one_and_the_last_checkpoint_stays(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """torch.distributed.checkpoint's own error is no Exception, and no thread's is anybody's."""
    run = StageRun.local(tmp_path, replace(EXECUTION, checkpoint_every=3, asynchronous_checkpoints=asynchronous))
    write = checkpoint.HuggingFaceStorageWriter.write_data

    def full(self: Any, *arguments: Any) -> Any:
        if "step-000006" in str(self.path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *arguments)

    monkeypatch.setattr(checkpoint.HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        pretrain(steps(12), shards, run)
    assert "No space left on device" in str(full_disk(caught.value, run.directory))
    assert [path.name for path in (run.work / "checkpoints").iterdir()] == ["step-000003"]
    monkeypatch.undo()
    whole = pretrain(steps(12), shards, StageRun.local(tmp_path / "whole", EXECUTION))
    assert pretrain(steps(12), shards, run).digest == whole.digest


MOMENTS = ("begin", "write", "list", "digest", "commit")
"""Of writing a checkpoint, in their order; the first and the last are the first worker's alone."""


def break_at(moment: str, victim: int, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    if rank_and_workers()[0] != victim:
        return
    match moment:
        case "begin":
            patch.setattr(checkpoint, "_begin", fail)
        case "write":
            patch.setattr(checkpoint.HuggingFaceStorageWriter, "write_data", fail)
        case "list":
            patch.setattr(Path, "iterdir", fail)
        case "digest":
            patch.setattr(checkpoint, "_sha256", fail)
        case "commit":
            patch.setattr(checkpoint, "_fsync", fail)


def worker(rank: int, store: str, directory: Path) -> None:
    """Two workers write checkpoints, of which every second cannot be written by one of them."""
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model = MultiTokenTransformer(CONFIG.model)
    model.init_weights(1)
    optimizer = Optimizer(model, CONFIG.training)
    said = []
    for asynchronous in (False, True):
        writer = CheckpointWriter(directory / str(asynchronous), 9, asynchronous)
        step = 0
        for moment in MOMENTS:
            for victim in (0,) if moment in ("begin", "commit") else (0, 1):
                with pytest.MonkeyPatch.context() as patch:
                    break_at(moment, victim, patch)
                    try:
                        writer.save(step + 1, model, optimizer, {})
                        writer.wait()
                        outcome = "written"
                    except (OSError, RuntimeError) as error:
                        outcome = str(error)
                said.append(f"{asynchronous} {moment} {victim}: {outcome}")
                step += 2
                writer.save(step, model, optimizer, {})
                writer.wait()
    (directory / f"said-{rank}").write_text("\n".join(said))
    dist.destroy_process_group()


def test_where_one_worker_cannot_write_all_say_so_and_the_next_checkpoint_can(tmp_path: Path) -> None:
    """Nobody waits for one that has given up: this ends."""
    torch.multiprocessing.start_processes(
        worker, (f"file://{tmp_path / 'rendezvous'}", tmp_path), nprocs=2, start_method="spawn"
    )
    for rank in (0, 1):
        lines = (tmp_path / f"said-{rank}").read_text().splitlines()
        assert len(lines) == 2 * 8
        assert all("Read-only file system" in line for line in lines), lines
    for folder in (tmp_path / "False", tmp_path / "True"):
        assert sorted(path.name for path in folder.iterdir()) == [f"step-{step:06d}" for step in range(2, 18, 2)]
