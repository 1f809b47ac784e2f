"""The servicer: proto ↔ session. No model logic."""

import grpc

from services.asr.backend import Backend
from services.asr.session import TranscriptionSession
from services.asr.settings import Settings
from services.asr.threads import ModelThreads
from visavis.v1.asr_pb2 import (
    MicMessage,
    TranscribeEvent,
    TranscribeRequest,
    TranscriptMessage,
)
from visavis.v1.asr_pb2_grpc import AsrServiceServicer
from visavis.worker import ReportingWriter, UnknownNameError, Worker


class AsrServicer(AsrServiceServicer):
    def __init__(self, worker: Worker, settings: Settings, backend: Backend) -> None:
        self._worker = worker
        self._settings = settings
        self._backend = backend
        self._threads = ModelThreads()

    async def Transcribe(  # type: ignore[override]
        self,
        request: TranscribeRequest,
        context: "grpc.aio.ServicerContext[TranscribeRequest, TranscribeEvent]",
    ) -> None:
        epoch, streams = request.turn.epoch, self._worker.streams
        async with (
            self._worker.work(request.turn, context, TranscribeEvent) as work,
            streams.subscribe(request.mic_stream, epoch, MicMessage) as mic,
        ):
            output = ReportingWriter[TranscriptMessage](
                streams, request.transcript_stream, epoch, work
            )
            session = TranscriptionSession(
                self._backend.open(self._language(request.language)),
                self._threads,
                self._settings,
                self._worker.clock,
                self._worker.metrics.observe_latency,
            )
            await session.run(mic, output.write)
            await work.finished(output.seq)

    def _language(self, language: str) -> str:
        primary = language.split("-")[0].lower()
        if primary and primary not in self._backend.languages:
            raise UnknownNameError(
                f"There is no ear for language {language!r} here; "
                f"there is one for {', '.join(self._backend.languages)}."
            )
        return primary or self._backend.languages[0]
