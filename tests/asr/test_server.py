"""The listening service through its front door: gRPC and Redis, with the fake ear."""

import asyncio
from collections.abc import Iterable

import grpc
import numpy as np
import pytest

from services.asr.backends.fake import FakeBackend, tone
from services.asr.server import AsrServicer
from services.asr.settings import Settings
from tests.asr.listening import chunks, silence, speech
from tests.conftest import StartWorker, read_until_end
from visavis.audio import Samples
from visavis.streams import StaleEpochError, Streams, stream_key
from visavis.v1.asr_pb2 import (
    MicEnd,
    MicMessage,
    TranscribeRequest,
    TranscriptMessage,
    UserTurnEnded,
)
from visavis.v1.asr_pb2_grpc import AsrServiceStub, add_AsrServiceServicer_to_server
from visavis.v1.common_pb2 import AudioChunk, TurnRef

EPOCH = 3
SETTINGS = Settings(backend="fake")
OUR_TASKS = {"write", "judge", "end-of-turn", "settle", "partial"}


def register(backend: FakeBackend, settings: Settings = SETTINGS):
    return lambda server, worker: add_AsrServiceServicer_to_server(
        AsrServicer(worker, settings, backend), server
    )


def request(session_id: str, **fields: object) -> TranscribeRequest:
    return TranscribeRequest(
        turn=TurnRef(session_id=session_id, epoch=EPOCH),
        mic_stream=stream_key(session_id, "mic"),
        transcript_stream=stream_key(session_id, "transcript"),
        **fields,
    )


class Mic:
    """The gateway's side of a session's microphone."""

    def __init__(self, streams: Streams, session_id: str, epoch: int = EPOCH) -> None:
        self._streams = streams
        self._key = stream_key(session_id, "mic")
        self._epoch = epoch
        self._seq = 0
        self._now_ms = 0.0

    async def say(self, *sounds: Samples, chunk_ms: float = 20) -> None:
        for sound in sounds:
            await self._write(chunks(sound, self._now_ms, chunk_ms))
            self._now_ms += len(sound) / 16

    async def user_turn_ended(self, until_ms: float) -> None:
        await self._write([MicMessage(user_turn_ended=UserTurnEnded(until_ms=until_ms))])

    async def end(self) -> None:
        await self._write([MicMessage(end=MicEnd())])

    async def _write(self, messages: Iterable[MicMessage]) -> None:
        for message in messages:
            self._seq += 1
            await self._streams.write(self._key, self._epoch, self._seq, message)


def transcript(streams: Streams, session_id: str):
    return streams.subscribe(stream_key(session_id, "transcript"), EPOCH, TranscriptMessage)


def is_end(message: TranscriptMessage) -> bool:
    return message.HasField("end")


async def until(subscription, kind: str) -> TranscriptMessage:
    return (await read_until_end(subscription, lambda m: m.HasField(kind), 5))[-1]


