"""Running a function over blocks of work: on Ray Data in a pipeline, in this process in a test.

A block is a JSON value that says what to do (names of files, not their text) and the answer is another; the bulk
goes through files. So memory stays bounded by one block a worker, and results do not depend on how Ray cuts or
orders its blocks.
"""

import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

Progress = Callable[[float, float, str], None]

MOST_BLOCKS = 8
"""Of work in one Ray task: what is lost with a node, and the step of a progress bar."""


class Mapper(Protocol):
    """Yields the answers of `function` on every block of work, in any order."""

    def __call__(self, function: Callable[[Any], Any], work: Sequence[Any], /) -> Iterator[Any]: ...


class BlockError(RuntimeError):
    """A block of work failed on a worker; the worker's traceback is the cause."""


class _WorkerTraceback(Exception):
    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def in_process(function: Callable[[Any], Any], work: Sequence[Any], /) -> Iterator[Any]:
    """One block after the other, here. Blocks and answers pass through JSON as they do on Ray."""
    for block in work:
        yield json.loads(json.dumps(function(json.loads(json.dumps(block)))))


def on_ray_data(function: Callable[[Any], Any], work: Sequence[Any], /, *, workers: int | None = None) -> Iterator[Any]:
    """Ray Data tasks of one core each, at most `workers` at a time, answers as they come. Ray must be running.

    Tasks and not actors: they run in processes that are there already, and cannot hold a core that another operator
    waits for. What is costly to make, a function keeps for the next block in its process.
    """
    import ray
    import ray.data

    if not work:
        return
    quiet()

    def run(row: dict[str, list[str]]) -> list[dict[str, str]]:
        return _answers(function, row["blocks"])

    run.__name__ = name = _name_in_dashboard(function)
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores = max(1, int(there.get("CPU", 1)))
    blocks = iter([json.dumps(block) for block in work])
    tasks = [{"blocks": list(islice(blocks, size))} for size in task_sizes(len(work), min(cores, workers or cores))]
    orders = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    rows = orders.flat_map(run, num_cpus=1, concurrency=min(workers, len(tasks)) if workers else None)
    rows.set_name(name)
    for row in rows.iter_rows():
        yield _read_answer(row)


def task_sizes(blocks: int, at_once: int) -> list[int]:
    """How many blocks of work each task takes, of `at_once` that run side by side: several at first, one at the end.

    Ray Data's loop looks about ten times a second, so a core idles between tasks; tasks that shrink keep that rare
    and still end together (guided self-scheduling: Polychronopoulos & Kuck 1987).
    """
    sizes: list[int] = []
    while blocks > 0:
        sizes.append(max(1, min(MOST_BLOCKS, blocks // (2 * at_once))))
        blocks -= sizes[-1]
    return sizes


def _name_in_dashboard(function: Callable[..., Any]) -> str:
    """What Ray Data's work is called there, its tasks between `FlatMap(` and `)`: `corpus: read block`.

    The engine names a stage's Ray task after its node; outside of a task the function's name stands alone.
    """
    import ray

    task = ray.get_runtime_context().get_task_name()
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", function.__name__).lower()
    return f"{task}: {words}" if task else words


def _answers(function: Callable[[Any], Any], blocks: list[str]) -> list[dict[str, str]]:
    # an error travels as an answer: Ray Data would bury its message under its own frames and advice
    answers: list[dict[str, str]] = []
    for block in blocks:
        try:
            answers.append({"answer": json.dumps(function(json.loads(block))), "error": "", "traceback": ""})
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
            return [*answers, {"answer": "", "error": failed, "traceback": traceback.format_exc()}]
    return answers


def _read_answer(row: dict[str, str]) -> Any:
    if row["error"]:
        raise BlockError(row["error"]) from _WorkerTraceback(row["traceback"])
    return json.loads(row["answer"])


def quiet() -> None:
    """Ray Data says nothing on the terminal; what goes wrong comes as an exception."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def throttled(progress: Progress, seconds: float = 0.5) -> Progress:
    """Pass on at most one report in `seconds`, and always the last (done == total)."""
    last = 0.0

    def report(done: float, total: float, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= seconds:
            last = now
            progress(done, total, text)

    return report
