"""Identity of a node: what must be equal for two results to be interchangeable.

The recipe key is known before anything runs; the content key puts the digests of the inputs' contents in place of
their recipe keys, so that a rerun that makes equal bytes stops the wave of reruns there.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.flow.cost import Capacity
from components.flow.node import Node, Several

KEY_LENGTH = 20


def canonical(value: Any, where: str = "config") -> Any:
    """`value` as JSON values in a form that is the same in every process and version.

    Raises TypeError for what has no such form (a set, a function, a path, NaN), naming where it stands.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{where}: a mapping in an identity needs text keys")
        return {key: canonical(value[key], f"{where}.{key}") for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(
        f"{where} is {value!r} of type {type(value).__name__}: it has no stable identity. Use numbers, text, "
        "booleans, None, lists, mappings or dataclasses of these"
    )


def _key(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def usable_cores() -> int:
    """Cores that this process may run on, and no more than its container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # another kernel, or no quota: "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def gpu_models(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The models of NVIDIA GPU that this machine has, each once, as the kernel's driver names them; without torch."""
    models = set()
    for information in driver.glob("*/information"):
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, model = line.partition(":")
            if name == "Model":
                models.add(model.strip())
    return sorted(models)


def machine() -> dict[str, Any]:
    """Processor, cores usable by this process, GPUs and the torch version: what a measured time depends on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    found = {"processor": model, "cores": usable_cores(), "torch": importlib.metadata.version("torch")}
    return found | ({"gpus": gpus} if (gpus := gpu_models()) else {})


@dataclasses.dataclass(frozen=True)
class Identity:
    """The part of a node's identity that does not come from its inputs, as JSON values."""

    stage: str
    version: int
    config: Any
    external: Any
    machine: Any

    def key(self, inputs: Any) -> str:
        """The recipe key (`inputs` are recipe keys) or the content key (`inputs` are digests)."""
        return _key([dataclasses.asdict(self), inputs])


def measured_on(node: Node[Any], capacity: Capacity | None) -> dict[str, Any]:
    """The machine that a node's times will be those of: this one, or a node of the cluster as it is declared, since a
    plan is made before that answers."""
    if capacity is None or capacity.here:
        return machine()
    device = capacity.device(node.resources.gpus > 0)
    cores = {} if node.resources.gpus else {"cores": capacity.cpus}
    return {"device": device.name, **cores, "torch": importlib.metadata.version("torch")}


def identity_of(node: Node[Any], capacity: Capacity | None = None) -> Identity:
    """Evaluates `external` (which may look at files): call once per node and invocation. `capacity`: what it is to run
    on; None: this machine."""
    stage = node.stage
    return Identity(
        stage.name,
        stage.version,
        canonical(node.config),
        canonical(stage.external(node.config), "external") if stage.external else None,
        measured_on(node, capacity) if stage.measures_time else None,
    )


def arranged(node: Node[Any], by_name: Mapping[str, Any]) -> list[Any]:
    """`by_name[input]` for every input of `node`, groups kept as lists."""
    return [
        [by_name[n.name] for n in item.nodes] if isinstance(item, Several) else by_name[item.name]
        for item in node.inputs
    ]


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Fields that differ between two JSON values, as `path old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[str] = []
        for key in sorted({*old, *new}):
            found += differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        return found
    if isinstance(old, list) and isinstance(new, list) and max(len(old), len(new)) > 4:
        gone, come = [item for item in old if item not in new], [item for item in new if item not in old]
        if gone or come:
            words = [
                f"{len(items)} {what} ({_short(items[0])}{', …' if len(items) > 1 else ''})"
                for items, what in ((gone, "gone"), (come, "new"))
                if items
            ]
            return [f"{where}: {', '.join(words)}"]
    return [] if old == new else [f"{where} {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"
