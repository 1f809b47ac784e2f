"""`visavis run`: Redis and the five services on this machine, under one small supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import click
import httpx

from visavis.models import PROFILES, ModelError, store_dir
from visavis.redis_server import RedisError, start_redis

SERVICES = ("asr", "llm", "tts", "talkinghead", "gateway")
READY_TIMEOUT_SECONDS = 180
READY_POLL_SECONDS = 0.25
STOP_TIMEOUT_SECONDS = 8
# A service that dies is started again, after a pause that doubles; one that never comes up ends everything.
RESTART_PAUSE_SECONDS = 0.5
RESTART_PAUSE_MAX_SECONDS = 30.0


class Child:
    """One service's process, started again when it dies."""

    def __init__(self, name: str, env: dict[str, str], log_path: Path) -> None:
        self.name = name
        self._env = env
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, ready: asyncio.Event) -> None:
        """Runs for ever.

        Raises:
            click.ClickException: it died before everything was ready: starting it again would not help.
        """
        pause_seconds = RESTART_PAUSE_SECONDS
        while True:
            with self._log_path.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", f"services.{self.name}", env=self._env, stdout=log, stderr=log
                )  # fmt: skip
            code = await self._process.wait()
            if not ready.is_set():
                raise click.ClickException(
                    f"{self.name} ended with code {code}. The end of {self._log_path}:\n{self._tail()}"
                )
            click.echo(f"{self.name} ended with code {code}; starting it again", err=True)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, RESTART_PAUSE_MAX_SECONDS)

    async def stop(self) -> None:
        """Asks it to end; after a while makes it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _tail(self) -> str:
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-8:])


async def supervise(env: dict[str, str], url: str, log_dir: Path) -> None:
    """Starts all services, says when they are ready, and ends them all when cancelled or interrupted."""
    children = [Child(name, env, log_dir / f"{name}.log") for name in SERVICES]
    ready, stop = asyncio.Event(), asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(child.run(ready), name=child.name) for child in children]
            running.append(tasks.create_task(_say_when_ready(url, ready, log_dir), name="ready"))
            await stop.wait()
            click.echo("\nstopping")
            for task in running:
                task.cancel()
    except* click.ClickException as group:
        raise group.exceptions[0] from None
    finally:
        await asyncio.gather(*(child.stop() for child in children))


async def _say_when_ready(url: str, ready: asyncio.Event, log_dir: Path) -> None:
    try:
        async with (
            asyncio.timeout(READY_TIMEOUT_SECONDS),
            httpx.AsyncClient(trust_env=False) as client,
        ):
            while not await _is_ready(client, url):  # noqa: ASYNC110 - HTTP has no event to wait for
                await asyncio.sleep(READY_POLL_SECONDS)
    except TimeoutError:
        raise click.ClickException(
            f"Not ready after {READY_TIMEOUT_SECONDS} s. Look at the logs in {log_dir}."
        ) from None
    ready.set()
    click.echo(f"Ready: {url}   (logs in {log_dir}; Ctrl-C stops everything)")


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


def check_models(profile: str) -> None:
    """Says which command fetches what is missing, before five processes fail one by one."""
    from visavis.models import load_manifest, model_path

    for model in load_manifest():
        if profile in model.profiles:
            model_path(model.name)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port of the page.")
@click.option(
    "--profile",
    type=click.Choice(sorted(PROFILES)),
    default=os.environ.get("VISAVIS_PROFILE", "standard"),
    show_default=True,
    help="Which models.",
)
@click.option("--fake", is_flag=True, help="No models at all: tones, coloured pictures, echoes.")
def run(host: str, port: int, profile: str, fake: bool) -> None:
    """Start everything on this machine and print the address of the page.

    Set REDIS_URL to use a Redis of your own; else one is started, and ended with the rest.
    """
    env = {
        **os.environ,
        "VISAVIS_PROFILE": profile,
        "GATEWAY_HOST": host,
        "GATEWAY_PORT": str(port),
    }
    if fake:
        env |= {f"{name.upper()}_BACKEND": "fake" for name in SERVICES}
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    redis = None
    try:
        if not fake:
            check_models(profile)
        if "REDIS_URL" not in env:
            redis = start_redis(Path(tempfile.mkdtemp(prefix="visavis-redis-")))
            env["REDIS_URL"] = redis.url
        click.echo(f"Starting {', '.join(SERVICES)} (about 10 s) …")
        log_dir = store_dir() / "logs"
        log_dir.mkdir(parents=True, exist_ok=True)
        asyncio.run(supervise(env, url, log_dir))
    except (ModelError, RedisError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        if redis is not None:
            redis.stop()
