"""The thinking service through its front door: gRPC and Redis, with the fake mind."""

import asyncio
import threading

import grpc
import pytest

from services.llm.backends.fake import FakeBackend
from services.llm.server import LlmServicer
from services.llm.settings import Settings
from tests.conftest import StartWorker, read_until_end
from visavis.streams import Streams, stream_key
from visavis.v1.common_pb2 import TurnRef
from visavis.v1.llm_pb2 import (
    ChatMessage,
    GenerateRequest,
    ReplyEnd,
    ReplyMessage,
    WarmRequest,
)
from visavis.v1.llm_pb2_grpc import LlmServiceStub, add_LlmServiceServicer_to_server

EPOCH = 3


def register(backend: FakeBackend):
    return lambda server, worker: add_LlmServiceServicer_to_server(
        LlmServicer(worker, backend), server
    )


def chat(*texts: str) -> list[ChatMessage]:
    """User and agent in turns, the user first."""
    roles = (ChatMessage.ROLE_USER, ChatMessage.ROLE_AGENT)
    return [ChatMessage(role=roles[i % 2], text=text) for i, text in enumerate(texts)]


def request(session_id: str, *texts: str, epoch: int = EPOCH, **fields: int) -> GenerateRequest:
    return GenerateRequest(
        turn=TurnRef(session_id=session_id, epoch=epoch),
        reply_stream=stream_key(session_id, "reply"),
        messages=chat(*texts),
        **fields,
    )


async def read_reply(streams: Streams, session_id: str, epoch: int = EPOCH) -> str:
    async with streams.subscribe(stream_key(session_id, "reply"), epoch, ReplyMessage) as reply:
        messages = await read_until_end(reply, lambda m: m.HasField("end"))
    return "".join(message.text_delta for message in messages)


