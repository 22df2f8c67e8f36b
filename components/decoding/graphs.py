"""Steps as captured CUDA graphs: one launch instead of hundreds.

A step is captured when it comes a second time with everything the same that is not a tensor's content; the first time
it runs as it is, which also warms up the libraries' workspaces. What a step allocates lies in a pool that all graphs
share, so its result is good until the next step.
"""

import time
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

MOST_GRAPHS = 32
"""Graphs that are kept, those used last: each holds some MB."""


class Graphs:
    """Captured steps by what they depend on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, tuple[Any, Tensor, Any]] = {}
        self._pool: Any = None
        self._works = True
        self.seconds = 0.0
        """Spent on capturing."""

    def run(
        self,
        shape: Hashable,
        step: Callable[[], Tensor],
        held: Callable[[], Any],
        take_back: Callable[[], Any],
    ) -> tuple[Tensor, bool]:
        """What the step returns, and whether it was replayed, so that Python has not seen it.

        held: what has to live as long as the graph does. take_back: undoes what Python noted in a step that could not
        be captured; all steps then run as they are, with a warning.
        """
        if (known := self._graphs.pop(shape, None)) is not None:
            self._graphs[shape] = known
            self._replay(known[0])
            return known[1], True
        if shape not in self._seen or not self._works:
            self._seen.add(shape)
            return step(), False
        began = time.perf_counter()
        try:
            graph, made = self._capture(step)
        except RuntimeError as error:
            self._works = False
            self._graphs.clear()
            warnings.warn(f"a step could not be captured as a CUDA graph, so steps take longer: {error}", stacklevel=2)
            take_back()
            return step(), False
        if len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[shape] = graph, made, held()
        self.seconds += time.perf_counter() - began
        self._replay(graph)
        return made, False

    def _capture(self, step: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        with torch.cuda.device(self._device):
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # other threads may go on allocating meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                made = step()
            self._pool = graph.pool()
        return graph, made

    def _replay(self, graph: Any) -> None:
        with torch.cuda.device(self._device):
            graph.replay()
