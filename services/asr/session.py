"""One session being listened to: microphone in, speech events and text out. Knows neither gRPC nor Redis.

last voiced sample    +96 ms                         +192 ms
───────────┤silence     │                               │
                        ├ SpeechPausing: the end-of-turn model and the final pass start, on the chance
                        │                               ├ SpeechStopped is written, then EndOfTurn,
                        │                               │ then FinalTranscript, each when it is there
                        └ SpeechResumed: both are thrown away
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from services.asr.backend import Recognizer
from services.asr.endpointing import Sound, Turn, quietest_moment
from services.asr.partials import join
from services.asr.settings import Settings
from services.asr.threads import ModelThreads
from services.asr.vad import (
    SAMPLES_PER_MS,
    SpeechDetector,
    SpeechEvent,
    SpeechPausing,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    State,
)
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples, pcm_to_samples
from visavis.clock import Clock
from visavis.v1 import asr_pb2
from visavis.v1.asr_pb2 import MicMessage, TranscriptMessage
from visavis.v1.common_pb2 import AudioChunk

logger = logging.getLogger(__name__)

END_OF_TURN_SECONDS = 8  # what the end-of-turn model can hear
# A hole in the microphone's times is filled with silence, if it is more than jitter.
GAP_MS = 100
GAP_MAX_MS = 600_000
# Written messages wait here; when it is full, passes and the microphone wait.
OUTGOING_BOUND = 64

Emit = Callable[[TranscriptMessage], Awaitable[None]]


@dataclass(eq=False)
class Pause:
    """A gap in the user's speech that may be the end of the turn."""

    turn: Turn
    at: int  # the last voiced sample
    heard: int  # judged on the sound up to here
    arrived_ms: float  # when the last voiced sample arrived, by the worker's clock
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Outgoing:
    message: TranscriptMessage
    is_wanted: Callable[[], bool]  # asked right before it is written
    written: Callable[[], None]


