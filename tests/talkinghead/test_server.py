"""The showing service through its front door: gRPC and Redis, with the fake face."""

import asyncio
import time

import av
import grpc
import pytest

from services.talkinghead.backends.fake import FakeBackend, read_counters
from services.talkinghead.server import TalkingHeadServicer
from services.talkinghead.settings import Settings
from tests.conftest import StartWorker, read_until_end
from visavis.streams import StaleEpochError, Streams, stream_key
from visavis.v1.common_pb2 import AudioChunk, PlaybackPosition, TurnRef
from visavis.v1.talkinghead_pb2 import (
    VIDEO_CODEC_H264,
    VIDEO_CODEC_JPEG,
    AnimateRequest,
    VideoFormat,
    VideoMessage,
)
from visavis.v1.talkinghead_pb2_grpc import (
    TalkingHeadServiceStub,
    add_TalkingHeadServiceServicer_to_server,
)
from visavis.v1.tts_pb2 import Clause, SpeechEnd, SpeechMessage, TimedPhoneme

EPOCH = 3
RATE_HZ = 16_000
CHUNK_MS = 100
H264 = VideoFormat(codec=VIDEO_CODEC_H264, size_px=256)


def register(backend: FakeBackend):
    return lambda server, worker: add_TalkingHeadServiceServicer_to_server(
        TalkingHeadServicer(worker, backend), server
    )


def request(session_id: str, **fields: object) -> AnimateRequest:
    given = {"persona_id": "theo", "format": H264, "first_loop_frame": 245, **fields}
    return AnimateRequest(
        turn=TurnRef(session_id=session_id, epoch=EPOCH),
        speech_stream=stream_key(session_id, "speech"),
        video_stream=stream_key(session_id, "video"),
        playback_stream=stream_key(session_id, "playback"),
        **given,
    )


def speech(text: str, length_ms: int) -> list[SpeechMessage]:
    """One clause with its sound, in chunks of 100 ms, and the end."""
    phonemes = [
        TimedPhoneme(symbol="am"[n % 2], start_ms=t, end_ms=t + 200)
        for n, t in enumerate(range(0, length_ms, 200))
    ]
    pcm = bytes(RATE_HZ * CHUNK_MS // 1000 * 2)
    return [
        SpeechMessage(clause=Clause(text=text, end_ms=length_ms, phonemes=phonemes)),
        *[
            SpeechMessage(audio=AudioChunk(pcm=pcm, sample_rate_hz=RATE_HZ, pts_ms=t))
            for t in range(0, length_ms, CHUNK_MS)
        ],
        SpeechMessage(end=SpeechEnd(duration_ms=length_ms)),
    ]


async def say(streams: Streams, session_id: str, messages: list[SpeechMessage]) -> None:
    key = stream_key(session_id, "speech")
    for seq, message in enumerate(messages, 1):
        await streams.write(key, EPOCH, seq, message)


def counters(messages: list[VideoMessage]) -> list[tuple[int, int]]:
    """Number and loop frame of each picture, as decoded."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    packets = [av.Packet(m.frame.data) for m in messages if m.HasField("frame")]
    return [
        read_counters(picture.to_ndarray(format="bgr24"))
        for packet in [*packets, None]
        for picture in decoder.decode(packet)
    ]


async def test_shows_a_turn_from_loop_frame_to_loop_frame(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """Events come in order, each picture is the one it says it is, and the loop goes on behind the last."""
    async with (
        start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(0))) as (
            _,
            channel,
        ),
        streams.subscribe(stream_key(session_id, "video"), EPOCH, VideoMessage) as video,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id))
        await say(streams, session_id, speech("Hello there.", 1000))
        messages = await read_until_end(video, lambda m: m.HasField("end"))
        events = [event.work.WhichOneof("event") async for event in call]
    assert events[0] == "started" and events[1] == "first_output" and events[-1] == "finished"
    frames = [m.frame for m in messages[:-1]]
    assert [frame.pts_ms for frame in frames] == [40.0 * n for n in range(26)]
    assert [frame.loop_frame for frame in frames] == [(245 + n) % 250 for n in range(26)]
    assert frames[0].keyframe
    assert counters(messages) == [(n, (245 + n) % 250) for n in range(26)]
    assert messages[-1].end.loop_frame == (frames[-1].loop_frame + 1) % 250


async def test_stays_within_its_lead_of_the_playback_position(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """Pictures are written up to `lead_ms` ahead of the user's ear, and go on when the ear moves."""
    async with (
        start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(0))) as (
            _,
            channel,
        ),
        streams.subscribe(stream_key(session_id, "video"), EPOCH, VideoMessage) as video,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id, lead_ms=600))
        await say(streams, session_id, speech("One two three.", 3000))
        written: list[float] = []
        playback = stream_key(session_id, "playback")
        async with asyncio.timeout(20):
            async for message in video:
                if message.HasField("end"):
                    break
                written.append(message.frame.pts_ms)
                if len(written) == 16:
                    await asyncio.sleep(0.2)
                    assert await streams.client.xlen(stream_key(session_id, "video")) == 16
                    await streams.write(playback, EPOCH, 1, PlaybackPosition(played_ms=400))
                elif len(written) == 26:
                    await asyncio.sleep(0.2)
                    assert await streams.client.xlen(stream_key(session_id, "video")) == 26
                    await streams.write(playback, EPOCH, 2, PlaybackPosition(played_ms=2600))
        assert written[15] == 600 and written[25] == 1000
        call.cancel()