async def test_writes_the_reply_and_reports_in_order(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    async with start_worker(
        "llm", Settings(backend="fake", slots=4), register(FakeBackend(5, 1))
    ) as (
        _,
        channel,
    ):
        call = LlmServiceStub(channel).Generate(request(session_id, "Hello, it's me."))
        events = [event.work async for event in call]
        text = await read_reply(streams, session_id)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["started", "first_output"] and kinds[-1] == "finished"
    assert set(kinds[2:-1]) <= {"progress"}
    assert events[1].first_output.elapsed_ms >= 5
    assert events[-1].finished.last_seq == await streams.client.xlen(
        stream_key(session_id, "reply")
    )
    assert text == "You said: Hello, it's me. Tell me more."


async def test_cancelling_in_the_middle_writes_nothing_more_and_frees_the_slot(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    key = stream_key(session_id, "reply")
    backend = FakeBackend(token_ms=30)
    settings = Settings(backend="fake", slots=1)
    async with (
        start_worker("llm", settings, register(backend)) as (worker, channel),
        streams.subscribe(key, EPOCH, ReplyMessage) as reply,
    ):
        call = LlmServiceStub(channel).Generate(request(session_id, "word " * 100))
        async for _ in reply:
            break
        call.cancel()
        async with asyncio.timeout(2):
            await worker.idle()
        length, made = await streams.client.xlen(key), backend.tokens_made
        await asyncio.sleep(0.15)
        assert await streams.client.xlen(key) == length
        assert backend.tokens_made == made < 20
        again = LlmServiceStub(channel).Generate(request(session_id, "And now?", epoch=EPOCH + 1))
        assert [event.work.WhichOneof("event") async for event in again][-1] == "finished"
        assert await read_reply(streams, session_id, EPOCH + 1) == (
            "You said: And now? Tell me more."
        )


async def test_a_newer_epoch_voids_the_reply(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """After a flush of the next epoch, the next write ends the call with ABORTED."""
    backend = FakeBackend(token_ms=30)
    async with start_worker("llm", Settings(backend="fake", slots=4), register(backend)) as (
        worker,
        channel,
    ):
        call = LlmServiceStub(channel).Generate(request(session_id, "word " * 100))
        events = aiter(call)
        await anext(events)
        await streams.flush(stream_key(session_id, "reply"), EPOCH + 1)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in events:
                pass
        assert error.value.code() is grpc.StatusCode.ABORTED
        assert worker.used == 0
        assert backend.tokens_made < 20


async def test_two_sessions_at_once_never_mix(streams: Streams, start_worker: StartWorker):
    sessions = {f"session-{n}": f"my number is {n}" for n in range(4)}
    async with start_worker(
        "llm", Settings(backend="fake", slots=4), register(FakeBackend(2, 2))
    ) as (
        _,
        channel,
    ):
        calls = [
            LlmServiceStub(channel).Generate(request(session_id, text))
            for session_id, text in sessions.items()
        ]
        texts = await asyncio.gather(*(read_reply(streams, s) for s in sessions))
        for call in calls:
            async for _ in call:
                pass
    assert texts == [f"You said: {text} Tell me more." for text in sessions.values()]


async def test_warm_answers_with_the_length_of_the_prompt(
    start_worker: StartWorker, session_id: str
):
    async with start_worker("llm", Settings(backend="fake", slots=4), register(FakeBackend())) as (
        _,
        channel,
    ):
        response = await LlmServiceStub(channel).Warm(
            WarmRequest(session_id=session_id, messages=chat("one two three", "four"))
        )
    assert response.prompt_tokens == 4


async def test_a_generate_overtakes_the_warm_of_its_session(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    """The Warm, which would take ten seconds, is given up; the reply does not wait for it."""

    class SlowToWarm(FakeBackend):
        def warm(self, slot, messages, stop) -> int:  # type: ignore[no-untyped-def]
            stop.wait(10)
            return 0

    async with start_worker("llm", Settings(backend="fake", slots=4), register(SlowToWarm())) as (
        _,
        channel,
    ):
        stub = LlmServiceStub(channel)
        warming = stub.Warm(WarmRequest(session_id=session_id, messages=chat("Hello")))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2):
            events = [e async for e in stub.Generate(request(session_id, "Hello there"))]
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await warming
    assert events[-1].work.HasField("finished")
    assert error.value.code() is grpc.StatusCode.ABORTED


async def test_cancelling_a_warm_stops_the_model(start_worker: StartWorker, session_id: str):
    class Noting(FakeBackend):
        stopped = threading.Event()

        def warm(self, slot, messages, stop) -> int:  # type: ignore[no-untyped-def]
            if stop.wait(10):
                self.stopped.set()
            return 0

    backend = Noting()
    async with start_worker("llm", Settings(backend="fake", slots=4), register(backend)) as (
        _,
        channel,
    ):
        warming = LlmServiceStub(channel).Warm(
            WarmRequest(session_id=session_id, messages=chat("Hello"))
        )
        await asyncio.sleep(0.1)
        warming.cancel()
        assert await asyncio.to_thread(backend.stopped.wait, 2)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "messages is empty"),
        ([ChatMessage(role=ChatMessage.ROLE_USER, text="  ")], "messages is empty"),
        ([ChatMessage(text="hello")], r"messages\[0\].role is missing"),
    ],
)
async def test_a_bad_conversation_is_an_invalid_argument(
    start_worker: StartWorker, session_id: str, messages: list[ChatMessage], problem: str
):
    async with start_worker("llm", Settings(backend="fake", slots=4), register(FakeBackend())) as (
        worker,
        channel,
    ):
        stub = LlmServiceStub(channel)
        generating = GenerateRequest(turn=TurnRef(session_id=session_id), messages=messages)
        with pytest.raises(grpc.aio.AioRpcError, match=problem) as error:
            async for _ in stub.Generate(generating):
                pass
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError, match=problem) as error:
            await stub.Warm(WarmRequest(session_id=session_id, messages=messages))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert worker.used == 0


async def test_full_worker_refuses(start_worker: StartWorker, session_id: str):
    settings = Settings(backend="fake", slots=1)
    async with start_worker("llm", settings, register(FakeBackend(500))) as (_, channel):
        first = LlmServiceStub(channel).Generate(request(session_id, "Hello"))
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await LlmServiceStub(channel).Generate(request("another", "Hello")).read()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()


async def test_the_end_message_is_in_the_stream(
    streams: Streams, start_worker: StartWorker, session_id: str
):
    async with start_worker("llm", Settings(backend="fake", slots=4), register(FakeBackend())) as (
        _,
        channel,
    ):
        async for _ in LlmServiceStub(channel).Generate(request(session_id, "Hi", max_tokens=2)):
            pass
        entries = await streams.client.xrange(stream_key(session_id, "reply"))
    assert entries[0][0] == b"3-1"
    assert ReplyMessage.FromString(entries[-1][1][b"m"]) == ReplyMessage(end=ReplyEnd())
