"""The servicer: proto ↔ session. No model logic."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from services.tts.backend import Backend
from services.tts.session import SynthesisSession
from visavis.credit import playback_credit
from visavis.v1.llm_pb2 import ReplyMessage
from visavis.v1.tts_pb2 import SpeechMessage, SynthesizeEvent, SynthesizeRequest
from visavis.v1.tts_pb2_grpc import TtsServiceServicer
from visavis.worker import ReportingWriter, UnknownNameError, Work, Worker


class TtsServicer(TtsServiceServicer):
    def __init__(self, worker: Worker, backend: Backend) -> None:
        self._worker = worker
        self._backend = backend
        # One thread: clauses of different sessions take turns, each short.
        self._executor = ThreadPoolExecutor(1, "tts")

    async def Synthesize(  # type: ignore[override]
        self,
        request: SynthesizeRequest,
        context: "grpc.aio.ServicerContext[SynthesizeRequest, SynthesizeEvent]",
    ) -> None:
        epoch, streams = request.turn.epoch, self._worker.streams
        async with (
            self._worker.work(request.turn, context, SynthesizeEvent) as work,
            streams.subscribe(request.reply_stream, epoch, ReplyMessage) as reply,
            playback_credit(streams, request.playback_stream, epoch, request.lead_ms) as credit,
        ):
            session = SynthesisSession(self._backend, self._voice(request.voice), self._executor)
            output = ReportingWriter[SpeechMessage](streams, request.speech_stream, epoch, work)
            await session.run(noting_input(reply, work), output.write, credit.wait_until_due)
            await work.finished(output.seq)

    def _voice(self, voice: str) -> str:
        if voice and voice not in self._backend.voices:
            raise UnknownNameError(
                f"There is no voice {voice!r} here; there are {', '.join(self._backend.voices)}."
            )
        return voice or self._backend.voices[0]


async def noting_input(
    reply: AsyncIterator[ReplyMessage], work: Work[SynthesizeEvent]
) -> AsyncIterator[ReplyMessage]:
    """The same messages; the first starts the clock of time-to-first-audio."""
    async for message in reply:
        work.input_read()
        yield message
