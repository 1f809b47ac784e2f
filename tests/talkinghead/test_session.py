"""One turn of video, with the playback position moved by hand and threads that run at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager

import numpy as np
import pytest

from services.talkinghead.backend import FRAME_MS, LookAhead
from services.talkinghead.backends.fake import FakeAnimation, FakeBackend, read_counters
from services.talkinghead.codec import EncodedFrame
from services.talkinghead.scheduler import Scheduler, pictures_dropped
from services.talkinghead.session import AnimationSession
from visavis.clock import settle
from visavis.credit import Credit
from visavis.v1.common_pb2 import AudioChunk
from visavis.v1.talkinghead_pb2 import VideoFrame, VideoMessage
from visavis.v1.tts_pb2 import Clause, SpeechEnd, SpeechMessage, TimedPhoneme

RATE_HZ = 16_000
FIRST_LOOP_FRAME = 240  # the fake's loop has 250


class InlineExecutor(Executor):
    def submit(self, fn: Callable, /, *args: object, **kwargs: object) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class RawEncoder:
    """Passes pictures through, so that a test can read their counters."""

    def encode(self, picture: np.ndarray, index: int) -> EncodedFrame:
        return EncodedFrame(picture.tobytes(), index == 0)


class PatientAnimation(FakeAnimation):
    look_ahead = LookAhead(timings_ms=120, sound_ms=80)

    def end(self, duration_ms: float) -> float:
        return duration_ms + 150


def clause(start_ms: float, end_ms: float, text: str = "a") -> SpeechMessage:
    phoneme = TimedPhoneme(symbol="a", start_ms=start_ms, end_ms=end_ms)
    return SpeechMessage(
        clause=Clause(text=text, start_ms=start_ms, end_ms=end_ms, phonemes=[phoneme])
    )


def sound(pts_ms: float, length_ms: float = 100) -> SpeechMessage:
    pcm = bytes(int(RATE_HZ * length_ms / 1000) * 2)
    return SpeechMessage(audio=AudioChunk(pcm=pcm, sample_rate_hz=RATE_HZ, pts_ms=pts_ms))


def end(duration_ms: float) -> SpeechMessage:
    return SpeechMessage(end=SpeechEnd(duration_ms=duration_ms))


class Turn:
    """A session at work: say something, look what has come out."""

    def __init__(self, animation: FakeAnimation, lead_ms: float) -> None:
        self.credit = Credit(lead_ms)
        self.written: list[VideoMessage] = []
        self._speech: asyncio.Queue[SpeechMessage] = asyncio.Queue()
        self._lead_ms = lead_ms
        executor = InlineExecutor()
        scheduler = Scheduler(FakeBackend(0), executor)
        self._session = AnimationSession(animation, RawEncoder(), scheduler, executor)

    async def run(self) -> None:
        await self._session.run(self._listen(), self._emit, self.credit, self._lead_ms)

    async def say(self, *messages: SpeechMessage) -> None:
        for message in messages:
            self._speech.put_nowait(message)
        await settle(1000)

    async def played(self, played_ms: float) -> None:
        self.credit.played(played_ms)
        await settle(1000)

    @property
    def frames(self) -> list[VideoFrame]:
        return [message.frame for message in self.written if message.HasField("frame")]

    @property
    def last_pts_ms(self) -> float:
        return self.frames[-1].pts_ms if self.frames else -1

    async def _listen(self) -> AsyncIterator[SpeechMessage]:
        while True:
            yield await self._speech.get()

    async def _emit(self, message: VideoMessage) -> None:
        self.written.append(message)


@asynccontextmanager
async def turn(lead_ms: float = 600, animation: FakeAnimation | None = None) -> AsyncIterator[Turn]:
    turn = Turn(animation or FakeAnimation("theo", FIRST_LOOP_FRAME), lead_ms)
    running = asyncio.ensure_future(turn.run())
    yield turn
    if not running.done():
        running.cancel()
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()


async def test_draws_every_picture_of_the_sound_on_its_loop_frame():
    async with turn(lead_ms=0) as shown:
        await shown.say(clause(0, 1000), *[sound(t) for t in range(0, 1000, 100)], end(1000))
    assert [frame.pts_ms for frame in shown.frames] == [n * FRAME_MS for n in range(26)]
    for index, frame in enumerate(shown.frames):
        picture = np.frombuffer(frame.data, np.uint8).reshape(512, 512, 3)
        assert read_counters(picture) == (index, (FIRST_LOOP_FRAME + index) % 250)
        assert frame.loop_frame == (FIRST_LOOP_FRAME + index) % 250
    assert [frame.keyframe for frame in shown.frames] == [True] + [False] * 25


async def test_the_loop_goes_on_where_the_last_picture_ends():
    async with turn(lead_ms=0) as shown:
        await shown.say(clause(0, 100), sound(0), end(100))
    assert shown.written[-1].end.loop_frame == (shown.frames[-1].loop_frame + 1) % 250
    assert [m.WhichOneof("content") for m in shown.written].count("end") == 1


async def test_never_ahead_of_the_sound():
    """Known timings are not enough: a picture is drawn when the sound of its moment is there."""
    async with turn(lead_ms=0) as shown:
        await shown.say(clause(0, 2000))
        assert not shown.frames
        for until_ms in range(100, 1100, 100):
            await shown.say(sound(until_ms - 100))
            assert until_ms - FRAME_MS <= shown.last_pts_ms < until_ms


async def test_never_ahead_of_the_credit():
    async with turn(lead_ms=600) as shown:
        await shown.say(clause(0, 3000), *[sound(t) for t in range(0, 3000, 100)], end(3000))
        assert shown.last_pts_ms == 600
        for played_ms in range(200, 2000, 200):
            await shown.played(played_ms)
            assert shown.last_pts_ms == played_ms + 600


async def test_the_closing_of_the_mouth_needs_no_playback_beyond_the_sound():
    """The client's clock stops with the sound, and the last pictures are due by then."""
    async with turn(lead_ms=40, animation=PatientAnimation("theo", 0)) as shown:
        await shown.say(clause(0, 400), *[sound(t) for t in range(0, 400, 100)], end(400))
        for played_ms in range(0, 401, 40):
            await shown.played(played_ms)
    assert shown.last_pts_ms == 560  # the first at or after 400 + 150
    assert shown.written[-1].HasField("end")


