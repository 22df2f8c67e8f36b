"""Checkpoints of a running training: `step-NNNNNN/`, written whole or not at all, never pickled.

A checkpoint holds safetensors files written through torch.distributed.checkpoint, each worker its part (tensors
`<parameter>`, `mean.<parameter>` and so on for what the optimizer keeps), `model.json`, and `state.json`: counters, and
the sha256 of every other file. It can be gone on from with another number of workers or another sharding: a worker
reads what it needs of whatever file has it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from components.model.config import ModelConfig
from components.model.transformer import MultiTokenTransformer
from components.model.weights import CONFIG
from components.training.optimizer import Optimizer
from components.training.parallel import from_all_workers, own_share_of, rank_and_workers

STATE = "state.json"
UNFINISHED = "unfinished-"
KEPT_BY_OPTIMIZER = {"exp_avg": "mean", "exp_avg_sq": "square"}
"""torch's names of what an optimizer keeps of a parameter, and ours in checkpoints."""


class CheckpointWriter:
    """Writes checkpoints under `directory`, of which the newest `keep` stay.

    Asynchronous, a thread writes a copy in main memory while training goes on; the one before is waited for first.
    Workers agree over a process group of their own, so that this crosses nothing that training sends; where one cannot
    write, all raise at the same step.
    """

    def __init__(self, directory: Path, keep: int, asynchronous: bool) -> None:
        self.directory, self.keep, self.asynchronous = directory, keep, asynchronous
        workers = rank_and_workers()[1]
        self.group = dist.new_group(backend="gloo") if workers > 1 else None
        self.committed = 0
        """Step of the newest checkpoint written whole; known to the first worker."""
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None

    def save(self, step: int, model: MultiTokenTransformer, optimizer: Optimizer, counters: Mapping[str, Any]) -> None:
        """Begin to write the checkpoint of `step`, and end before this returns unless asynchronous.

        Where it cannot be written, as on a full disk, those that are there stay and the half-written one goes; that is
        raised here or, asynchronous, by the next call.
        """
        self.wait()
        tensors = _tensors(model, optimizer)
        if self.asynchronous:
            tensors = {name: _copy_in_main_memory(tensor) for name, tensor in tensors.items()}
        state = {"step": step, **counters, "moved": _steps_moved(model, optimizer)}
        work = threading.Thread(target=self._write, args=(step, tensors, model.config, state), name="checkpoint")
        if self.asynchronous:
            self._thread = work
            work.start()
        else:
            work.run()
            self._raise()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise()

    def _raise(self) -> None:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _write(self, step: int, tensors: dict[str, Tensor], config: ModelConfig, state: dict[str, Any]) -> None:
        try:
            self._write_or_raise(step, tensors, config, state)
        except Exception as error:
            self._fault = error

    def _write_or_raise(
        self, step: int, tensors: dict[str, Tensor], config: ModelConfig, state: dict[str, Any]
    ) -> None:
        first = rank_and_workers()[0] == 0
        final = checkpoint_path(self.directory, step)
        partial = self.directory / f"{UNFINISHED}{final.name}"
        try:
            self._together(lambda: _begin(partial, config) if first else "")
            with _errors_as_they_were():
                writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
                state_dict_saver.save(
                    tensors, storage_writer=writer, process_group=self.group, no_dist=self.group is None
                )
            # the first one's list: another may see one file more, or not yet
            names = json.loads(self._together(lambda: json.dumps(sorted(path.name for path in partial.iterdir())))[0])
            digests: dict[str, str] = {}
            for part in self._together(lambda: json.dumps({n: _sha256(partial / n) for n in own_share_of(names)})):
                digests |= json.loads(part)
            self._together(lambda: self._commit(partial, final, {**state, "sha256": digests}) if first else "")
        except Exception:
            if first:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        if first:
            self.committed = step

    def _together(self, act: Callable[[], str]) -> list[str]:
        """What each worker's `act` returns, by rank. Where one fails all raise, so that nobody waits for it."""
        said, fault = "", None
        try:
            said = act()
        except Exception as error:
            fault = error
        failed = f"{type(fault).__name__}: {fault}" if fault else ""
        answers = [json.loads(text) for text in from_all_workers(json.dumps([said, failed]), self.group)]
        if fault is not None:
            raise fault
        for rank, (_, failed) in enumerate(answers):
            if failed:
                raise RuntimeError(f"worker {rank} could not write its part of a checkpoint: {failed}")
        return [said for said, _ in answers]

    def _commit(self, partial: Path, final: Path, state: dict[str, Any]) -> str:
        """Describe a checkpoint whose files are all there, give it its name and drop older ones."""
        (partial / STATE).write_text(json.dumps(state, indent=2) + "\n")
        for path in (*partial.iterdir(), partial):
            _fsync(path)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _fsync(self.directory)
        for old in [*list_checkpoints(self.directory)[: -self.keep], *self.directory.glob(f"{UNFINISHED}*")]:
            shutil.rmtree(old)
        return ""


