"""Addresses of a Ray to join: every wrong one is refused in bounded time, in words that say what to do."""

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from components.flow import address
from components.flow.address import find, on_loopback, reach


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"nothing answers at 127.0.0.1:{port} \(Connection refused\)"):
        reach(f"127.0.0.1:{port}")


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "ANSWER_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConnectionError, match=r"nothing answers at .* within 0.2 s.*cluster.address away"):
            reach(f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_web_server_such_as_the_dashboard() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(ConnectionError, match=r"is no Ray head\. Give the head's own port"):
            reach(f"localhost:{server.server_port}")


@pytest.mark.parametrize(
    "wrong", ["local", "ray://head:10001", "http://head:8265", "head", "head:", ":6379", "h:70000"]
)
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(ConnectionError, match="give HOST:PORT, such as"):
        find(wrong)


def test_auto_is_what_a_job_was_told_or_what_ray_start_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    record = tmp_path / "ray" / "ray_current_cluster"
    with pytest.raises(ConnectionError, match=f"{record} is not there"):
        find("auto")
    record.parent.mkdir()
    record.write_text("127.0.0.1:1")  # of a head that was killed
    with pytest.raises(ConnectionError, match=r"cluster.address=auto: nothing answers at 127.0.0.1:1 "):
        reach("auto")
    record.write_text("10.0.0.5:6379")
    assert find("auto") == ("10.0.0.5", 6379)
    monkeypatch.setenv("RAY_ADDRESS", "[fd00::2]:6380")
    assert find("auto") == ("fd00::2", 6380)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(ConnectionError, match="RAY_ADDRESS=http://head:8265, which is no address"):
        find("auto")


def test_loopback() -> None:
    assert [on_loopback(a) for a in ("127.0.0.1:1", "localhost:1", "[::1]:1", "10.0.0.5:1", "[fd00::2]:1")] == [
        True,
        True,
        True,
        False,
        False,
    ]
