"""Starting Ray quietly and safely, and leaving nothing of it behind."""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.flow.identity import usable_cores
from components.flow.stage_run import write_json

OBJECT_STORE_BYTES = 1 << 30
LEFTOVERS = "ray-session.json"


@dataclass(frozen=True)
class ClusterConfig:
    """Which Ray to use."""

    address: str | None = None
    """None starts a Ray of its own on this machine, on loopback; `auto` or `host:port` joins a running one."""
    dashboard_port: int = 8265
    """Where to look for a free port for the dashboard of a Ray of its own."""


def main_memory_bytes() -> int | None:
    """Memory that this process can have: the machine's, and no more than its container's limit."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # another kernel, or no limit: "max"
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found, default=None)


@dataclass(frozen=True)
class Cluster:
    """A Ray that answers."""

    cpus: float
    largest_node_cpus: float
    gpus: float
    dashboard: str | None
    local: bool


def environment(local: bool) -> dict[str, str]:
    """Ray settings that must stand in the environment before Ray is imported."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
        "RAY_AUTH_MODE": "token",  # Ray's default for local clusters, said aloud so that it does not warn
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # otherwise every report waits up to 2 s
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # logs an error that is none
        "RAY_TRAIN_ENABLE_CONTROLLER_LOGGING": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    if local:
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # every port on 127.0.0.1
    return settings


def this_machine() -> Cluster:
    """What a Ray of its own would have here, found out without starting it."""
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    cores = usable_cores()
    return Cluster(cores, cores, gpus, None, True)


def start(config: ClusterConfig, workspace: Path) -> Cluster:
    """Start or join Ray. ConnectionError says which address did not answer."""
    local = config.address is None
    for name, value in environment(local).items():
        os.environ.setdefault(name, value)
    if local:
        os.environ.pop("RAY_ADDRESS", None)
        sweep_leftovers(workspace)
    import ray

    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if local:
        options |= {
            "address": "local",
            "num_cpus": usable_cores(),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": _free_port(config.dashboard_port),
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        options["address"] = config.address
    try:
        context = ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if local:
            raise ConnectionError(f"Ray did not start on this machine: {error}") from error
        raise ConnectionError(
            f"no Ray answers at cluster.address={config.address}: {error}. Start one (infra/README.md) or leave "
            "cluster.address away to use this machine alone"
        ) from error
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler leaves the run half closed
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)  # Ray writes it readable by everyone
    if local:
        session = dict(context.address_info)["session_dir"]  # type: ignore[attr-defined]
        write_json(workspace / LEFTOVERS, {"driver": os.getpid(), "session": session})
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    url = context.dashboard_url
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    largest = max((node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    return Cluster(have.get("CPU", 0.0), largest, have.get("GPU", 0.0), f"http://{url}" if url else None, local)


def _free_port(first: int) -> int:
    """The first port from `first` on that nobody listens to on loopback."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Ray binds: a closed port counts as free
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ConnectionError(f"no free port for the dashboard from {first} on; set cluster.dashboard_port")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def stop() -> None:
    """Shut Ray down; a second Ctrl-C meanwhile does not leave half of it running."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    handler = None
    with contextlib.suppress(ValueError):  # not in the main thread
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ray.shutdown()
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def sweep_leftovers(workspace: Path) -> int:
    """End what the Ray of a killed driver left running (two of its agents outlive a SIGKILL of the driver).

    Only processes that name that driver's session folder among their arguments are ended; returns how many.
    """
    record = workspace / LEFTOVERS
    try:
        session = json.loads(record.read_text(encoding="utf-8"))["session"]
    except (OSError, ValueError, KeyError):
        return 0
    ended = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().decode(errors="replace")
            if session in arguments and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)
                ended += 1
    record.unlink(missing_ok=True)
    return ended
