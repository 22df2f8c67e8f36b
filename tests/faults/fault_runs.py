"""The whole pipeline on a tiny recipe, in a process that may be killed, and what must be true of it afterwards."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shards.reader import TokenReader

PROGRAM = Path(__file__).parents[2] / "pipelines" / "full.py"
SECONDS = 240
"""A run takes one or two minutes on two cores; what takes longer than this hangs."""

TINY = [
    "corpus=files",
    "shards.shard_tokens=40000",
    "model.dim=64",
    "model.layers=4",
    "model.n_attention_heads=2",
    "future_tokens=[1,2]",
    "training.steps=120",
    "training.warmup_steps=2",
    "cluster.training.checkpoint_every=10",
    "finetunes=[[2,1]]",
    "finetune.steps=4",
    "finetune.warmup_steps=1",
    "evaluation.line_items=4",
    "evaluation.body_items=2",
    "evaluation.heldout_tokens=1024",
    "decoding.prompts=4",
    "decoding.batches=[1]",
    "decoding.repeats=1",
    "decoding.new_tokens=8",
    "decoding.heldout_tokens=512",
]
TWO_WORKERS = ("cluster.training.workers=2", "until=pretrain-n2")
STAGES = ("collect", "train_tokenizer", "tokenize", "draw_pairs", "pretrain", "finetune", "evaluate")
"""Stages whose artifacts must be equal, digest for digest; the others measure times."""


@dataclass
class Driver:
    """One invocation, the leader of a session of processes: all that it starts belongs to that session."""

    process: subprocess.Popen[str]
    output: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def turns(self) -> int:
        """How far it is: lines that say that Ray is there, that a stage begins or that it is done."""
        return len(re.findall(r"(?m)^Ray dashboard|: running$|: done in ", self.text))

    def wait_until(self, what: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """What a condition gives as soon as it holds; AssertionError when the run ends before, or time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            assert self.process.poll() is None, f"it ended before:\n{self.text}"
            time.sleep(0.005)
        raise AssertionError(f"it did not come to it in {seconds} s:\n{self.text}")

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit code. AssertionError when it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {seconds} s:\n{self.text}") from None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def processes(self) -> dict[int, str]:
        """What lives of its session: number and command."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (place / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
        return found

    def process_called(self, name: str) -> int | None:
        """The one process of the session whose command contains a name."""
        return next((number for number, command in self.processes().items() if name in command), None)


@dataclass(frozen=True)
class Pipeline:
    """The tiny recipe in a workspace."""

    workspace: Path
    sources: Path
    logs: Path
    """Where what it prints goes, a file for each invocation."""
    overrides: tuple[str, ...] = ()

    def start(self, *before: str) -> Driver:
        """The command, in the background; `before` is a program that runs it, with arguments of its own."""
        self.logs.mkdir(parents=True, exist_ok=True)
        output = self.logs / f"output-{len(list(self.logs.iterdir()))}.txt"
        places = f"corpus.path={self.sources}", f"workspace={self.workspace}"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, *before, str(PROGRAM), *places, *TINY, *self.overrides],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=hear_interrupts,
            )
        return Driver(process, output)

    def timed(self) -> list[float]:
        """The command, undisturbed: seconds from its start to each of its turns."""
        driver, turns = self.start(), []
        while driver.process.poll() is None:
            turns += [time.monotonic() - driver.started] * (driver.turns() - len(turns))
            time.sleep(0.02)
        assert driver.wait() == 0, driver.text
        no_process_of(driver)
        return turns

    def finish(self, *disturbed: Driver) -> Driver:
        """The command, which must succeed and leave no process, nor any of earlier invocations."""
        driver = self.start()
        try:
            code = driver.wait()
            assert code == 0, f"exit code {code}:\n{driver.text}"
            no_process_of(driver, *disturbed)
        finally:
            clear(driver)
        return driver

    def has_stepped(self, stage: str, step: int) -> bool:
        """Whether a training in hand has committed so many steps."""
        for path in self.workspace.glob(f"store/{stage}/*/work/committed.json"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(path.read_text())["done"] >= step:
                    return True
        return False

    def checkpoints(self) -> list[Path]:
        """Those that trainings in hand could go on from, the oldest first."""
        return sorted(self.workspace.glob("store/*/*/work/checkpoints/step-*"), key=lambda path: path.name)

    def manifests(self) -> dict[str, Any]:
        """By node, what was committed for the latest run."""
        record = json.loads((self.workspace / "latest" / "run.json").read_text())
        places = {name: self.workspace / "store" / at["stage"] / at["key"] for name, at in record["stages"].items()}
        return {name: json.loads((place / "manifest.json").read_text()) for name, place in places.items()}

    def weights(self) -> dict[str, str]:
        """sha256 of the weights of every model, by node."""
        files = (self.workspace / "latest").glob("*/model.safetensors")
        return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def digests(self) -> dict[str, str]:
        """By node, of what must come out equal in every run."""
        return {n: m["artifact"]["digest"] for n, m in self.manifests().items() if m["stage"] in STAGES}

    def results(self) -> Any:
        """`results.json` without times."""
        found = json.loads((self.workspace / "latest" / "report" / "results.json").read_text())
        kept = {name: found[name] for name in ("recipe", "seeds", "corpus", "tokenizer", "shards", "pairs")}
        for name, timed in (
            ("models", {"training_seconds"}),
            ("finetuned", {"training_seconds"}),
            ("decoding", {"r", "speedup", "speedup_low", "speedup_high", "tokens_per_second", "row_seconds"}),
        ):
            kept[name] = [{key: value for key, value in row.items() if key not in timed} for row in found[name]]
        return kept


def hear_interrupts() -> None:
    """What a script starts in its background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def no_process_of(*drivers: Driver) -> None:
    """Nothing that these drivers started lives; what ends by itself has some seconds for it."""
    end = time.monotonic() + 20
    while alive := {number: command for driver in drivers for number, command in driver.processes().items()}:
        assert time.monotonic() < end, alive
        time.sleep(0.1)


def same_results(ours: Pipeline, undisturbed: Pipeline) -> None:
    """Bit-equal weights, equal digests and numbers; and the store holds what its manifests say, no more."""
    assert ours.weights() == undisturbed.weights() != {}
    assert ours.digests() == undisturbed.digests()
    if (undisturbed.workspace / "latest" / "report").exists():
        assert ours.results() == undisturbed.results()
    for node, manifest in ours.manifests().items():
        place = ours.workspace / "store" / manifest["stage"] / manifest["key"]
        assert sorted(p.name for p in place.iterdir()) == sorted([manifest["attempt"], "manifest.json"]), node
    for split in ("train", "validation", "test"):
        TokenReader(ours.workspace / "latest" / "shards", split).verify()
    for node in ours.weights():
        lines = (ours.workspace / "latest" / node / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps)), f"{node} has lost or doubled steps: {steps}"


def clear(*drivers: Driver) -> None:
    """End what a test left running."""
    for driver in drivers:
        for number in driver.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        driver.wait()


def free_port() -> int:
    """One that nobody listens to on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