def _begin(partial: Path, config: ModelConfig) -> str:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / CONFIG).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    return ""


@contextlib.contextmanager
def _errors_as_they_were() -> Iterator[None]:
    """torch.distributed.checkpoint tells all workers of an error in a BaseException, past whoever looks for a full
    disk; and it warns that one process saves for itself, which is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps stands."""
    return directory / f"step-{step:06d}"


def step_of(checkpoint: Path) -> int:
    """Steps done at a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(directory: Path) -> list[Path]:
    """All checkpoints, oldest first; they may be damaged."""
    return sorted(directory.glob("step-*"), key=step_of)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The counters of a checkpoint. ValueError, KeyError or OSError when it is damaged."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    if state["sha256"].keys() != {path.name for path in checkpoint.iterdir()} - {STATE}:
        raise ValueError(f"{checkpoint} has other files than {STATE} says")
    return state


def latest_intact(directory: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that is whole (None: there is none), and newer ones that are damaged.

    All workers call this together, and each reads its share of the files. The damaged are put out of the way, to be
    dropped with the next checkpoint.
    """
    damaged: list[Path] = []
    found = from_all_workers(json.dumps([path.name for path in list_checkpoints(directory)]))[0]
    for name in reversed(json.loads(found)):
        path = directory / name
        fault = ""
        try:
            for file, digest in own_share_of(sorted(read_state(path)["sha256"].items())):
                if _sha256(path / file) != digest:
                    fault = f"{path / file} is damaged: its sha256 is not the one in {STATE}"
        except (OSError, ValueError, KeyError) as error:
            fault = str(error) or "unreadable"
        if not any(from_all_workers(fault)):
            return path, damaged
        damaged.append(path)
        if rank_and_workers()[0] == 0:
            path.rename(directory / f"{UNFINISHED}{path.name}")
    return None, damaged


def load_checkpoint(checkpoint: Path, model: MultiTokenTransformer, optimizer: Optimizer) -> dict[str, Any]:
    """Set weights and optimizer as they were, in place, each worker its part; returns the counters."""
    state = read_state(checkpoint)
    for name, parameter in model.named_parameters():
        if name in state["moved"]:
            optimizer.remember(parameter, state["moved"][name])
    _load(checkpoint, _tensors(model, optimizer))
    return state


def load_trained_model(checkpoint: Path) -> MultiTokenTransformer:
    """The whole model of a checkpoint, on the CPU, whatever number of workers wrote it."""
    with torch.device("meta"):
        model = MultiTokenTransformer(ModelConfig(**json.loads((checkpoint / CONFIG).read_text())))
    model = model.to_empty(device="cpu")
    model.tie_embeddings()
    _load(checkpoint, {name: parameter.detach() for name, parameter in model.named_parameters()})
    return model


def _load(checkpoint: Path, tensors: dict[str, Tensor]) -> None:
    with _errors_as_they_were():
        reader = HuggingFaceStorageReader(str(checkpoint))
        state_dict_loader.load(tensors, storage_reader=reader, no_dist=rank_and_workers()[1] == 1)


def _tensors(model: MultiTokenTransformer, optimizer: Optimizer) -> dict[str, Tensor]:
    """What a checkpoint holds, by name, as it lives here."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach()
        for theirs, ours in KEPT_BY_OPTIMIZER.items():
            if theirs in (kept := optimizer.kept(parameter)):
                tensors[f"{ours}.{name}"] = kept[theirs]
    return tensors


def _steps_moved(model: MultiTokenTransformer, optimizer: Optimizer) -> dict[str, int]:
    """How often the optimizer has moved each parameter that it has moved: fewer times where heads rested."""
    return {name: n for name, parameter in model.named_parameters() if (n := optimizer.times_moved(parameter))}


def _copy_in_main_memory(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        mesh, placements = tensor.device_mesh, tensor.placements
        local = tensor.to_local().to("cpu", copy=True)
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())
    return tensor.to("cpu", copy=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
