"""A real Redis for every test that asks for one, and stage workers in this process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from visavis.clock import Clock
from visavis.redis_server import start_redis
from visavis.settings import WorkerSettings
from visavis.streams import Streams
from visavis.worker import GRPC_SERVER_OPTIONS, Registrar, Worker


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


@pytest.fixture
def session_id() -> str:
    return uuid.uuid4().hex[:22]


@pytest.fixture
async def streams(redis_url: str) -> AsyncIterator[Streams]:
    async with Streams(redis_url) as streams:
        yield streams


StartWorker = Callable[..., AbstractAsyncContextManager[tuple[Worker, grpc.aio.Channel]]]


@pytest.fixture
def start_worker(streams: Streams) -> StartWorker:
    """Serves one stage on a free port in this process: `async with start_worker(...) as (worker, channel)`."""

    @asynccontextmanager
    async def start(
        service: str, settings: WorkerSettings, register: Registrar, clock: Clock | None = None
    ) -> AsyncIterator[tuple[Worker, grpc.aio.Channel]]:
        worker = Worker(service, settings, streams, clock)
        server = grpc.aio.server(options=GRPC_SERVER_OPTIONS)
        register(server, worker)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield worker, channel
        finally:
            await server.stop(grace=None)

    return start


async def read_until_end(subscription, is_end, timeout_s: float = 60) -> list:  # type: ignore[no-untyped-def,type-arg]
    """All messages of a stream up to and with its end message."""
    messages = []
    async with asyncio.timeout(timeout_s):
        async for message in subscription:
            messages.append(message)
            if is_end(message):
                return messages
    raise AssertionError("the stream ended without an end message")


async def eventually(condition: Callable[[], Awaitable[Any]], timeout_s: float = 10) -> Any:
    """Asks until the answer is true, and returns it: for what another process does in its own time."""
    async with asyncio.timeout(timeout_s):
        while not (answer := await condition()):  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.05)
        return answer


DATA = Path(__file__).parent / "data"
