"""The speaking service through its front door: gRPC and Redis, with the fake voice."""

import asyncio

import grpc
import pytest

from services.tts.backends.fake import FakeBackend
from services.tts.server import TtsServicer
from services.tts.settings import Settings
from tests.conftest import StartWorker, read_until_end
from visavis.streams import StaleEpochError, Streams, stream_key
from visavis.v1.common_pb2 import PlaybackPosition, TurnRef
from visavis.v1.llm_pb2 import ReplyEnd, ReplyMessage
from visavis.v1.tts_pb2 import SpeechMessage, SynthesizeRequest
from visavis.v1.tts_pb2_grpc import TtsServiceStub, add_TtsServiceServicer_to_server

EPOCH = 3


def register(backend: FakeBackend):
    return lambda server, worker: add_TtsServiceServicer_to_server(
        TtsServicer(worker, backend), server
    )


def request(session_id: str, **fields: object) -> SynthesizeRequest:
    return SynthesizeRequest(
        turn=TurnRef(session_id=session_id, epoch=EPOCH),
        reply_stream=stream_key(session_id, "reply"),
        speech_stream=stream_key(session_id, "speech"),
        playback_stream=stream_key(session_id, "playback"),
        **fields,
    )


async def say(streams: Streams, session_id: str, *deltas: str, epoch: int = EPOCH) -> None:
    key = stream_key(session_id, "reply")
    for seq, delta in enumerate(deltas, 1):
        await streams.write(key, epoch, seq, ReplyMessage(text_delta=delta))
    await streams.write(key, epoch, len(deltas) + 1, ReplyMessage(end=ReplyEnd()))


async def test_speaks_a_reply_clause_by_clause(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """Events come in order, sound is contiguous, and every word has its time."""
    async with (
        start_worker("tts", Settings(backend="fake"), register(FakeBackend(0))) as (_, channel),
        streams.subscribe(stream_key(session_id, "speech"), EPOCH, SpeechMessage) as speech,
    ):
        call = TtsServiceStub(channel).Synthesize(request(session_id))
        await say(streams, session_id, "Hello there, my fr", "iend. How are", " you?")
        messages = await read_until_end(speech, lambda m: m.HasField("end"))
        events = [event.work.WhichOneof("event") async for event in call]
    assert events[0] == "started" and events[1] == "first_output" and events[-1] == "finished"
    clauses = [m.clause for m in messages if m.HasField("clause")]
    assert "".join(c.text for c in clauses) == "Hello there, my friend. How are you?"
    assert [w.text for c in clauses for w in c.words] == [
        "Hello",
        "there,",
        "my",
        "friend.",
        "How",
        "are",
        "you?",
    ]
    ends = 0.0
    for audio in (m.audio for m in messages if m.HasField("audio")):
        assert audio.pts_ms == pytest.approx(ends)
        ends += len(audio.pcm) / 2 / audio.sample_rate_hz * 1000
    assert messages[-1].end.duration_ms == pytest.approx(ends)


async def test_stays_within_its_lead_of_the_playback_position(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """Sound is written up to `lead_ms` ahead of the user's ear, and goes on when the ear moves."""
    key = stream_key(session_id, "speech")
    async with (
        start_worker("tts", Settings(backend="fake"), register(FakeBackend(0))) as (_, channel),
        streams.subscribe(key, EPOCH, SpeechMessage) as speech,
    ):
        call = TtsServiceStub(channel).Synthesize(request(session_id, lead_ms=300))
        await say(streams, session_id, "one two three four five six seven.")
        written: list[float] = []

        async def collect() -> None:
            async for message in speech:
                if message.HasField("audio"):
                    written.append(message.audio.pts_ms)

        collecting = asyncio.ensure_future(collect())
        await asyncio.sleep(0.3)
        assert max(written) <= 300
        await streams.write(
            stream_key(session_id, "playback"), EPOCH, 1, PlaybackPosition(played_ms=400)
        )
        await asyncio.sleep(0.3)
        assert 600 <= max(written) <= 700
        collecting.cancel()
        call.cancel()


async def test_cancelling_in_the_middle_writes_nothing_more_and_frees_the_slot(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    key = stream_key(session_id, "speech")
    async with (
        start_worker("tts", Settings(backend="fake"), register(FakeBackend(100))) as (
            worker,
            channel,
        ),
        streams.subscribe(key, EPOCH, SpeechMessage) as speech,
    ):
        call = TtsServiceStub(channel).Synthesize(request(session_id))
        await say(streams, session_id, *["This is a long sentence that goes on. "] * 20)
        async for message in speech:
            if message.HasField("audio"):
                break
        call.cancel()
        async with asyncio.timeout(2):
            await worker.idle()
        length = await streams.client.xlen(key)
        await asyncio.sleep(0.4)
        assert await streams.client.xlen(key) == length
        assert worker.used == 0


async def test_a_newer_epoch_takes_over(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """A flush of the next epoch ends the call with ABORTED, and refuses the old writer."""
    async with start_worker("tts", Settings(backend="fake"), register(FakeBackend(0))) as (
        _,
        channel,
    ):
        call = TtsServiceStub(channel).Synthesize(request(session_id))
        await call.read()
        await streams.flush(stream_key(session_id, "reply"), EPOCH + 1)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.ABORTED
    with pytest.raises(StaleEpochError):
        await say(streams, session_id, "too late")


async def test_unknown_voice_is_not_found(start_worker: StartWorker, session_id: str):
    async with start_worker("tts", Settings(backend="fake"), register(FakeBackend(0))) as (
        worker,
        channel,
    ):
        call = TtsServiceStub(channel).Synthesize(request(session_id, voice="nobody"))
        with pytest.raises(grpc.aio.AioRpcError, match="no voice 'nobody'") as error:
            async for _ in call:
                pass
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert worker.used == 0


async def test_full_worker_refuses(start_worker: StartWorker, session_id: str):
    settings = Settings(backend="fake", slots=1)
    async with start_worker("tts", settings, register(FakeBackend(0))) as (_, channel):
        first = TtsServiceStub(channel).Synthesize(request(session_id))
        await first.read()
        second = TtsServiceStub(channel).Synthesize(request("another"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await second.read()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
