"""A whole visavis in this process: four fake stages and a real gateway on a free port."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import uvicorn

from services.asr.backends.fake import FakeBackend as FakeEar
from services.asr.server import AsrServicer
from services.asr.settings import Settings as AsrSettings
from services.gateway.app import create_app
from services.gateway.settings import Settings as GatewaySettings
from services.llm.backends.fake import FakeBackend as FakeMind
from services.llm.server import LlmServicer
from services.llm.settings import Settings as LlmSettings
from services.talkinghead.backends.fake import FakeBackend as FakeFace
from services.talkinghead.server import TalkingHeadServicer
from services.talkinghead.settings import Settings as TalkingHeadSettings
from services.tts.backends.fake import FakeBackend as FakeVoice
from services.tts.server import TtsServicer
from services.tts.settings import Settings as TtsSettings
from visavis.registry import announce
from visavis.settings import WorkerSettings
from visavis.streams import Streams
from visavis.v1.asr_pb2_grpc import add_AsrServiceServicer_to_server
from visavis.v1.llm_pb2_grpc import add_LlmServiceServicer_to_server
from visavis.v1.talkinghead_pb2_grpc import add_TalkingHeadServiceServicer_to_server
from visavis.v1.tts_pb2_grpc import add_TtsServiceServicer_to_server
from visavis.worker import GRPC_SERVER_OPTIONS, Worker


@dataclass
class Stage:
    """One fake stage being served; `stop` makes it vanish as a crash would."""

    worker: Worker
    server: grpc.aio.Server
    beating: "asyncio.Task[None]"

    async def stop(self) -> None:
        self.beating.cancel()
        await asyncio.gather(self.beating, return_exceptions=True)
        await self.server.stop(grace=None)


@dataclass
class System:
    url: str  # of the WebSocket
    http: str
    stages: dict[str, Stage]
    gateway: object

    async def stop(self, service: str) -> None:
        await self.stages[service].stop()


StartSystem = Callable[..., AbstractAsyncContextManager[System]]


@pytest.fixture
def start_system(redis_url: str, tmp_path: Path) -> StartSystem:
    """`async with start_system(mind=FakeMind(...)) as system`: any stage's backend may be given."""

    @asynccontextmanager
    async def start(
        ear: FakeEar | None = None,
        mind: FakeMind | None = None,
        voice: FakeVoice | None = None,
        face: FakeFace | None = None,
        **gateway_settings: object,
    ) -> AsyncIterator[System]:
        asr_settings = AsrSettings(backend="fake")
        ear, mind = ear or FakeEar(), mind or FakeMind()
        voice, face = voice or FakeVoice(0), face or FakeFace(0)

        def register_asr(server, worker):
            add_AsrServiceServicer_to_server(AsrServicer(worker, asr_settings, ear), server)

        def register_llm(server, worker):
            add_LlmServiceServicer_to_server(LlmServicer(worker, mind), server)

        def register_tts(server, worker):
            add_TtsServiceServicer_to_server(TtsServicer(worker, voice), server)

        def register_talkinghead(server, worker):
            add_TalkingHeadServiceServicer_to_server(TalkingHeadServicer(worker, face, 2), server)

        registers = {
            "asr": (asr_settings, register_asr, {}),
            "llm": (LlmSettings(backend="fake"), register_llm, {}),
            "tts": (
                TtsSettings(backend="fake"),
                register_tts,
                {"sample_rate_hz": str(voice.sample_rate_hz)},
            ),
            "talkinghead": (TalkingHeadSettings(backend="fake"), register_talkinghead, {}),
        }
        async with AsyncExitStack() as stack:
            url = str(gateway_settings.setdefault("redis_url", redis_url))
            streams = await stack.enter_async_context(Streams(url))
            stages = {}
            for service, (settings, register, detail) in registers.items():
                stage = await _serve(service, settings, register, streams)
                stage.worker.detail = detail
                stack.push_async_callback(stage.stop)
                stages[service] = stage
            gateway_settings.setdefault("database", str(tmp_path / "transcripts.db"))
            app = create_app(GatewaySettings(**gateway_settings))
            port = await stack.enter_async_context(_serve_http(app))
            yield System(
                f"ws://127.0.0.1:{port}/v1/call",
                f"http://127.0.0.1:{port}",
                stages,
                app.state.gateway,
            )

    return start


async def _serve(service: str, settings: WorkerSettings, register, streams: Streams) -> Stage:
    worker = Worker(service, settings, streams)
    server = grpc.aio.server(options=GRPC_SERVER_OPTIONS)
    register(server, worker)
    worker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    beating = asyncio.create_task(announce(streams.client, worker.clock, worker.heartbeat))
    return Stage(worker, server, beating)


@asynccontextmanager
async def _serve_http(app) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, log_config=None, ws_per_message_deflate=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # pytest keeps its own
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not serving.done(), "the gateway did not start"
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving
