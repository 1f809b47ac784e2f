"""One turn being spoken: text deltas in, clauses with their sound out. Knows neither gRPC nor Redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor

from services.tts.backend import Backend, Timed, Utterance
from services.tts.clauses import ClauseCutter, spoken
from visavis.audio import blocks, duration_ms
from visavis.v1.common_pb2 import AudioChunk
from visavis.v1.llm_pb2 import ReplyMessage
from visavis.v1.tts_pb2 import Clause, SpeechEnd, SpeechMessage, TimedPhoneme, TimedWord

CHUNK_MS = 100
# Clauses synthesized before the one before them has been written; when full, synthesis waits.
UTTERANCES_AHEAD = 2

Emit = Callable[[SpeechMessage], Awaitable[None]]
Due = Callable[[float], Awaitable[None]]


class SynthesisSession:
    """Speaks one turn. Made for it and thrown away."""

    def __init__(self, backend: Backend, voice: str, executor: Executor) -> None:
        self._backend = backend
        self._voice = voice
        self._executor = executor
        self._spoken_ms = 0.0
        self._clauses: asyncio.Queue[str | None] = (
            asyncio.Queue()
        )  # bounded by the reply's own length
        self._utterances: asyncio.Queue[tuple[str, Utterance] | None] = asyncio.Queue(
            UTTERANCES_AHEAD
        )

    async def run(
        self, reply: AsyncIterator[ReplyMessage], emit: Emit, wait_until_due: Due
    ) -> None:
        """Reads the reply to its end and emits speech to its end.

        `wait_until_due(pts_ms)` returns when sound of that time may be written (credit).
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._cut(reply), name="cut")
            tasks.create_task(self._synthesize(), name="synthesize")
            tasks.create_task(self._write(emit, wait_until_due), name="write")

    async def _cut(self, reply: AsyncIterator[ReplyMessage]) -> None:
        cutter = ClauseCutter()
        async for message in reply:
            if message.HasField("end"):
                break
            for clause in cutter.push(message.text_delta):
                await self._clauses.put(clause)
        for clause in cutter.end():
            await self._clauses.put(clause)
        await self._clauses.put(None)

    async def _synthesize(self) -> None:
        loop = asyncio.get_running_loop()
        while (clause := await self._clauses.get()) is not None:
            text = spoken(clause)
            if not any(char.isalnum() for char in text):
                continue
            # Cancelled here: the thread finishes its clause, and nobody takes it.
            utterance = await loop.run_in_executor(
                self._executor, self._backend.synthesize, text, self._voice
            )
            await self._utterances.put((clause, utterance))
        await self._utterances.put(None)

    async def _write(self, emit: Emit, wait_until_due: Due) -> None:
        while (item := await self._utterances.get()) is not None:
            text, utterance = item
            await wait_until_due(self._spoken_ms)
            await emit(SpeechMessage(clause=self._clause(text, utterance)))
            for pcm in blocks(utterance.pcm, self._backend.sample_rate_hz, CHUNK_MS):
                await wait_until_due(self._spoken_ms)
                await emit(SpeechMessage(audio=self._audio(pcm)))
                self._spoken_ms += duration_ms(pcm, self._backend.sample_rate_hz)
        await emit(SpeechMessage(end=SpeechEnd(duration_ms=self._spoken_ms)))

    def _audio(self, pcm: bytes) -> AudioChunk:
        return AudioChunk(
            pcm=pcm, sample_rate_hz=self._backend.sample_rate_hz, pts_ms=self._spoken_ms
        )

    def _clause(self, text: str, utterance: Utterance) -> Clause:
        start_ms = self._spoken_ms

        def times(timed: Timed) -> dict[str, float]:
            return {"start_ms": start_ms + timed.start_ms, "end_ms": start_ms + timed.end_ms}

        return Clause(
            text=text,
            start_ms=start_ms,
            end_ms=start_ms + duration_ms(utterance.pcm, self._backend.sample_rate_hz),
            words=[TimedWord(text=word.text, **times(word)) for word in utterance.words],
            phonemes=[TimedPhoneme(symbol=p.text, **times(p)) for p in utterance.phonemes],
        )
