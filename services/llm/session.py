"""One reply being thought: messages in, text deltas out. Knows neither gRPC nor Redis."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from services.llm.backend import Backend, Message
from visavis.v1.llm_pb2 import ReplyEnd, ReplyMessage

Emit = Callable[[ReplyMessage], Awaitable[None]]


class GenerationSession:
    """Writes one reply. Made for it and thrown away."""

    def __init__(self, backend: Backend, slot: int, executor: Executor, max_tokens: int) -> None:
        self._backend = backend
        self._slot = slot
        self._executor = executor
        self._max_tokens = max_tokens or backend.max_tokens
        self._stop = threading.Event()
        # From the model's thread. The model never waits: a reply has at most this many deltas, and an end.
        self._deltas: asyncio.Queue[str | None] = asyncio.Queue(self._max_tokens + 2)

    async def run(self, messages: Sequence[Message], emit: Emit) -> None:
        """Emits the reply to its end.

        Cancelled: the model stops within one token, and this returns when its thread has let go of the slot.
        """
        loop = asyncio.get_running_loop()

        def deliver(delta: str | None) -> None:
            loop.call_soon_threadsafe(self._deltas.put_nowait, delta)

        def generate() -> None:
            try:
                self._backend.generate(self._slot, messages, self._max_tokens, deliver, self._stop)
            finally:
                deliver(None)

        running = loop.run_in_executor(self._executor, generate)
        try:
            await self._emit_deltas(emit)
        finally:
            await let_go(running, self._stop)
        running.result()  # raises what went wrong in the thread
        await emit(ReplyMessage(end=ReplyEnd()))

    async def _emit_deltas(self, emit: Emit) -> None:
        is_first = True
        is_over = False
        while not is_over:
            text, is_over = await self._next_text()
            if is_first:
                text = text.lstrip()
            if text:
                is_first = False
                await emit(ReplyMessage(text_delta=text))

    async def _next_text(self) -> tuple[str, bool]:
        """What has come since the last call, as one piece, and whether it was the end."""
        delta = await self._deltas.get()
        text = ""
        while delta is not None:
            text += delta
            if self._deltas.empty():
                return text, False
            delta = self._deltas.get_nowait()
        return text, True


async def let_go(running: "asyncio.Future[Any]", stop: threading.Event) -> None:
    """Tells the model's thread to stop, and waits until it has.

    A cancellation meanwhile is kept for afterwards: the slot may not be given to anyone before.
    """
    stop.set()
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
