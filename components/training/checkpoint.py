"""Checkpoints of a running training: `step-NNNNNN/`, written whole or not at all, never pickled.

A checkpoint holds `model.safetensors` and `model.json` (usable as a model by itself), `optimizer.safetensors`
(`mean.<parameter>` and `square.<parameter>`) and `state.json`: counters, and the sha256 of every other file.
It does not depend on the number of workers.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from components.model.transformer import MultiTokenTransformer
from components.model.weights import load_weights, save_model

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
UNFINISHED = "unfinished-"


def save_checkpoint(
    directory: Path,
    step: int,
    model: MultiTokenTransformer,
    optimizer: torch.optim.AdamW,
    counters: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `directory/step-NNNNNN` atomically, then drop all but the newest `keep` checkpoints.

    Where it cannot be written, as on a full disk, those that are there stay and the half-written one goes.
    """
    final = checkpoint_path(directory, step)
    partial = directory / f"{UNFINISHED}{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_model(model, partial)
        save_file(_optimizer_tensors(model, optimizer), partial / OPTIMIZER)
        digests = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
        (partial / STATE).write_text(json.dumps({"step": step, **counters, "sha256": digests}, indent=2) + "\n")
        for path in (*partial.iterdir(), partial):
            _fsync(path)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    _fsync(directory)
    for old in [*list_checkpoints(directory)[:-keep], *directory.glob(f"{UNFINISHED}*")]:
        shutil.rmtree(old)
    return final


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
    """The counters of a checkpoint. ValueError or OSError when it is damaged."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    for name, digest in state["sha256"].items():
        if _sha256(checkpoint / name) != digest:
            raise ValueError(f"{checkpoint / name} is damaged: its sha256 is not the one in {STATE}")
    return state


def latest_intact(directory: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that is whole (None: there is none), and newer ones that are damaged.

    The damaged are put out of the way, to be dropped with the next checkpoint.
    """
    damaged = []
    for path in reversed(list_checkpoints(directory)):
        try:
            read_state(path)
        except (OSError, ValueError, KeyError):
            damaged.append(path)
            path.rename(directory / f"{UNFINISHED}{path.name}")
        else:
            return path, damaged
    return None, damaged


def load_checkpoint(checkpoint: Path, model: MultiTokenTransformer, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """Set weights and optimizer as they were, in place; returns the counters."""
    load_weights(model, checkpoint)
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text())
    tensors = load_file(checkpoint / OPTIMIZER)
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state["step"]), device=parameter.device),
            "exp_avg": tensors[f"mean.{name}"].to(parameter),
            "exp_avg_sq": tensors[f"square.{name}"].to(parameter),
        }
    return state


def _optimizer_tensors(model: MultiTokenTransformer, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"mean.{name}"] = optimizer.state[parameter]["exp_avg"].contiguous()
        tensors[f"square.{name}"] = optimizer.state[parameter]["exp_avg_sq"].contiguous()
    return tensors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
