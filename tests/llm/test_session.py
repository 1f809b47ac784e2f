"""One reply, without gRPC or Redis."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.llm.backend import Message
from services.llm.backends.fake import FakeBackend
from services.llm.session import GenerationSession
from visavis.v1.llm_pb2 import ReplyMessage

HELLO = [Message("user", "hello there")]


class Collected:
    """An emit that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[ReplyMessage] = []
        self.came = asyncio.Event()

    async def __call__(self, message: ReplyMessage) -> None:
        self.messages.append(message)
        self.came.set()

    @property
    def text(self) -> str:
        return "".join(message.text_delta for message in self.messages)


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as executor:
        yield executor


async def test_emits_the_reply_and_then_its_end(executor: ThreadPoolExecutor):
    emit = Collected()
    await GenerationSession(FakeBackend(), 0, executor, 0).run(HELLO, emit)
    assert emit.text == "You said: hello there Tell me more."
    assert emit.messages[-1].HasField("end")


async def test_a_slow_model_gives_a_delta_per_token(executor: ThreadPoolExecutor):
    emit = Collected()
    await GenerationSession(FakeBackend(token_ms=20), 0, executor, 0).run(HELLO, emit)
    assert len(emit.messages) == 7 + 1


async def test_a_slow_reader_gets_joined_deltas(executor: ThreadPoolExecutor):
    """The model never waits for the writer; what has gathered goes out as one piece."""
    backend, emit = FakeBackend(), Collected()

    async def slow(message: ReplyMessage) -> None:
        await asyncio.sleep(0.05)
        await emit(message)

    await GenerationSession(backend, 0, executor, 0).run([Message("user", "word " * 100)], slow)
    assert emit.text.startswith("You said: word word")
    assert len(emit.messages) < 10


async def test_respects_the_limit_of_tokens(executor: ThreadPoolExecutor):
    emit = Collected()
    await GenerationSession(FakeBackend(), 0, executor, 3).run(HELLO, emit)
    assert emit.text == "You said: hello"


async def test_cancelling_stops_the_model_within_one_token(executor: ThreadPoolExecutor):
    """When the cancelled task is done, the thread has let go and makes no more tokens."""
    backend, emit = FakeBackend(token_ms=30), Collected()
    session = GenerationSession(backend, 0, executor, 0)
    running = asyncio.ensure_future(session.run([Message("user", "word " * 100)], emit))
    await emit.came.wait()
    made = backend.tokens_made
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert backend.tokens_made - made <= 1
    made = backend.tokens_made
    await asyncio.sleep(0.1)
    assert backend.tokens_made == made


async def test_cancelling_twice_still_waits_for_the_thread(executor: ThreadPoolExecutor):
    class Deaf(FakeBackend):
        """Obeys a stop only after a while, as a model in the middle of a batch."""

        left = threading.Event()

        def generate(self, slot, messages, max_tokens, emit, stop) -> None:  # type: ignore[no-untyped-def]
            emit("word")
            stop.wait()
            threading.Event().wait(0.2)
            self.left.set()

    backend, emit = Deaf(), Collected()
    running = asyncio.ensure_future(GenerationSession(backend, 0, executor, 0).run(HELLO, emit))
    await emit.came.wait()
    running.cancel()
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert backend.left.is_set()


async def test_an_error_of_the_model_comes_out_and_no_end_is_emitted(
    executor: ThreadPoolExecutor,
):
    class Broken(FakeBackend):
        def generate(self, slot, messages, max_tokens, emit, stop) -> None:  # type: ignore[no-untyped-def]
            emit("Well")
            raise RuntimeError("out of memory")

    emit = Collected()
    with pytest.raises(RuntimeError, match="out of memory"):
        await GenerationSession(Broken(), 0, executor, 0).run(HELLO, emit)
    assert [message.WhichOneof("content") for message in emit.messages] == ["text_delta"]
