"""One caller's connection: what comes in, checked; what goes out, in order and bounded."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, MutableMapping

from starlette.websockets import WebSocket, WebSocketDisconnect

from services.gateway import metrics
from services.gateway.protocol import (
    ClientEvent,
    Event,
    MediaKind,
    MediaPacket,
    ProtocolError,
    SessionEnd,
    check_mic_packet,
    parse_client_event,
)

logger = logging.getLogger(__name__)

# Beyond this backlog pictures are dropped (never sound, never events) until the next turn's keyframe.
VIDEO_BACKLOG_BYTES = 512 * 1024
# A client that takes nothing for this long is gone.
SEND_TIMEOUT_SECONDS = 5
NORMAL_CLOSURE = 1000


class Outbox:
    """What waits to be sent to one client. Bounded in pictures; a stalled client is disconnected."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._waiting: deque[str | bytes] = deque()
        self._backlog_bytes = 0
        self._dropping_video = False
        self._ready = asyncio.Event()

    def send(self, event: Event) -> None:
        self._put(event.model_dump_json())

    def send_media(self, packet: MediaPacket) -> None:
        if packet.kind is MediaKind.VIDEO and self._must_drop(packet):
            metrics.video_dropped.inc()
            return
        self._put(packet.pack())

    def _must_drop(self, packet: MediaPacket) -> bool:
        """A picture that is missing spoils those that build on it, so dropping lasts until a keyframe."""
        if self._backlog_bytes > VIDEO_BACKLOG_BYTES:
            self._dropping_video = True
        elif packet.keyframe:
            self._dropping_video = False
        return self._dropping_video

    def _put(self, data: str | bytes) -> None:
        self._waiting.append(data)
        self._backlog_bytes += len(data)
        self._ready.set()

    async def run(self) -> None:
        """Sends, for ever.

        Raises:
            WebSocketDisconnect: the client is gone, or takes nothing.
        """
        while True:
            await self._ready.wait()
            self._ready.clear()
            await self.drain()

    async def drain(self) -> None:
        """Sends all that waits now."""
        while self._waiting:
            data = self._waiting.popleft()
            self._backlog_bytes -= len(data)
            try:
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    if isinstance(data, str):
                        await self._websocket.send_text(data)
                    else:
                        await self._websocket.send_bytes(data)
            except (TimeoutError, RuntimeError) as error:
                raise WebSocketDisconnect(NORMAL_CLOSURE, f"client is gone: {error}") from None


async def incoming(
    websocket: WebSocket, idle_timeout_seconds: float
) -> AsyncIterator[ClientEvent | MediaPacket]:
    """What the client says, until it hangs up or is gone.

    Raises:
        ProtocolError: it said something that it must not.
    """
    while True:
        try:
            async with asyncio.timeout(idle_timeout_seconds):
                message = await websocket.receive()
        except TimeoutError:
            logger.info("client silent for %.0f s", idle_timeout_seconds)
            return
        if message["type"] == "websocket.disconnect":
            return
        item = _parse(message)
        if isinstance(item, SessionEnd):
            return
        yield item


def _parse(message: "MutableMapping[str, object]") -> ClientEvent | MediaPacket:
    text, data = message.get("text"), message.get("bytes")
    if isinstance(text, str):
        return parse_client_event(text)
    if isinstance(data, bytes):
        packet = MediaPacket.unpack(data)
        check_mic_packet(packet)
        return packet
    raise ProtocolError("An empty message.")
