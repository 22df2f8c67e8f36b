"""A small corpus laid out as shards and pairs, and trainings on it; also run as a program, to be killed.

python tiny_training.py DIRECTORY data|checkpoint STEP [CHANGES]: killed at that step; CHANGES of how it runs are JSON.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.artifacts import Pairs, Shards
from components.flow.stage_run import StageRun
from components.model.config import ModelConfig
from components.training.checkpoint import checkpoint_path
from components.training.config import FinetuneConfig, PretrainConfig, TrainingConfig, TrainingExecution
from components.training.loop import Batch
from components.training.parallel import rank_and_workers
from components.training.stage import _windows, pretrain
from components.training.windows import WindowBatches

if TYPE_CHECKING:
    import pytest

VOCABULARY = 258
CONFIG = PretrainConfig(
    ModelConfig(dim=32, layers=4, n_attention_heads=4, vocabulary_size=VOCABULARY, n_future_tokens=2),
    TrainingConfig(steps=20, batch_tokens=256, context_length=32, warmup_steps=4, learning_rate=5e-3),
)
FINETUNE = FinetuneConfig(n_future_tokens=1, steps=6, batch_tokens=256, context_length=64, warmup_steps=2)
EXECUTION = TrainingExecution(checkpoint_every=10, log_every=4)


def write_shards(directory: Path, n_tokens: int = 6000) -> Shards:
    """Sums such as `7+12=19;` in two shard files, as `components.shards` lays them out."""
    draw = random.Random(0)
    terms = ((draw.randrange(50), draw.randrange(50)) for _ in range(n_tokens))
    tokens = np.frombuffer("".join(f"{a}+{b}={a + b};" for a, b in terms).encode(), np.uint8)[:n_tokens]
    shards = []
    parts = [("train", part) for part in np.array_split(tokens.astype(np.uint16), 2)]
    parts.append(("validation", tokens[: n_tokens // 10].astype(np.uint16)[::-1].copy()))
    for i, (split, part) in enumerate(parts):
        path = directory / split / f"shard-{i:05d}.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"tokens": pa.array(part)})
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = str(path.relative_to(directory))
        shards.append(
            {"file": file, "split": split, "tokens": len(part), "documents": 1, "sha256": digest}
            | {"bytes": path.stat().st_size}
        )
    tokens_of = {"train": n_tokens, "validation": n_tokens // 10}
    counts = {"tokens": tokens_of, "documents": {"train": 2, "validation": 1}, "text_bytes": tokens_of}
    facts = {"vocabulary_size": VOCABULARY, "bos_id": 256, "eos_id": 257, "dtype": "uint16", "shards": shards}
    (directory / "shards.json").write_text(json.dumps(counts | facts))
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text('{"kind": "bytes", "vocabulary_size": 258}')
    return Shards(directory, "digest", VOCABULARY, counts["tokens"], counts["documents"], counts["text_bytes"])


def open_shards(directory: Path) -> Shards:
    facts = json.loads((directory / "shards.json").read_text())
    return Shards(directory, "digest", VOCABULARY, facts["tokens"], facts["documents"], facts["text_bytes"])


def write_pairs(directory: Path, rows: list[tuple[str, str]]) -> Pairs:
    directory.mkdir(parents=True)
    columns = {"id": [str(i) for i in range(len(rows))], "prompt": [p for p, _ in rows]}
    pq.write_table(pa.table(columns | {"completion": [c for _, c in rows]}), directory / "train.parquet")
    return Pairs(directory, "digest", {"train": len(rows)})


def metrics_of(run: StageRun) -> list[dict[str, float]]:
    """What was logged, without what a clock or the machine says."""
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("speed/", "memory/", "workers/"))} for line in lines]


class Stopped(Exception):
    """What an unreadable disk would raise."""


def stop_at(patch: "pytest.MonkeyPatch", step: int) -> None:
    """Trainings in this process raise Stopped when they ask for the data of a step, counted from 0."""
    batch = WindowBatches.batch

    def failing(self: WindowBatches, asked: int) -> Batch:
        if asked == step:
            raise Stopped
        return batch(self, asked)

    patch.setattr(WindowBatches, "batch", failing)


def killed_at(moment: str, step: int, directory: Path, **execution: Any) -> None:
    """A training in a process of its own that gets SIGKILL (`train_and_die`)."""
    command = [sys.executable, __file__, str(directory), moment, str(step), json.dumps(execution)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def train_and_die(directory: Path, moment: str, step: int, execution: TrainingExecution) -> None:
    """The training of CONFIG on the shards under `directory`, ended by SIGKILL when it asks for the `data` of a step,
    counted from 0, or when the `checkpoint` after so many steps is about to be given its name."""
    torch.set_num_threads(1)
    batch, rename = WindowBatches.batch, Path.rename

    def batch_or_death(self: WindowBatches, asked: int) -> Batch:
        if (moment, asked) == ("data", step):
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, asked)

    def rename_or_death(self: Path, target: Path) -> Path:
        if (moment, target.name) == ("checkpoint", checkpoint_path(target.parent, step).name):
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    WindowBatches.batch = batch_or_death  # type: ignore[method-assign]
    Path.rename = rename_or_death  # type: ignore[method-assign]
    pretrain(CONFIG, open_shards(directory / "shards"), StageRun.local(directory / "run", execution))


def lose_second_worker(
    directory: Path, config: PretrainConfig, steps: tuple[int, ...], device: torch.device
) -> WindowBatches:
    """The data of `directory`; the worker of rank 1 is killed when it asks for one of `steps` the first time."""
    batches = _windows(directory / "shards", config, device)
    batch = batches.batch

    def batch_or_death(asked: int) -> Batch:
        marker = directory / f"killed-at-{asked}"
        if asked in steps and rank_and_workers()[0] == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(asked)

    batches.batch = batch_or_death  # type: ignore[method-assign]
    return batches


def with_execution(run: StageRun, **changes: int) -> StageRun:
    return replace(run, execution=replace(run.execution, **changes))


if __name__ == "__main__":
    changes = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    train_and_die(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), replace(EXECUTION, **changes))