async def test_waits_for_the_look_ahead_and_gets_it_with_the_end():
    async with turn(lead_ms=0, animation=PatientAnimation("theo", 0)) as shown:
        await shown.say(clause(0, 300), sound(0))
        assert shown.last_pts_ms == 0  # 80 ms of sound behind it, not more
        await shown.say(sound(100), sound(200))
        assert shown.last_pts_ms == 160  # 120 ms of timings behind it, not more
        await shown.say(end(300))
        assert shown.last_pts_ms == 480


async def test_a_late_clause_does_not_hold_up_the_end_of_the_one_before():
    """With half of the lead gone, pictures are drawn with what is known."""
    async with turn(lead_ms=600, animation=PatientAnimation("theo", 0)) as shown:
        await shown.say(clause(0, 1000), *[sound(t) for t in range(0, 1000, 100)])
        await shown.played(400)
        assert shown.last_pts_ms == 880
        await shown.played(660)
        assert shown.last_pts_ms == 960
        await shown.played(1000)
        assert shown.last_pts_ms == 960  # never ahead of the sound
        await shown.say(clause(1000, 1500), *[sound(t) for t in range(1000, 1500, 100)])
        assert shown.last_pts_ms == 1360


async def test_pictures_that_the_ear_has_passed_are_dropped_but_not_the_last():
    dropped = pictures_dropped._value.get()
    async with turn(lead_ms=600) as shown:
        await shown.say(clause(0, 1000))
        await shown.played(900)
        await shown.say(*[sound(t) for t in range(0, 1000, 100)])
        assert [frame.pts_ms for frame in shown.frames] == [880, 920, 960]
        assert pictures_dropped._value.get() - dropped == 22
        await shown.played(5000)
        await shown.say(end(1000))
    assert shown.last_pts_ms == 1000


async def test_a_turn_without_sound_has_no_pictures():
    async with turn() as shown:
        await shown.say(end(0))
    assert [m.WhichOneof("content") for m in shown.written] == ["end"]
    assert shown.written[0].end.loop_frame == FIRST_LOOP_FRAME


async def test_a_render_error_ends_the_turn():
    class Broken(FakeAnimation):
        def draw(self, index: int) -> np.ndarray:
            raise RuntimeError("no such picture")

    with pytest.raises(ExceptionGroup):
        async with turn(animation=Broken("theo", 0)) as shown:
            await shown.say(clause(0, 100), sound(0))
