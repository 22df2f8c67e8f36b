"""Starting Ray quietly and safely, and leaving nothing of it behind."""

import contextlib
import json
import logging
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.flow.address import HEAD_PORT, on_loopback, reach
from components.flow.execute import output_to
from components.flow.identity import usable_cores
from components.flow.stage_run import write_json

OBJECT_STORE_BYTES = 1 << 30
RAY_DASHBOARD_PORT = 8265
LEFTOVERS = "ray-session.json"
KIND = "accelerator_type:"
"""How Ray names a node's kind of GPU among its resources."""
TOKEN_ADVICE = (
    "Every machine of a cluster needs the same token: copy the head's ~/.ray/auth_token here, mode 600, or set "
    "RAY_AUTH_TOKEN_PATH; for a cluster without tokens set RAY_AUTH_MODE=disabled"
)


@dataclass(frozen=True)
class ClusterConfig:
    """Which Ray to use."""

    address: str | None = None
    """None starts a Ray of its own on this machine, on loopback; `auto` or `host:port` joins a running one."""
    dashboard_port: int = RAY_DASHBOARD_PORT
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
    nodes: int = 1
    node_gpus: int = 0
    """GPUs of the node that has the most."""
    node_memory_bytes: int | None = None
    """Main memory of the GPU node (or, without GPUs, node) that has the least."""
    gpu_kinds: tuple[str, ...] = ()
    """What Ray calls the GPUs there."""

    @property
    def memory_bytes(self) -> int | None:
        """Main memory of all nodes, reckoned with the least; None: not known."""
        return self.nodes * self.node_memory_bytes if self.node_memory_bytes else None


