"""Steps as captured CUDA graphs: one launch instead of hundreds.

A step is captured when it comes a second time with everything the same that is not a tensor's content; the first time
it runs as it is, which also warms up the libraries' workspaces. What a step allocates lies in a pool that all graphs
share, so its result is good until the next step.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 64
"""Graphs that are kept: each holds some MB, and shapes that come up more often than that do not come back."""


class Graphs:
    """Captured steps by what they depend on."""

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[Any, Tensor, Any]] = {}
        self._pool: Any = None

    def run(self, shape: Hashable, step: Callable[[], Tensor], state: Callable[[], Any]) -> tuple[Tensor, Any]:
        """What the step returns, and, where it was replayed and Python has not seen it, what `state()` was after it
        when it was captured; else None."""
        if (known := self._graphs.get(shape)) is not None:
            graph, made, after = known
            graph.replay()
            return made, after
        if shape not in self._seen or len(self._graphs) >= MOST_GRAPHS:
            self._seen.add(shape)
            return step(), None
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            made = step()
        self._pool = graph.pool()
        self._graphs[shape] = graph, made, state()
        graph.replay()
        return made, None