class TranscriptionSession:
    """Listens to one microphone. Made for it and thrown away."""

    def __init__(
        self,
        recognizer: Recognizer,
        threads: ModelThreads,
        settings: Settings,
        clock: Clock,
        observe_latency: Callable[[float], None],
    ) -> None:
        self._recognizer = recognizer
        self._threads = threads
        self._settings = settings
        self._clock = clock
        self._observe_latency = observe_latency
        self._detector = SpeechDetector(recognizer.speech_probability, settings)
        self._sound = Sound()
        self._origin_ms: float | None = None  # time of the first sample
        self._turn = Turn.starting(0, has_speech=False)
        self._pause: Pause | None = None
        self._voiced = (0, 0.0)  # the last voiced sample, and when it arrived
        self._guessed_to = 0
        self._decoding = asyncio.Lock()  # a final waits for settling, since it continues its text
        self._tasks = asyncio.TaskGroup()
        self._judging: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._guessing: asyncio.Task[None] | None = None
        self._outgoing: asyncio.Queue[Outgoing | None] = asyncio.Queue(OUTGOING_BOUND)

    async def run(self, mic: AsyncIterator[MicMessage], emit: Emit) -> None:
        """Reads the microphone to its end and emits the transcript to its end.

        Cancelled anywhere: passes that wait are forgotten, and nothing more is emitted.

        Raises:
            ValueError: the sound is not what the contract says; the message tells what to do.
        """
        async with self._tasks:
            self._tasks.create_task(self._write(emit), name="write")
            async for message in mic:
                if message.HasField("end"):
                    break
                await self._take(message)
            await self._finish()

    # Hearing

    async def _take(self, message: MicMessage) -> None:
        if message.HasField("audio"):
            samples = checked_samples(message.audio)
            await self._fill_gap(message.audio.pts_ms)
            await self._hear(samples)
        elif message.HasField("user_turn_ended"):
            self._begin_turn(self._position(message.user_turn_ended.until_ms))

    async def _fill_gap(self, pts_ms: float) -> None:
        """Keeps positions true to the microphone's times: what did not come counts as silence."""
        if self._origin_ms is None:
            self._origin_ms = pts_ms
        gap_ms = pts_ms - self._ms(self._sound.end)
        if gap_ms > GAP_MAX_MS:
            raise ValueError(
                f"audio.pts_ms jumps by {gap_ms:.0f} ms. Count it in milliseconds from the first sample."
            )
        while gap_ms > GAP_MS:
            block_ms = min(gap_ms, 1_000)
            await self._hear(np.zeros(round(block_ms * SAMPLES_PER_MS), np.float32))
            gap_ms -= block_ms
            await asyncio.sleep(0)  # a long mute must not hold up other sessions

    async def _hear(self, samples: Samples) -> None:
        self._sound.append(samples)
        for event in self._detector.push(samples):
            await self._on_speech_event(event)
        self._note_voice()
        self._forget_silence()
        await self._settle_if_long()
        self._guess_if_due()

    def _note_voice(self) -> None:
        if self._detector.last_voiced != self._voiced[0]:
            self._voiced = (self._detector.last_voiced, self._clock.now_ms())

    async def _on_speech_event(self, event: SpeechEvent) -> None:
        self._note_voice()
        match event:
            case SpeechStarted(at=at):
                self._go_on(at)
                started = asr_pb2.SpeechStarted(at_ms=self._ms(at))
                await self._put(TranscriptMessage(speech_started=started))
            case SpeechPausing(at=at) if at <= self._turn.begin:
                self._turn.has_speech = False  # all of it was in the turn before
            case SpeechPausing(at=at, heard=heard):
                self._judge(Pause(self._turn, at, heard, self._voiced[1]))
            case SpeechResumed(at=at):
                self._go_on(at)
            case SpeechStopped(at=at):
                stopped = asr_pb2.SpeechStopped(at_ms=self._ms(at))
                await self._put(TranscriptMessage(speech_stopped=stopped))
                if self._pause is not None:
                    self._pause.confirmed.set()

    def _go_on(self, at: int) -> None:
        """The user speaks on: what the pause led to is void."""
        if self._pause is not None:
            self._turn.gaps.append((self._pause.at + at) // 2)
        self._withdraw_pause()
        preroll = round(self._settings.preroll_ms * SAMPLES_PER_MS)
        if not self._turn.has_speech:
            self._turn.start = max(self._turn.begin, at)
            self._turn.begin = max(self._turn.begin, at - preroll)
            self._turn.has_speech = True
        self._turn.partial.begin = max(self._turn.partial.begin, at - preroll)

    def _forget_silence(self) -> None:
        """Keeps no sound that no text will come from."""
        silent = self._detector.state is State.SILENT
        margin_ms = self._settings.preroll_ms + 2 * self._settings.start_ms
        newest = self._detector.heard - round(margin_ms * SAMPLES_PER_MS)
        turn, pause = self._turn, self._pause
        if silent and not turn.has_speech:
            turn.begin = max(turn.begin, newest)
        elif silent and pause is not None and pause.at in turn.pause_texts:
            text = turn.pause_texts[pause.at]
            long_ms = 0 if not text else self._settings.settle_silence_ms
            if self._detector.heard - pause.at > long_ms * SAMPLES_PER_MS:
                turn.settle(text, max(turn.begin, newest))
                turn.has_speech = bool(text)
        self._sound.drop_before(turn.begin)

    # The user's turn

    def _begin_turn(self, until: int) -> None:
        """What was said up to `until` is done with. Sound after it belongs to the new turn."""
        pause = self._pause
        self._withdraw_pause()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        detector = self._detector
        speaks = detector.state is State.SPEAKING or (
            detector.last_voiced > until and self._turn.has_speech
        )
        self._turn = Turn.starting(until, has_speech=speaks)
        self._sound.drop_before(until)
        if pause is not None and pause.at > until:
            again = Pause(self._turn, pause.at, pause.heard, pause.arrived_ms, pause.confirmed)
            self._judge(again)

    async def _settle_if_long(self) -> None:
        turn, sound = self._turn, self._sound
        length_ms = (sound.end - turn.begin) / SAMPLES_PER_MS
        if length_ms > self._settings.turn_window_ms and self._settling is None:
            self._settling = self._tasks.create_task(self._settle(turn), name="settle")
        if length_ms > self._settings.turn_limit_ms and self._settling is not None:
            await self._settling

    async def _settle(self, turn: Turn) -> None:
        async with self._decoding:
            window = round(self._settings.turn_window_ms * SAMPLES_PER_MS)
            samples = self._sound.between(turn.begin, turn.begin + window)
            cut = turn.cut(samples)
            text = await self._threads.final(
                self._recognizer.final_text, samples[: cut - turn.begin]
            )
            turn.settle(join(turn.settled, text), cut)
            self._sound.drop_before(cut)
        self._settling = None

    # A pause

    def _judge(self, pause: Pause) -> None:
        self._withdraw_pause()
        self._pause = pause
        self._judging = self._tasks.create_task(self._judge_pause(pause), name="judge")

    def _withdraw_pause(self) -> None:
        self._pause = None
        if self._judging is not None:
            self._judging.cancel()
            self._judging = None

    async def _judge_pause(self, pause: Pause) -> None:
        async with asyncio.TaskGroup() as tasks:
            told = tasks.create_task(self._tell_end_of_turn(pause), name="end-of-turn")
            text = await self._final_text(pause)
            await told
        # From here on the text may be built upon; whether it is still wanted, `_write` asks.
        pause.turn.pause_texts = {pause.at: text}
        pause.turn.partial.settle(text, pause.heard)
        logger.debug("final: %s", text)
        final = asr_pb2.FinalTranscript(
            text=text, start_ms=self._ms(pause.turn.start), end_ms=self._ms(pause.at)
        )
        await self._put(
            TranscriptMessage(final=final),
            lambda: self._pause is pause,
            lambda: self._observe_latency(self._clock.now_ms() - pause.arrived_ms),
        )

    async def _tell_end_of_turn(self, pause: Pause) -> None:
        begin = max(pause.turn.begin, pause.heard - END_OF_TURN_SECONDS * MIC_SAMPLE_RATE_HZ)
        probability = await self._threads.judge(
            self._recognizer.end_of_turn_probability, self._sound.between(begin, pause.heard)
        )
        await pause.confirmed.wait()
        end_of_turn = asr_pb2.EndOfTurn(probability=probability, at_ms=self._ms(pause.at))
        await self._put(TranscriptMessage(end_of_turn=end_of_turn), lambda: self._pause is pause)

    async def _final_text(self, pause: Pause) -> str:
        async with self._decoding:
            samples = self._sound.between(pause.turn.begin, pause.heard)
            text = await self._threads.final(self._recognizer.final_text, samples)
            return join(pause.turn.settled, text)

    # Partials

    def _guess_if_due(self) -> None:
        """Starts a partial pass when there is enough new sound, and none is running."""
        is_running = self._guessing is not None and not self._guessing.done()
        if self._detector.state is not State.SPEAKING or is_running:
            return
        new = self._detector.heard - max(self._guessed_to, self._turn.partial.begin)
        if new >= self._settings.partial_interval_ms * SAMPLES_PER_MS:
            self._guessed_to = self._detector.heard
            self._guessing = self._tasks.create_task(self._guess(self._turn), name="partial")

    async def _guess(self, turn: Turn) -> None:
        begin = turn.partial.begin
        samples = self._sound.between(begin, self._guessed_to)
        is_full = len(samples) > self._settings.partial_window_ms * SAMPLES_PER_MS
        cut = quietest_moment(samples, last_seconds=3) if is_full else len(samples)
        guess = await self._threads.partial(partial(self._recognizer.partial_text, samples[:cut]))
        if guess is None or turn is not self._turn or turn.partial.begin != begin:
            return  # skipped, or the text has moved on meanwhile
        text = turn.partial.accept(guess)
        if is_full:
            turn.partial.settle_guess(guess, begin + cut)
        if text is not None:
            message = TranscriptMessage(partial=asr_pb2.PartialTranscript(text=text))
            await self._put(message, lambda: turn is self._turn)

    # Writing

    async def _put(
        self,
        message: TranscriptMessage,
        is_wanted: Callable[[], bool] = lambda: True,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        await self._outgoing.put(Outgoing(message, is_wanted, written))

    async def _write(self, emit: Emit) -> None:
        """The one that emits: a pass that is withdrawn never leaves a hole in the numbering."""
        while (outgoing := await self._outgoing.get()) is not None:
            if outgoing.is_wanted():
                await emit(outgoing.message)
                outgoing.written()
        await emit(TranscriptMessage(end=asr_pb2.TranscriptEnd()))

    async def _finish(self) -> None:
        for event in self._detector.end():
            await self._on_speech_event(event)
        if self._judging is not None:
            await self._judging
        for task in (self._settling, self._guessing):
            if task is not None:
                task.cancel()
        await self._outgoing.put(None)

    # Times

    def _ms(self, position: int) -> float:
        return (self._origin_ms or 0.0) + position / SAMPLES_PER_MS

    def _position(self, at_ms: float) -> int:
        return round((at_ms - (self._origin_ms or 0.0)) * SAMPLES_PER_MS)


def checked_samples(audio: AudioChunk) -> Samples:
    """The chunk's samples.

    Raises:
        ValueError: not PCM16 at the microphone's rate; the message tells what to do.
    """
    if audio.sample_rate_hz != MIC_SAMPLE_RATE_HZ:
        raise ValueError(
            f"audio.sample_rate_hz is {audio.sample_rate_hz}. Resample the microphone to "
            f"{MIC_SAMPLE_RATE_HZ} Hz."
        )
    if len(audio.pcm) % 2:
        raise ValueError(
            f"audio.pcm has {len(audio.pcm)} bytes. Send whole 16 bit samples: an even number."
        )
    return pcm_to_samples(audio.pcm)