def environment(loopback: bool) -> dict[str, str]:
    """Ray settings that must stand in the environment before Ray is imported; `loopback`: all of it on 127.0.0.1."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
        "RAY_AUTH_MODE": "token",  # Ray's default for local clusters, said aloud so that it does not warn
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        # a loaded machine hears of a task's end after its process is gone, and the dashboard would call it failed
        "RAY_gcs_mark_task_failed_on_worker_dead_delay_ms": "20000",
    }
    if loopback:  # without it Ray listens everywhere, and takes 127.0.0.1 for the machine's address in its network
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return settings


def this_machine() -> Cluster:
    """What a Ray of its own would have here, found out without starting it."""
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    cores = usable_cores()
    return Cluster(cores, cores, gpus, None, True)


def start(config: ClusterConfig, workspace: Path, recipe: str) -> Cluster:
    """Start or join Ray; `recipe` names the job in its dashboard. ConnectionError says what did not answer."""
    head = None if config.address is None else reach(config.address)
    for name, value in environment(head is None or on_loopback(head)).items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import ray
    from ray.job_config import JobConfig

    options = {
        "job_config": JobConfig(metadata={"job_name": recipe, "workspace": str(workspace)}),
        "log_to_driver": False,
        "logging_level": "ERROR",
        "configure_logging": True,
    }
    context = _start_own(config, workspace, options) if head is None else _join(head, options)
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _interrupt)  # Ray's own handler leaves the run half closed
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)  # Ray writes it readable by everyone
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    url = context.dashboard_url
    alive: list[dict[str, float]] = [n["Resources"] for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    working = [node for node in alive if node.get("GPU")] or alive
    return Cluster(
        have.get("CPU", 0.0),
        max((node.get("CPU", 0.0) for node in alive), default=0.0),
        have.get("GPU", 0.0),
        f"http://{url}" if url else None,
        head is None,
        nodes=len(working),
        node_gpus=int(max((node.get("GPU", 0.0) for node in alive), default=0.0)),
        node_memory_bytes=int(min((node["memory"] for node in working if "memory" in node), default=0)) or None,
        gpu_kinds=tuple(sorted({key.partition(":")[2] for n in working for key in n if key.startswith(KIND)})),
    )


def _start_own(config: ClusterConfig, workspace: Path, options: Mapping[str, Any]) -> Any:
    """A Ray that ends with this process."""
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    sweep_leftovers(workspace)
    # before there is a session: a kill while Ray starts must leave a trace of it, too
    write_json(workspace / LEFTOVERS, {"driver": os.getpid()})
    try:
        context: Any = ray.init(
            address="local",
            num_cpus=usable_cores(),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            # Ray moves on from its own first port by itself, even when two look for one at once; from no other
            dashboard_port=None if config.dashboard_port == RAY_DASHBOARD_PORT else _free_port(config.dashboard_port),
            object_store_memory=OBJECT_STORE_BYTES,
            **options,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConnectionError(f"Ray did not start on this machine: {error}") from error
    write_json(workspace / LEFTOVERS, {"driver": os.getpid(), "session": context.address_info["session_dir"]})
    return context


def _join(head: str, options: Mapping[str, Any]) -> Any:
    """Connect to a head that answers. ConnectionError with its own words when it does not let this process in."""
    import ray
    from ray.exceptions import RayError

    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # one try: it answers, and will not change its mind
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said.txt"  # the reason stands on standard error alone
        try:
            with output_to(said):
                return ray.init(address=head, runtime_env=shipped(), **options)
        except (ConnectionError, ValueError, RuntimeError, RayError) as error:
            _, _, reason = said.read_text(encoding="utf-8", errors="replace").rpartition("from GCS server: ")
            reason = reason.strip() or str(error).strip()
            if "token" in reason.lower():
                reason = f"{reason.split('. ')[0]}. {TOKEN_ADVICE}"
            else:
                reason += f". Is this the port of a Ray head ({HEAD_PORT} unless it was started with another --port)?"
            raise ConnectionError(f"Ray at cluster.address={head} does not let this run in: {reason}") from None


def shipped() -> dict[str, Any]:
    """The code that goes to the nodes of a cluster, as Ray's runtime environment: this package and nothing around it.

    Stages are functions of it, so a node needs no checkout; and `runs/`, tests and `.git` lie beside it.
    """
    return {"py_modules": [str(Path(__file__).resolve().parents[1])], "excludes": ["__pycache__"]}


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


def ended() -> str | None:
    """What of a Ray of this process's own has ended, in a sentence. Ray itself says so after a minute, if at all."""
    ray = sys.modules.get("ray")
    node: Any = ray._private.worker._global_node if ray else None
    for kind, process in node.dead_processes() if node else ():
        if kind in ("gcs_server", "raylet"):
            killed = process.returncode == -signal.SIGKILL
            cause = "killed, perhaps for want of memory" if killed else f"exit code {process.returncode}"
            return f"Ray's {kind} on this machine has ended ({cause}); its log: {node.get_logs_dir_path()}/{kind}.out"
    return None


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

    They have no argument left that says whose they are, but they keep that session's logs open for writing. Only
    processes of this user that do so and run Python or Ray's own programs are ended; returns how many.
    """
    record = workspace / LEFTOVERS
    ended = 0
    if sessions := _sessions(record):
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
                if int(process.name) != os.getpid() and _serves(process, sessions):
                    os.kill(int(process.name), signal.SIGKILL)
                    ended += 1
    with contextlib.suppress(OSError):  # not there, or on a disk that cannot be written any more
        record.unlink()
    return ended


def _sessions(record: Path) -> list[Path]:
    """The folder of the Ray session that a record names. A driver that was killed while Ray started named none: those
    that carry its process number and are no older than the record."""
    try:
        noted = json.loads(record.read_text(encoding="utf-8"))
        if "session" in noted:
            return [Path(noted["session"])]
        from ray._common.utils import get_default_ray_temp_dir

        begun = record.stat().st_mtime
        place = Path(get_default_ray_temp_dir())  # type: ignore[no-untyped-call]
        folders = place.glob(f"session_*_{int(noted['driver'])}")
        return [folder for folder in folders if folder.stat().st_mtime >= begun]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _serves(process: Path, sessions: list[Path]) -> bool:
    """Whether a process, as its folder in /proc, is one of the Ray sessions in these folders."""
    if process.stat().st_uid != os.geteuid():
        return False
    program = (process / "exe").readlink().name
    if not program.startswith("python") and program not in ("raylet", "gcs_server"):
        return False
    files = [*(process / "fd").iterdir()]
    return any(f.lstat().st_mode & stat.S_IWUSR and any(map(f.readlink().is_relative_to, sessions)) for f in files)
