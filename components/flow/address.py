"""The address of a Ray to join: found, and seen to answer, before Ray is asked.

Ray itself tries a silent address for a quarter of an hour.
"""

import os
import socket
from pathlib import Path

ANSWER_SECONDS = 5.0
HEAD_PORT = 6379
ALONE = "or leave cluster.address away to use this machine alone"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
SETTINGS_FRAME = 4


def reach(address: str) -> str:
    """`auto` or `host:port` as the host:port of a server that answers. ConnectionError says what is wrong with it."""
    host, port = find(address)
    _check(address, host, port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def on_loopback(head: str) -> bool:
    """Whether an address means this machine as itself, not by its name in a network."""
    return head.startswith(("localhost:", "127.", "[::1]:"))


def find(address: str) -> tuple[str, int]:
    """Host and port of `auto` or `host:port`. ConnectionError says what was looked for, or what is allowed.

    `auto` is RAY_ADDRESS (set inside a job of a cluster), else the head that `ray start` started on this machine;
    never, as with Ray's own `auto`, the Ray of some other run.
    """
    asked = f"cluster.address={address}"
    if address == "auto":
        found = os.environ.get("RAY_ADDRESS", "")
        asked += f" is RAY_ADDRESS={found}, which"
        if not found:
            temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
            record = Path(temporary) / "ray" / "ray_current_cluster"
            try:
                found = record.read_text(encoding="utf-8").strip()
            except OSError:
                raise ConnectionError(
                    f"cluster.address=auto finds no Ray: `ray start` has started none on this machine ({record} is not "
                    f"there). Start one (infra/README.md), give cluster.address=HOST:{HEAD_PORT}, {ALONE}"
                ) from None
            asked = f"cluster.address=auto is {found}, as {record} says, which"
        address = found
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConnectionError(
            f"{asked} is no address of a Ray head: give HOST:PORT, such as 10.0.0.5:{HEAD_PORT}, or auto"
        )
    return host, int(port)


def _check(address: str, host: str, port: int) -> None:
    """ConnectionError unless a server that may be Ray's answers there within seconds.

    Ray's head speaks gRPC, so HTTP/2, in which both sides begin with a frame of settings.
    """
    silent = f"cluster.address={address}: nothing answers at {host}:{port}"
    start = f"Start a head (infra/README.md), see that its port is open to this machine, {ALONE}"
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.sendall(HTTP2_PREFACE)
            frame = connection.recv(9)
    except socket.gaierror:
        raise ConnectionError(f"cluster.address={address}: no host is called {host}. Give another, {ALONE}") from None
    except TimeoutError:
        raise ConnectionError(f"{silent} within {ANSWER_SECONDS:g} s. {start}") from None
    except OSError as error:
        raise ConnectionError(f"{silent} ({error.strerror}). {start}") from None
    if len(frame) < 4 or frame[3] != SETTINGS_FRAME:
        raise ConnectionError(
            f"cluster.address={address}: what answers at {host}:{port} is no Ray head. Give the head's own port "
            f"({HEAD_PORT} unless it was started with another --port), not its dashboard's or its client server's"
        )
