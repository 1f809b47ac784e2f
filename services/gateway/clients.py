"""The gateway's side of the leases: picks a worker, opens the call, watches its events."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import grpc
from redis.exceptions import RedisError

from visavis import registry
from visavis.streams import Streams
from visavis.v1.asr_pb2 import TranscribeRequest
from visavis.v1.asr_pb2_grpc import AsrServiceStub
from visavis.v1.common_pb2 import WorkEvent
from visavis.v1.llm_pb2 import GenerateRequest, WarmRequest, WarmResponse
from visavis.v1.llm_pb2_grpc import LlmServiceStub
from visavis.v1.talkinghead_pb2 import AnimateRequest
from visavis.v1.talkinghead_pb2_grpc import TalkingHeadServiceStub
from visavis.v1.tts_pb2 import SynthesizeRequest
from visavis.v1.tts_pb2_grpc import TtsServiceStub

logger = logging.getLogger(__name__)

SERVICES = ("asr", "llm", "tts", "talkinghead")
CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
]
WARM_TIMEOUT_SECONDS = 10
# Worth asking another worker, if the work has not begun.
ELSEWHERE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class StageError(Exception):
    """A stage could not do its work; the message is fit for the user."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(message)
        self.service = service


# The generated stubs serve both worlds; on an aio channel their calls are these.
Call = grpc.aio.UnaryStreamCall[Any, Any]
Open = Callable[[grpc.aio.Channel], Call]
OnEvent = Callable[[WorkEvent], None]

USER_WORDS = {
    "asr": "The ear (speech recognition)",
    "llm": "The mind (language model)",
    "tts": "The voice (speech synthesis)",
    "talkinghead": "The face (talking head)",
}


class Stages:
    """The four stages as one session sees them. A session sticks to its workers while they live."""

    def __init__(self, streams: Streams, channels: "Channels") -> None:
        self._streams = streams
        self._channels = channels
        self._workers: dict[str, registry.Heartbeat] = {}

    async def worker(self, service: str, without: set[str] = frozenset()) -> registry.Heartbeat:  # type: ignore[assignment]
        """The session's worker of a service; a new one if it has none, or if its own is in `without`.

        Raises:
            StageError: none is alive.
        """
        known = self._workers.get(service)
        if known is not None and known.worker_id not in without:
            return known
        alive = await self._alive(service)
        for beat in alive:
            if beat.worker_id not in without:
                self._workers[service] = beat
                return beat
        state = "is busy" if alive else "is not running"
        raise StageError(service, f"{USER_WORDS[service]} {state}. Try again in a moment.")

    async def capacity(self) -> int:
        """How many calls all stages together can serve: the slots of the one with fewest.

        Raises:
            StageError: a stage has no worker.
        """
        totals = []
        for service in SERVICES:
            await self.worker(service)
            totals.append(sum(beat.slots for beat in await self._alive(service)))
        return min(totals)

    async def _alive(self, service: str) -> list[registry.Heartbeat]:
        try:
            return await registry.workers(self._streams.client, service)
        except (RedisError, OSError):
            raise StageError(service, "The server has lost its message store (Redis).") from None

    async def transcribe(self, request: TranscribeRequest, on_event: OnEvent) -> None:
        """Holds the lease until the work has finished. Cancelling it cancels the call.

        Raises:
            StageError: no worker is alive, or the work failed.
        """
        await self._lease(
            "asr", lambda channel: cast(Call, AsrServiceStub(channel).Transcribe(request)), on_event
        )

    async def generate(self, request: GenerateRequest, on_event: OnEvent) -> None:
        """Like `transcribe`."""
        await self._lease(
            "llm", lambda channel: cast(Call, LlmServiceStub(channel).Generate(request)), on_event
        )

    async def synthesize(self, request: SynthesizeRequest, on_event: OnEvent) -> None:
        """Like `transcribe`."""
        await self._lease(
            "tts", lambda channel: cast(Call, TtsServiceStub(channel).Synthesize(request)), on_event
        )

    async def animate(self, request: AnimateRequest, on_event: OnEvent) -> None:
        """Like `transcribe`."""
        await self._lease(
            "talkinghead",
            lambda channel: cast(Call, TalkingHeadServiceStub(channel).Animate(request)),
            on_event,
        )

    async def warm(self, request: WarmRequest) -> None:
        """Best effort: a failure is only logged."""
        try:
            beat = await self.worker("llm")
            channel = self._channels.to(beat.address)
            warmed = LlmServiceStub(channel).Warm(request, timeout=WARM_TIMEOUT_SECONDS)
            await cast(Awaitable[WarmResponse], warmed)
        except (StageError, grpc.aio.AioRpcError) as error:
            logger.info("prompt not warmed: %s", error)

    async def _lease(self, service: str, open_call: Open, on_event: OnEvent) -> None:
        refused: set[str] = set()
        while True:
            beat = await self.worker(service, refused)
            call = open_call(self._channels.to(beat.address))
            started = False
            try:
                async for event in call:
                    started = True
                    on_event(event.work)
                return
            except grpc.aio.AioRpcError as error:
                self._workers.pop(service, None)
                refused.add(beat.worker_id)
                if not started and error.code() in ELSEWHERE:
                    continue
                logger.warning("%s failed: %s %s", service, error.code().name, error.details())
                raise StageError(service, _failure(service, error)) from None
            finally:
                call.cancel()  # a no-op when it has ended; else the worker stops at once


def _failure(service: str, error: grpc.aio.AioRpcError) -> str:
    if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
        return f"{USER_WORDS[service]} refused: {error.details()}"
    return f"{USER_WORDS[service]} failed. Please try again."


class Channels:
    """One channel per worker's own address, shared by all sessions. `async with Channels() as channels`."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stack = AsyncExitStack()

    def to(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            self._stack.push_async_callback(channel.close)
            self._channels[address] = channel
        return self._channels[address]

    async def __aenter__(self) -> "Channels":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
