"""The containers, built from this checkout and started under a name and on a port of their own."""

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from visavis.models import load_manifest, store_dir

ROOT = Path(__file__).parents[2]
LOG = ROOT / "out" / "compose.log"


@dataclass
class Compose:
    project: str
    port: int
    files: list[Path]
    env: dict[str, str]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/call"

    def __call__(self, *arguments: str) -> str:
        """Runs `docker compose` with these arguments; returns what it printed."""
        files = [word for file in self.files for word in ("-f", str(file))]
        command = ["docker", "compose", "-p", self.project, "--progress", "plain", *files]
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"docker compose {arguments}:\n{done.stdout[-4000:]}"
        return done.stdout

    def workers(self, service: str) -> int:
        """How many workers of a service the gateway sees."""
        status = httpx.get(f"http://127.0.0.1:{self.port}/v1/status", trust_env=False).json()
        assert status["redis"]["healthy"]
        return next(len(s["workers"]) for s in status["services"] if s["name"] == service)


def missing_engine() -> str:
    """Why there can be no containers here; empty if there can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for question in (["docker", "version"], ["docker", "compose", "version"]):
        if subprocess.run(question, capture_output=True).returncode != 0:
            return f"`{' '.join(question)}` fails: no engine runs, or Compose is not installed"
    return ""


@pytest.fixture(scope="module")
def compose(request: pytest.FixtureRequest) -> Iterator[Compose]:
    if reason := missing_engine():
        if os.environ.get("CI"):
            pytest.fail(f"containers cannot be tested: {reason}")
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "VISAVIS_PROFILE": "small", "GATEWAY_PORT": str(port)}
    env.pop("REDIS_URL", None)
    files = [ROOT / "docker-compose.yml"]
    if all(model.is_present() for model in load_manifest() if "small" in model.profiles):
        files.append(ROOT / "tests/compose/override.yml")
        env["VISAVIS_STORE"] = str(store_dir())
    compose = Compose(f"visavis-test-{uuid.uuid4().hex[:6]}", port, files, env)
    failed_before = request.session.testsfailed
    try:
        compose("up", "--detach", "--build", "--wait")
        yield compose
    finally:
        if request.session.testsfailed > failed_before or os.environ.get("CI"):
            LOG.parent.mkdir(exist_ok=True)
            LOG.write_text(compose("logs", "--no-color", "--timestamps"))
        compose("down", "--volumes", "--timeout", "5")
