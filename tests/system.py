"""The real system for tests and benchmarks: `visavis run` on free ports, as a user would start it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

READY_TIMEOUT_S = 180


@contextmanager
def running_system(log_path: Path, profile: str = "small", redis_url: str = "") -> Iterator[str]:
    """Yields the page's address; ends everything afterwards. Without `redis_url` it starts a Redis of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "visavis.cli",
        "run",
        "--port",
        str(port),
        "--profile",
        profile,
    ]
    env = {**os.environ, "GATEWAY_DATABASE": str(log_path.with_suffix(".db"))}
    env.pop("REDIS_URL", None)
    if redis_url:
        env["REDIS_URL"] = redis_url
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log_path)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"visavis run ended:\n{log_path.read_text()}")
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not ready after {READY_TIMEOUT_S} s:\n{log_path.read_text()}")