async def test_sessions_at_once_do_not_mix(streams: Streams, start_worker: StartWorker):
    """Four turns side by side, with one persona: everyone gets the colour of their own words."""
    words = ["red words", "green words", "blue words", "yellow words"]
    async with start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(3))) as (
        worker,
        channel,
    ):

        async def show(number: int) -> bool:
            session_id = f"{number}-{time.monotonic_ns()}"
            asked = request(
                session_id,
                first_loop_frame=number * 50,
                format=VideoFormat(codec=VIDEO_CODEC_JPEG, size_px=256),
            )
            key = stream_key(session_id, "video")
            async with streams.subscribe(key, EPOCH, VideoMessage) as video:
                call = TalkingHeadServiceStub(channel).Animate(asked)
                await say(streams, session_id, speech(words[number], 1200))
                messages = await read_until_end(video, lambda m: m.HasField("end"))
                assert [e.work.WhichOneof("event") async for e in call][-1] == "finished"
            animation = FakeBackend(0).open("theo", number * 50)
            animation.push_clause(Clause(text=words[number]))
            decoder = av.CodecContext.create("mjpeg", "r")
            for index, message in enumerate(messages[:-1]):
                (picture,) = decoder.decode(av.Packet(message.frame.data))
                shown = picture.to_ndarray(format="bgr24")
                assert read_counters(shown) == (index, (number * 50 + index) % 250)
                assert abs(shown[250, 250].astype(int) - animation.colour).max() < 6
            return True

        assert all(await asyncio.gather(*map(show, range(4))))
        assert worker.used == 0


async def test_the_loop_stays_responsive_with_four_sessions(
    streams: Streams, start_worker: StartWorker
):
    """Rendering and encoding never run on the event loop."""
    async with start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(20))) as (
        _,
        channel,
    ):
        calls = []
        for number in range(4):
            session_id = f"{number}-{time.monotonic_ns()}"
            asked = request(session_id, format=VideoFormat(codec=VIDEO_CODEC_H264, size_px=512))
            calls.append(TalkingHeadServiceStub(channel).Animate(asked))
            await say(streams, session_id, speech("Busy.", 2000))
        pauses = []
        while len(pauses) < 100:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            pauses.append(time.monotonic() - before - 0.005)
        for call in calls:
            call.cancel()
    assert sorted(pauses)[len(pauses) // 2] < 0.02


async def test_the_first_picture_comes_soon(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    async with start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(5))) as (
        _,
        channel,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id))
        assert (await call.read()).work.HasField("started")
        await asyncio.sleep(0.2)
        await say(streams, session_id, speech("Now.", 400))
        event = await call.read()
        assert event.work.first_output.elapsed_ms < 200


async def test_cancelling_in_the_middle_writes_nothing_more_and_frees_the_slot(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    key = stream_key(session_id, "video")
    async with (
        start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(30))) as (
            worker,
            channel,
        ),
        streams.subscribe(key, EPOCH, VideoMessage) as video,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id))
        await say(streams, session_id, speech("A long speech.", 20_000))
        async for message in video:
            if message.frame.pts_ms >= 200:
                break
        call.cancel()
        async with asyncio.timeout(2):
            await worker.idle()
        length = await streams.client.xlen(key)
        await asyncio.sleep(0.4)
        assert await streams.client.xlen(key) == length < 500
        assert worker.used == 0


async def test_a_newer_epoch_takes_over(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """A flush of the next epoch ends the call with ABORTED, and refuses the old writer."""
    async with start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(0))) as (
        worker,
        channel,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id))
        await call.read()
        await streams.flush(stream_key(session_id, "speech"), EPOCH + 1)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.ABORTED
        assert worker.used == 0
    with pytest.raises(StaleEpochError):
        await say(streams, session_id, speech("too late", 200))


async def test_a_taken_over_video_stream_refuses_the_late_writer(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    async with start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(0))) as (
        _,
        channel,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id))
        await call.read()
        await streams.flush(stream_key(session_id, "video"), EPOCH + 1)
        await say(streams, session_id, speech("Too late.", 400))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.ABORTED


async def test_unknown_persona_is_not_found(start_worker: StartWorker, session_id: str):
    async with start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(0))) as (
        worker,
        channel,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id, persona_id="nobody"))
        with pytest.raises(grpc.aio.AioRpcError, match="no persona 'nobody'") as error:
            async for _ in call:
                pass
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert worker.used == 0


@pytest.mark.parametrize(
    ("format", "message"),
    [
        (VideoFormat(size_px=256), "format.codec is 0: choose one of"),
        (VideoFormat(codec=VIDEO_CODEC_H264), "format.size_px is 0"),
        (VideoFormat(codec=VIDEO_CODEC_H264, size_px=1024), "theo has 512"),
    ],
)
async def test_a_format_that_cannot_be_made_is_an_invalid_argument(
    start_worker: StartWorker, session_id: str, format: VideoFormat, message: str
):
    async with start_worker("talkinghead", Settings(backend="fake"), register(FakeBackend(0))) as (
        _,
        channel,
    ):
        call = TalkingHeadServiceStub(channel).Animate(request(session_id, format=format))
        with pytest.raises(grpc.aio.AioRpcError, match=message) as error:
            async for _ in call:
                pass
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_full_worker_refuses(start_worker: StartWorker, session_id: str):
    settings = Settings(backend="fake", slots=1)
    async with start_worker("talkinghead", settings, register(FakeBackend(0))) as (_, channel):
        first = TalkingHeadServiceStub(channel).Animate(request(session_id))
        await first.read()
        second = TalkingHeadServiceStub(channel).Animate(request("another"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await second.read()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
