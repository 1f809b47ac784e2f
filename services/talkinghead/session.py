"""One turn being shown: speech in, encoded pictures out. Knows neither gRPC nor Redis."""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import Any, Generic

from services.talkinghead.backend import FRAME_MS, A, LookAhead, Picture
from services.talkinghead.codec import Encoder
from services.talkinghead.scheduler import Scheduler
from visavis.audio import duration_ms
from visavis.credit import Credit
from visavis.v1.talkinghead_pb2 import VideoEnd, VideoFrame, VideoMessage
from visavis.v1.tts_pb2 import SpeechMessage

# Pictures rendered before the one before them has been written; when full, rendering waits.
PICTURES_AHEAD = 2

Emit = Callable[[VideoMessage], Awaitable[None]]


class Horizon:
    """How far the speech is known, and so which pictures can be made."""

    def __init__(self, look_ahead: LookAhead) -> None:
        self._look_ahead = look_ahead
        self._timings_ms = 0.0
        self._sound_ms = 0.0
        self._changed = asyncio.Event()
        self.duration_ms = math.inf  # of the sound, once it is over
        self.pictures = math.inf  # how many the turn has, once that is known

    def timings_known(self, until_ms: float) -> None:
        self._timings_ms = until_ms
        self._changed.set()

    def sound_known(self, until_ms: float) -> None:
        self._sound_ms = until_ms
        self._changed.set()

    def ended(self, duration_ms: float, at_rest_ms: float) -> None:
        """The last picture is the first that lies neither before the end nor before the closed mouth."""
        self.duration_ms = duration_ms
        last = math.ceil(max(duration_ms, at_rest_ms) / FRAME_MS)
        self.pictures = last + 1 if duration_ms else 0
        self._changed.set()

    @property
    def is_complete(self) -> bool:
        return self.pictures < math.inf

    def has_sound(self, pts_ms: float) -> bool:
        return self.is_complete or self._sound_ms > pts_ms

    def has_look_ahead(self, pts_ms: float) -> bool:
        return self.is_complete or (
            self._sound_ms > pts_ms + self._look_ahead.sound_ms
            and self._timings_ms >= pts_ms + self._look_ahead.timings_ms
        )

    async def wait(self, is_reached: Callable[[float], bool], pts_ms: float) -> None:
        while not is_reached(pts_ms):
            self._changed.clear()
            await self._changed.wait()


class AnimationSession(Generic[A]):
    """Shows one turn. Made for it and thrown away."""

    def __init__(
        self, animation: A, encoder: Encoder, scheduler: Scheduler[A], executor: Executor
    ) -> None:
        self._animation = animation
        self._encoder = encoder
        self._scheduler = scheduler
        self._executor = executor
        self._horizon = Horizon(animation.look_ahead)
        self._pictures: asyncio.Queue[tuple[int, Picture] | None] = asyncio.Queue(PICTURES_AHEAD)

    async def run(
        self, speech: AsyncIterator[SpeechMessage], emit: Emit, credit: Credit, lead_ms: float
    ) -> None:
        """Reads the speech to its end and emits video to its end, at most `lead_ms` ahead of the credit."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(speech), name="listen")
            tasks.create_task(self._draw(credit, lead_ms), name="draw")
            tasks.create_task(self._write(emit), name="write")

    async def _listen(self, speech: AsyncIterator[SpeechMessage]) -> None:
        async for message in speech:
            if message.HasField("clause"):
                self._animation.push_clause(message.clause)
                self._horizon.timings_known(message.clause.end_ms)
            elif message.HasField("audio"):
                audio = message.audio
                self._animation.push_audio(audio.pcm, audio.sample_rate_hz, audio.pts_ms)
                self._horizon.sound_known(
                    audio.pts_ms + duration_ms(audio.pcm, audio.sample_rate_hz)
                )
            elif message.HasField("end"):
                at_rest_ms = self._animation.end(message.end.duration_ms)
                self._horizon.ended(message.end.duration_ms, at_rest_ms)
                return

    async def _draw(self, credit: Credit, lead_ms: float) -> None:
        for index in itertools.count():
            await self._wait_until_due(index * FRAME_MS, credit, lead_ms)
            if index >= self._horizon.pictures:
                break
            picture = await self._scheduler.render(
                self._animation, index, partial(self._slack_ms, index, credit)
            )
            if picture is not None:
                await self._pictures.put((index, picture))
        await self._pictures.put(None)

    async def _wait_until_due(self, pts_ms: float, credit: Credit, lead_ms: float) -> None:
        """Returns when the picture of this time may be made, or when there will be none.

        Nothing is drawn ahead of the sound. When the sound stalls because the reply does, the client's
        clock, which is the sound's, stands still with it: no picture is missing.

        The look-ahead is another matter. The end of a clause wants the beginning of the next; when that
        is late, half the lead is spent on waiting for it, and then the mouth closes as for a pause.
        """
        horizon = self._horizon
        await horizon.wait(horizon.has_sound, pts_ms)
        # What lies behind the sound is due with its end: playback goes no further.
        await credit.wait_until_due(min(pts_ms, horizon.duration_ms))
        if not horizon.has_look_ahead(pts_ms):
            waits = [horizon.wait(horizon.has_look_ahead, pts_ms)]
            if lead_ms:
                waits.append(credit.wait_until_due(pts_ms + lead_ms / 2))
            await first_of(*waits)

    def _slack_ms(self, index: int, credit: Credit) -> float:
        """Time left for a picture. The last one closes the mouth: it is never too late for that."""
        slack_ms = index * FRAME_MS - credit.played_ms
        return max(slack_ms, 0) if index == self._horizon.pictures - 1 else slack_ms

    async def _write(self, emit: Emit) -> None:
        loop = asyncio.get_running_loop()
        while (item := await self._pictures.get()) is not None:
            index, picture = item
            # Cancelled here: the thread finishes its picture, and nobody takes it.
            encoded = await loop.run_in_executor(
                self._executor, self._encoder.encode, picture, index
            )
            frame = VideoFrame(
                data=encoded.data,
                pts_ms=index * FRAME_MS,
                keyframe=encoded.keyframe,
                loop_frame=self._animation.loop_frame(index),
            )
            await emit(VideoMessage(frame=frame))
        following = self._animation.loop_frame(int(self._horizon.pictures))
        await emit(VideoMessage(end=VideoEnd(loop_frame=following)))


async def first_of(*waits: Coroutine[Any, Any, None]) -> None:
    """Returns when one of them does, and cancels the others."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(wait) for wait in waits]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            task.cancel()
