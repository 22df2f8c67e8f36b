"""Running a function over blocks of work: on Ray Data in a pipeline, in this process in a test.

A block is a JSON value that says what to do (names of files, not their text) and the answer is another; the bulk
goes through files. So memory stays bounded by one block a worker, and results do not depend on how Ray cuts or
orders its blocks.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Progress = Callable[[float, float, str], None]


class Mapper(Protocol):
    """Yields the answers of `function` on every block of work, in any order."""

    def __call__(self, function: Callable[[Any], Any], work: Sequence[Any], /) -> Iterator[Any]: ...


def in_process(function: Callable[[Any], Any], work: Sequence[Any], /) -> Iterator[Any]:
    """One block after the other, here. Blocks and answers pass through JSON as they do on Ray."""
    for block in work:
        yield json.loads(json.dumps(function(json.loads(json.dumps(block)))))


def on_ray_data(function: Callable[[Any], Any], work: Sequence[Any], /) -> Iterator[Any]:
    """Ray Data tasks of one core each, answers as they come. Ray must be running."""
    quiet()
    if not work:
        return

    def run(row: dict[str, Any]) -> dict[str, str]:
        return {"answer": json.dumps(function(json.loads(row["block"])))}

    rows = _rows(work).map(run, num_cpus=1)
    for row in rows.iter_rows():
        yield json.loads(row["answer"])


def on_actors(
    make: Callable[..., Callable[[Any], Any]], arguments: Sequence[Any], work: Sequence[Any], actors: int, cpus: float
) -> Iterator[Any]:
    """Like `on_ray_data`, for a function that is costly to make: `make(*arguments)` runs once in each of `actors`
    workers, which hold `cpus` cores each.

    Keep actors * cpus below the cores of the cluster: Ray Data waits for ever, and silently, when its actors hold
    every core and another of its operators needs one.
    """
    import ray.data

    quiet()
    if not work:
        return

    class Worker:
        def __init__(self, *arguments: Any) -> None:
            self.function = make(*arguments)

        def __call__(self, row: dict[str, Any]) -> dict[str, str]:
            return {"answer": json.dumps(self.function(json.loads(row["block"])))}

    rows = _rows(work).map(
        Worker,
        fn_constructor_args=tuple(arguments),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
    )
    for row in rows.iter_rows():
        yield json.loads(row["answer"])


def _rows(work: Sequence[Any]) -> Any:
    """A dataset with a row for each block of work, each a Ray task of its own."""
    import ray.data

    return ray.data.from_items([{"block": json.dumps(block)} for block in work], override_num_blocks=len(work))


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