async def test_listens_to_a_session_turn_by_turn(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """Events come in order; text starts anew when the gateway takes a turn; the end is said."""
    async with (
        start_worker("asr", SETTINGS, register(FakeBackend())) as (worker, channel),
        transcript(streams, session_id) as written,
    ):
        call = AsrServiceStub(channel).Transcribe(request(session_id))
        mic = Mic(streams, session_id)
        await mic.say(silence(300), speech("alpha bravo"), silence(300))
        first = (await until(written, "final")).final
        await mic.user_turn_ended(first.end_ms)
        await mic.say(silence(500), speech("charlie"), silence(300))
        second = (await until(written, "final")).final
        await mic.end()
        assert (await read_until_end(written, is_end))[-1].HasField("end")
        events = [event.work.WhichOneof("event") async for event in call]
        assert worker.metrics.p95_ms > 0
    assert (first.text, second.text) == ("alpha bravo", "charlie")
    assert events[0] == "started" and events[1] == "first_output" and events[-1] == "finished"
    assert worker.used == 0


async def test_sessions_at_once_never_mix(streams: Streams, start_worker: StartWorker):
    words = ["alpha", "bravo", "charlie", "delta"]
    settings = Settings(backend="fake", slots=4)
    async with start_worker("asr", settings, register(FakeBackend(delay_ms=20))) as (_, channel):

        async def converse(name: str, word: str) -> list[str]:
            async with transcript(streams, name) as written:
                call = AsrServiceStub(channel).Transcribe(request(name))
                mic = Mic(streams, name)
                for _ in range(5):
                    await mic.say(speech(f"{word} {word}"), silence(400))
                    await until(written, "final")
                await mic.end()
                rest = await read_until_end(written, is_end)
                call.cancel()
                return [m.final.text for m in rest if m.HasField("final")] or [word]

        texts = await asyncio.gather(
            *(converse(f"mixed-{word}", word) for word in words), return_exceptions=False
        )
    for word, found in zip(words, texts, strict=True):
        assert set(" ".join(found).split()) == {word}


async def test_cancelling_in_the_middle_writes_nothing_more_and_frees_the_slot(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """Cut off in the middle of a final pass: no text of it is written, and the next session is served."""
    settings = Settings(backend="fake", slots=1)
    async with (
        start_worker("asr", settings, register(FakeBackend(delay_ms=200))) as (worker, channel),
        transcript(streams, session_id) as written,
    ):
        call = AsrServiceStub(channel).Transcribe(request(session_id))
        mic = Mic(streams, session_id)
        await mic.say(speech("alpha"), silence(300))
        await until(written, "speech_stopped")
        call.cancel()
        async with asyncio.timeout(2):
            await worker.idle()
        key = stream_key(session_id, "transcript")
        length = await streams.client.xlen(key)
        await mic.say(speech("bravo"), silence(300))
        await asyncio.sleep(0.4)
        assert await streams.client.xlen(key) == length
        assert not {task.get_name() for task in asyncio.all_tasks()} & OUR_TASKS
        async with transcript(streams, "after") as written_after:
            call = AsrServiceStub(channel).Transcribe(request("after"))
            next_mic = Mic(streams, "after")
            await next_mic.say(speech("charlie"), silence(300))
            assert (await until(written_after, "final")).final.text == "charlie"
            call.cancel()


async def test_a_newer_epoch_takes_over(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """A flush of the next epoch ends the call with ABORTED, and refuses the old writer."""
    async with start_worker("asr", SETTINGS, register(FakeBackend())) as (_, channel):
        call = AsrServiceStub(channel).Transcribe(request(session_id))
        events = aiter(call)
        await anext(events)
        await streams.flush(stream_key(session_id, "mic"), EPOCH + 1)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in events:
                pass
        assert error.value.code() is grpc.StatusCode.ABORTED
    with pytest.raises(StaleEpochError):
        await Mic(streams, session_id).say(silence(20))


async def test_a_replaced_worker_cannot_write(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """When only the transcript has a newer epoch, the next thing heard ends the call."""
    async with start_worker("asr", SETTINGS, register(FakeBackend())) as (worker, channel):
        call = AsrServiceStub(channel).Transcribe(request(session_id))
        events = aiter(call)
        await anext(events)
        await streams.flush(stream_key(session_id, "transcript"), EPOCH + 1)
        await Mic(streams, session_id).say(speech("alpha"), silence(300))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in events:
                pass
        assert error.value.code() is grpc.StatusCode.ABORTED
        assert worker.used == 0


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (AudioChunk(pcm=b"\0" * 641, sample_rate_hz=16_000), "whole 16 bit samples"),
        (AudioChunk(pcm=b"\0" * 640, sample_rate_hz=44_100), "Resample the microphone to 16000"),
    ],
)
async def test_bad_sound_is_an_invalid_argument_and_the_service_stays_up(
    streams: Streams, start_worker: StartWorker, session_id: str, chunk: AudioChunk, message: str
):
    async with start_worker("asr", SETTINGS, register(FakeBackend())) as (worker, channel):
        call = AsrServiceStub(channel).Transcribe(request(session_id))
        await streams.write(stream_key(session_id, "mic"), EPOCH, 1, MicMessage(audio=chunk))
        with pytest.raises(grpc.aio.AioRpcError, match=message) as error:
            async for _ in call:
                pass
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        other = f"{session_id}-other"
        async with transcript(streams, other) as written:
            call = AsrServiceStub(channel).Transcribe(request(other))
            await Mic(streams, other).say(speech("delta"), silence(300))
            assert (await until(written, "final")).final.text == "delta"
            call.cancel()


async def test_an_unknown_language_is_not_found(start_worker: StartWorker, session_id: str):
    async with start_worker("asr", SETTINGS, register(FakeBackend())) as (_, channel):
        call = AsrServiceStub(channel).Transcribe(request(session_id, language="tlh"))
        with pytest.raises(grpc.aio.AioRpcError, match="no ear for language 'tlh'") as error:
            async for _ in call:
                pass
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_full_worker_refuses(start_worker: StartWorker, session_id: str):
    settings = Settings(backend="fake", slots=1)
    async with start_worker("asr", settings, register(FakeBackend())) as (_, channel):
        first = AsrServiceStub(channel).Transcribe(request(session_id, language="en-GB"))
        await first.read()
        second = AsrServiceStub(channel).Transcribe(request("another"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await second.read()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()


async def test_an_hour_of_monologue(streams: Streams, start_worker: StartWorker, session_id: str):
    """In fast time, through Redis: every word arrives once, nothing is trimmed unread."""
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]
    minute = np.concatenate(
        [part for i in range(120) for part in (tone(words[i % 8], 440), silence(60))]
    )
    async with (
        start_worker("asr", SETTINGS, register(FakeBackend())) as (_, channel),
        transcript(streams, session_id) as written,
    ):
        call = AsrServiceStub(channel).Transcribe(request(session_id))
        mic = Mic(streams, session_id)
        for _ in range(60):
            await mic.say(minute, chunk_ms=1000)
        await mic.end()
        messages = await read_until_end(written, is_end)
        assert [event.work.WhichOneof("event") async for event in call][-1] == "finished"
    finals = [m.final for m in messages if m.HasField("final")]
    assert finals[-1].text.split() == [words[i % 8] for i in range(120)] * 60
    assert finals[-1].end_ms == pytest.approx(3_600_000, abs=200)
