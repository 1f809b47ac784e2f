"""The servicer: proto ↔ session. No model logic."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic

import grpc

from services.talkinghead.backend import A, Backend
from services.talkinghead.codec import Encoder, open_encoder
from services.talkinghead.scheduler import Scheduler
from services.talkinghead.session import AnimationSession
from visavis.credit import playback_credit
from visavis.v1.talkinghead_pb2 import AnimateEvent, AnimateRequest, VideoMessage
from visavis.v1.talkinghead_pb2_grpc import TalkingHeadServiceServicer
from visavis.v1.tts_pb2 import SpeechMessage
from visavis.worker import ReportingWriter, Work, Worker


class TalkingHeadServicer(TalkingHeadServiceServicer, Generic[A]):
    def __init__(self, worker: Worker, backend: Backend[A], threads: int = 2) -> None:
        self._worker = worker
        self._backend = backend
        self._scheduler = Scheduler(backend, ThreadPoolExecutor(1, "render"))
        self._executor = ThreadPoolExecutor(threads, "encode")

    async def Animate(  # type: ignore[override]
        self,
        request: AnimateRequest,
        context: "grpc.aio.ServicerContext[AnimateRequest, AnimateEvent]",
    ) -> None:
        epoch, streams = request.turn.epoch, self._worker.streams
        async with (
            self._worker.work(request.turn, context, AnimateEvent) as work,
            streams.subscribe(request.speech_stream, epoch, SpeechMessage) as speech,
            playback_credit(streams, request.playback_stream, epoch, request.lead_ms) as credit,
        ):
            # A persona that is not loaded yet takes seconds. Cancelled here: it is loaded for the next.
            animation, encoder = await asyncio.to_thread(self._open, request)
            session = AnimationSession(animation, encoder, self._scheduler, self._executor)
            output = ReportingWriter[VideoMessage](streams, request.video_stream, epoch, work)
            await session.run(noting_input(speech, work), output.write, credit, request.lead_ms)
            await work.finished(output.seq)

    def _open(self, request: AnimateRequest) -> tuple[A, Encoder]:
        animation = self._backend.open(request.persona_id, request.first_loop_frame)
        if request.format.size_px > animation.size_px:
            raise ValueError(
                f"format.size_px is {request.format.size_px}: {request.persona_id} has {animation.size_px}."
            )
        return animation, open_encoder(request.format)


async def noting_input(
    speech: AsyncIterator[SpeechMessage], work: Work[AnimateEvent]
) -> AsyncIterator[SpeechMessage]:
    """The same messages; the first starts the clock of time-to-first-picture."""
    async for message in speech:
        work.input_read()
        yield message
