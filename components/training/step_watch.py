"""What code that runs holds in tensors at its peak, and what it sends to other workers: counted, of real tensors or of
simulated ones, which have shapes and no memory.

Live bytes are those of storages, whoever made them; what a kernel needs within itself is not seen.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COLLECTIVES: Mapping[str, str] = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "all_reduce": "all_reduce",
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
}
"""Operations of torch's process groups, by name, and what they are."""
NOTHING_SENT = ("wait_tensor", "_wrap_tensor_autograd")


@dataclass(frozen=True, order=True)
class Collective:
    """An exchange among all workers."""

    kind: str
    """`all_reduce`, `all_gather` or `reduce_scatter`; any other by torch's name of it."""
    payload_bytes: int
    """Bytes of the whole tensor: gathered, it comes out so large at each worker; to be summed, it goes in so large."""

    def sent_bytes(self, workers: int) -> float:
        """Bytes that each worker sends, and receives, where every link is used alike (a ring)."""
        rounds = 2 if self.kind == "all_reduce" else 1
        return rounds * self.payload_bytes * (workers - 1) / workers


@dataclass(eq=False)
class _Storage:
    """A storage while it has a size; a new entry whenever that changes."""

    size: int
    born: int
    gone: int | None = None


class StepWatch(TorchDispatchMode):
    """Watches what runs under `with`: `peak_bytes`, what is in it (`at_peak`), and `collectives` with their numbers.

    `already` names tensors that were there before; others count from the first operation that gives them.
    """

    def __init__(self, already: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.collectives: Counter[Collective] = Counter()
        self.peak_bytes = self._live_bytes = 0
        self._peak_time = self._time = 0
        self._storages: dict[int, tuple[Any, _Storage]] = {}
        self._past: dict[int, list[_Storage]] = {}
        for tensor in already:
            self._see(tensor)

    def __enter__(self) -> "StepWatch":
        self._resize = torch.UntypedStorage.resize_
        watch, resize = self, self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            answer = resize(storage, size)
            watch._resized(storage)
            return answer

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign,assignment]  # no operation says so
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(kind, torch.distributed.tensor.DTensor) for kind in types):
            return NotImplemented  # what it does to the parts comes here again
        answer = func(*args, **(kwargs or {}))
        self._time += 1
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func, args, kwargs, answer)
        for leaf in [answer] if isinstance(answer, Tensor) else tree_leaves(answer):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return answer

    def at_peak(self, kinds: Mapping[str, Iterable[Tensor]]) -> dict[str, int]:
        """Bytes of the peak by kind: of each kind's tensors as far as they were there, and `other`."""
        found = dict.fromkeys([*kinds, "other"], 0)
        found["other"] = self.peak_bytes
        seen: set[int] = set()
        for kind, tensors in kinds.items():
            for tensor in tensors:
                key = _local(tensor).untyped_storage()._cdata
                if key in self._storages and key not in seen:
                    seen.add(key)
                    entries = [*self._past.get(key, []), self._storages[key][1]]
                    there = sum(e.size for e in entries if e.born <= self._peak_time < (e.gone or self._time + 1))
                    found[kind] += there
                    found["other"] -= there
        return found

    def _count(self, func: Any, args: Any, kwargs: Any, answer: Any) -> None:
        name = func._opname
        if name in NOTHING_SENT:
            return
        tensors = [leaf for leaf in tree_leaves((args, kwargs, answer)) if isinstance(leaf, Tensor)]
        payload = max((t.numel() * t.element_size() for t in tensors), default=0)
        self.collectives[Collective(COLLECTIVES.get(name, name), payload)] += 1

    def _see(self, tensor: Tensor) -> None:
        storage = _local(tensor).untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            _, entry = self._storages.pop(key)
            self._past.pop(key, None)
            self._live_bytes -= entry.size

        entry = _Storage(storage.nbytes(), self._time)
        self._storages[key] = weakref.ref(storage, gone), entry
        self._add(entry.size)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._storages or self._storages[key][1].size == storage.nbytes():
            return
        reference, entry = self._storages[key]
        entry.gone = self._time
        self._past.setdefault(key, []).append(entry)
        self._storages[key] = reference, _Storage(storage.nbytes(), self._time)
        self._add(storage.nbytes() - entry.size)

    def _add(self, size: int) -> None:
        self._live_bytes += size
        if self._live_bytes > self.peak_bytes:
            self.peak_bytes, self._peak_time = self._live_bytes, self._time


def _local(tensor: Any) -> Tensor:
    """Of a tensor in parts, this worker's."""
    part: Tensor = tensor._local_tensor if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
    return part
