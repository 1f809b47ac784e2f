"""The servicer: proto ↔ session. No model logic."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import grpc

from services.llm.backend import Backend, Message
from services.llm.session import GenerationSession, let_go
from services.llm.slots import NoFreeSlot, Overtaken, Slots
from visavis.log import log_context
from visavis.v1.llm_pb2 import (
    ChatMessage,
    GenerateEvent,
    GenerateRequest,
    ReplyMessage,
    WarmRequest,
    WarmResponse,
)
from visavis.v1.llm_pb2_grpc import LlmServiceServicer
from visavis.worker import ReportingWriter, Worker

ROLES: dict[int, Literal["system", "user", "agent"]] = {
    ChatMessage.ROLE_SYSTEM: "system",
    ChatMessage.ROLE_USER: "user",
    ChatMessage.ROLE_AGENT: "agent",
}


class LlmServicer(LlmServiceServicer):
    def __init__(self, worker: Worker, backend: Backend) -> None:
        self._worker = worker
        self._backend = backend
        self._slots = Slots(worker.settings.slots)
        # A thread per slot, since a slot serves one call at a time.
        self._executor = ThreadPoolExecutor(worker.settings.slots, "llm")

    async def Generate(  # type: ignore[override]
        self,
        request: GenerateRequest,
        context: "grpc.aio.ServicerContext[GenerateRequest, GenerateEvent]",
    ) -> None:
        turn, streams = request.turn, self._worker.streams
        async with self._worker.work(turn, context, GenerateEvent) as work:
            work.input_read()
            messages = conversation(request.messages)
            output = ReportingWriter[ReplyMessage](streams, request.reply_stream, turn.epoch, work)
            async with self._slots.generating(turn.session_id) as slot:
                session = GenerationSession(self._backend, slot, self._executor, request.max_tokens)
                await session.run(messages, output.write)
            await work.finished(output.seq)

    async def Warm(
        self,
        request: WarmRequest,
        context: "grpc.aio.ServicerContext[WarmRequest, WarmResponse]",
    ) -> WarmResponse:
        with log_context(session_id=request.session_id):
            try:
                return WarmResponse(prompt_tokens=await self._warm(request))
            except ValueError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except NoFreeSlot:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "every slot is busy with another session"
                )
            except Overtaken:
                await context.abort(
                    grpc.StatusCode.ABORTED, "a newer call needs the session's slot"
                )

    async def _warm(self, request: WarmRequest) -> int:
        if not request.session_id:
            raise ValueError("session_id is missing")
        messages = conversation(request.messages)
        async with self._slots.warming(request.session_id) as (slot, stop):
            running = asyncio.get_running_loop().run_in_executor(
                self._executor, self._backend.warm, slot, messages, stop
            )
            try:
                await asyncio.wait([running])  # unlike awaiting it, does not cancel it
            finally:
                overtaken = stop.is_set()
                await let_go(running, stop)
            if overtaken:
                raise Overtaken
            return running.result()


def conversation(messages: Sequence[ChatMessage]) -> list[Message]:
    """The messages as the backend takes them. Blank ones, such as a reply that nobody heard, are left out.

    Raises:
        ValueError: there is none, or one has no role.
    """
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise ValueError(f"messages[{index}].role is missing")
    kept = [Message(ROLES[m.role], m.text.strip()) for m in messages if m.text.strip()]
    if not kept:
        raise ValueError("messages is empty")
    return kept
