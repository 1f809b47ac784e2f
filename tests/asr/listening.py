"""Sound for the fake ear, and a session that is fed by hand."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import numpy as np

from services.asr.backend import Backend
from services.asr.backends.fake import FakeBackend, tone
from services.asr.session import TranscriptionSession
from services.asr.settings import Settings
from services.asr.threads import ModelThreads
from visavis.audio import MIC_CHUNK_MS, MIC_SAMPLE_RATE_HZ, Samples, blocks, samples_to_pcm
from visavis.clock import RealClock
from visavis.v1.asr_pb2 import MicEnd, MicMessage, TranscriptMessage, UserTurnEnded
from visavis.v1.common_pb2 import AudioChunk

WORD_MS = 320
GAP_MS = 60


def silence(duration_ms: float) -> Samples:
    return np.zeros(round(duration_ms * MIC_SAMPLE_RATE_HZ / 1000), np.float32)


def speech(words: str) -> Samples:
    """The words as the fake ear hears them, with gaps too short for a pause."""
    parts = [part for word in words.split() for part in (tone(word, WORD_MS), silence(GAP_MS))]
    return np.concatenate(parts[:-1])


def chunks(
    sound: Samples, start_ms: float = 0, chunk_ms: float = MIC_CHUNK_MS
) -> Iterable[MicMessage]:
    for index, pcm in enumerate(blocks(samples_to_pcm(sound), MIC_SAMPLE_RATE_HZ, chunk_ms)):
        yield MicMessage(
            audio=AudioChunk(
                pcm=pcm, sample_rate_hz=MIC_SAMPLE_RATE_HZ, pts_ms=start_ms + index * chunk_ms
            )
        )


class Listening:
    """A running session: give it sound, look at what it wrote."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.threads = ModelThreads()
        self.latencies: list[float] = []
        self.written: list[TranscriptMessage] = []
        self.session = TranscriptionSession(
            backend.open("en"), self.threads, settings, RealClock(), self.latencies.append
        )
        self._now_ms = 0.0
        self._mic: asyncio.Queue[MicMessage] = asyncio.Queue()
        self._news = asyncio.Condition()

    running: "asyncio.Future[None]"

    async def hear(self, sound: Samples, chunk_ms: float = MIC_CHUNK_MS) -> None:
        """Returns when the session has taken all of the sound (its passes may still run)."""
        for message in chunks(sound, self._now_ms, chunk_ms):
            self._mic.put_nowait(message)
        self._now_ms += len(sound) / MIC_SAMPLE_RATE_HZ * 1000
        await self._taken()

    async def user_turn_ended(self, until_ms: float) -> None:
        self._mic.put_nowait(MicMessage(user_turn_ended=UserTurnEnded(until_ms=until_ms)))
        await self._taken()

    async def _taken(self) -> None:
        """Fails as the session fails, instead of waiting for it."""
        taken = asyncio.ensure_future(self._mic.join())
        await asyncio.wait({taken, self.running}, return_when=asyncio.FIRST_COMPLETED)
        taken.cancel()
        if self.running.done():
            self.running.result()

    async def put(self, message: MicMessage) -> None:
        await self._mic.put(message)

    async def end(self, timeout_s: float = 5) -> None:
        await self.put(MicMessage(end=MicEnd()))
        await self.next("end", timeout_s=timeout_s)

    async def next(self, kind: str, count: int = 1, timeout_s: float = 5) -> TranscriptMessage:
        """Waits until `count` messages of a kind have been written; returns the newest."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    def of(self, kind: str) -> list[TranscriptMessage]:
        return [m for m in self.written if m.WhichOneof("content") == kind]

    @property
    def kinds(self) -> list[str]:
        """What was written, partials left out."""
        kinds = [m.WhichOneof("content") for m in self.written]
        return [kind for kind in kinds if kind is not None and kind != "partial"]

    @property
    def finals(self) -> list[str]:
        return [m.final.text for m in self.of("final")]

    async def run(self) -> None:
        await self.session.run(self._messages(), self._emit)

    async def _messages(self) -> AsyncIterator[MicMessage]:
        while True:
            message = await self._mic.get()
            yield message
            self._mic.task_done()

    async def _emit(self, message: TranscriptMessage) -> None:
        async with self._news:
            self.written.append(message)
            self._news.notify_all()


@asynccontextmanager
async def listening(
    backend: Backend | None = None, settings: Settings | None = None
) -> AsyncIterator[Listening]:
    """A session of the fake ear, unless another is given; cancelled at the end of the block."""
    ear = Listening(backend or FakeBackend(), settings or Settings(backend="fake"))
    ear.running = asyncio.ensure_future(ear.run())
    try:
        yield ear
    finally:
        ear.running.cancel()
        await asyncio.gather(ear.running, return_exceptions=True)
        ear.threads.close()
