"""Redis streams: key names, one pipelined writer and one fan-in reader per process.

Ids are `{epoch}-{seq}`. Redis refuses an id that is not larger than the newest, which fences late writers.
Reading and writing use a connection each, because a blocking XREAD monopolises its own. One XREAD over all
sessions of a process costs a tenth of the p99 of one connection per session, but gets slow beyond about
128 streams: `Streams` is made once per process, and a worker has fewer slots than that.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self, TypeVar

import redis.asyncio as redis
from google.protobuf.message import DecodeError, Message
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from visavis import metrics
from visavis.clock import Clock, RealClock

logger = logging.getLogger(__name__)

FIELD = b"m"
KEY_TTL_SECONDS = 120
# The fuse: far beyond what a stream holds when credit and readers work. A reader that finds a gap says so.
FUSE_ENTRIES = 3_000
TTL_REFRESH_MS = 20_000
READ_BLOCK_MS = 2_000
READ_COUNT = 128
SUBSCRIPTION_BOUND = 512
RETRY_MS = 500

M = TypeVar("M", bound=Message)


class StreamError(Exception):
    """Base of what can go wrong with a stream."""


class StaleEpochError(StreamError):
    """A newer epoch has begun: what this writer or reader works on is void."""


class StreamGapError(StreamError):
    """Messages were trimmed before they were read."""


class StreamLostError(StreamError):
    """Redis cannot be reached. A lost Redis is a lost call."""


class EntryId(NamedTuple):
    epoch: int
    seq: int

    @classmethod
    def parse(cls, raw: bytes) -> "EntryId":
        epoch, seq = raw.split(b"-")
        return cls(int(epoch), int(seq))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


def stream_key(session_id: str, content: str) -> str:
    """The braces are literal: Redis Cluster's hash tag keeps one session's keys in one slot."""
    return f"session:{{{session_id}}}:{content}"


def _label(key: str) -> str:
    return key.rsplit(":", 1)[-1]


def connect(url: str) -> "redis.Redis":
    """A client that fails fast: it connects within 2 s, and leaves it to the caller to try again."""
    return redis.Redis.from_url(url, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))


def _raise_if_cancelled() -> None:
    """redis-py turns a cancellation that hits it while connecting into a TimeoutError: undo that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _cancel_until_done(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels, and again: redis-py may swallow a cancellation that hits it while connecting."""
    while any(not task.done() for task in tasks):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.2)


@dataclass(slots=True)
class _Write:
    key: str
    entry: EntryId
    payload: bytes
    trim_before: bool
    done: "asyncio.Future[None]"


class Subscription(Generic[M]):
    """The messages of one stream and one epoch, in order. Iterate it; it never ends by itself.

    Iterating raises StaleEpochError when a newer epoch begins, StreamGapError when messages are missing,
    StreamLostError when Redis is gone. Bounded: when the consumer falls behind, messages stay in Redis.
    """

    def __init__(self, reader: "StreamReader", key: str, last: EntryId, message_type: type[M]):
        self.key = key
        self.last = last
        self._reader = reader
        self._epoch = last.epoch
        self._message_type = message_type
        self._messages: deque[M] = deque()
        self._error: StreamError | None = None
        self._ready = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return self._error is None and len(self._messages) < SUBSCRIPTION_BOUND

    def deliver(self, entry: EntryId, payload: bytes) -> None:
        """Takes one entry from the reader; ignores those it has had (two subscriptions may share a key)."""
        if entry <= self.last or not self.has_room:
            return
        if entry.epoch > self._epoch:
            self.fail(StaleEpochError(f"{self.key}: epoch {entry.epoch} has begun"))
            return
        if entry.seq != self.last.seq + 1:
            metrics.streams_gaps.labels(_label(self.key)).inc()
            self.fail(StreamGapError(f"{self.key}: {self.last} is followed by {entry}"))
            return
        self.last = entry
        try:
            self._messages.append(self._message_type.FromString(payload))
        except DecodeError:
            self.fail(StreamGapError(f"{self.key}: entry {entry} is not a readable message"))
        self._ready.set()

    def fail(self, error: StreamError) -> None:
        if self._error is None:
            self._error = error
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[M]:
        return self

    async def __anext__(self) -> M:
        # A stale epoch ends the work at once, even if older messages wait; other errors let them pass.
        while not self._messages or isinstance(self._error, StaleEpochError):
            if self._error is not None:
                raise self._error
            self._ready.clear()
            await self._ready.wait()  # cancelled here: nothing was taken
        message = self._messages.popleft()
        if len(self._messages) == SUBSCRIPTION_BOUND // 2:
            self._reader.wake()
        return message


class StreamReader:
    """One blocking XREAD over every subscribed stream and a control stream that wakes it."""

    def __init__(self, client: "redis.Redis", waker: "redis.Redis", clock: Clock) -> None:
        self._client = client
        self._waker = waker
        self._clock = clock
        self._control = f"reader:{uuid.uuid4().hex}"
        self._control_last = b"0-0"
        self._subscriptions: dict[str, list[Subscription[Message]]] = {}
        self._wake = asyncio.Event()
        self.healthy = False

    @asynccontextmanager
    async def subscribe(
        self, key: str, epoch: int, message_type: type[M]
    ) -> AsyncIterator[Subscription[M]]:
        """Reads `key` from the first message of `epoch` on."""
        subscription = Subscription(self, key, EntryId(epoch, 0), message_type)
        self._subscriptions.setdefault(key, []).append(subscription)  # type: ignore[arg-type]
        self.wake()
        try:
            yield subscription
        finally:
            self._subscriptions[key].remove(subscription)  # type: ignore[arg-type]
            if not self._subscriptions[key]:
                del self._subscriptions[key]

    def wake(self) -> None:
        """Makes the loop look at its subscriptions again."""
        self._wake.set()

    async def wake_loop(self) -> None:
        """Turns `wake()` into an entry of the control stream, which ends a blocking XREAD."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._waker.xadd(self._control, {FIELD: b""}, maxlen=1, approximate=False)
                await self._waker.expire(self._control, KEY_TTL_SECONDS)
            except (RedisError, OSError):  # the read loop reports the loss
                _raise_if_cancelled()
                await self._clock.sleep_ms(RETRY_MS)

    async def read_loop(self) -> None:
        """Reads and hands on, for ever."""
        while True:
            _raise_if_cancelled()
            try:
                entries = await self._client.xread(
                    self._positions(), count=READ_COUNT, block=READ_BLOCK_MS
                )
            except (RedisError, OSError) as error:
                _raise_if_cancelled()
                self._lose(error)
                # The other connections are dead too: a Redis that returns is met with fresh ones.
                await self._waker.connection_pool.disconnect()
                await self._clock.sleep_ms(RETRY_MS)
                continue
            self.healthy = True
            self._dispatch(entries)

    def _positions(self) -> dict[bytes | str | memoryview, int | bytes | str | memoryview]:
        positions: dict[bytes | str | memoryview, int | bytes | str | memoryview] = {
            self._control: self._control_last
        }
        for key, subscriptions in self._subscriptions.items():
            open_ones = [s.last for s in subscriptions if s.has_room]
            if open_ones:
                positions[key] = str(min(open_ones))
        return positions

    def _dispatch(self, streams: Any) -> None:
        """Takes what XREAD gave: pairs under RESP2, a mapping under RESP3 (redis-py leaves it untyped)."""
        for raw_key, batches in streams.items() if isinstance(streams, Mapping) else streams:
            key = raw_key.decode()
            # RESP3 wraps the entries of a stream in one more list than RESP2.
            entries = batches[0] if batches and isinstance(batches[0], list) else batches
            for raw_id, fields in entries:
                if key == self._control:
                    self._control_last = raw_id
                    continue
                entry = EntryId.parse(raw_id)
                for subscription in self._subscriptions.get(key, ()):
                    subscription.deliver(entry, fields[FIELD])

    def _lose(self, error: Exception) -> None:
        if self.healthy:
            logger.error("Redis is gone: %s", error)
        self.healthy = False
        self._control_last = b"0-0"
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.fail(StreamLostError(f"Redis cannot be reached: {error}"))


class StreamWriter:
    """Writes everything that became ready in one loop tick through one pipeline."""

    def __init__(self, client: "redis.Redis", clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._pending: deque[_Write] = deque()
        self._ready = asyncio.Event()
        self._ttl_until_ms: dict[str, float] = {}

    async def write(self, key: str, epoch: int, seq: int, message: Message) -> None:
        """Appends one message; returns when Redis has it, so that awaiting it is the back-pressure.

        Raises:
            StaleEpochError: the stream holds a newer epoch, or this very id.
            StreamLostError: Redis cannot be reached.
        """
        await self._submit(key, EntryId(epoch, seq), message.SerializeToString(), False)

    async def flush(self, key: str, epoch: int) -> None:
        """Opens `epoch`: wakes its readers, refuses its elders' writers, drops their messages."""
        await self._submit(key, EntryId(epoch, 0), b"", True)

    async def _submit(self, key: str, entry: EntryId, payload: bytes, trim_before: bool) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(_Write(key, entry, payload, trim_before, done))
        self._ready.set()
        await done  # cancelled here: the entry may still be written, once

    async def run(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            batch = [write for write in self._pending if not write.done.done()]
            self._pending.clear()
            if batch:
                await self._write_batch(batch)

    async def _write_batch(self, batch: list[_Write]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for write in batch:
            pipeline.xadd(
                write.key, {FIELD: write.payload}, id=str(write.entry), maxlen=FUSE_ENTRIES
            )
        for write in batch:
            if write.trim_before:
                pipeline.xtrim(write.key, minid=str(write.entry), approximate=False)
        for key in self._due_for_ttl({write.key for write in batch}):
            pipeline.expire(key, KEY_TTL_SECONDS)
        try:
            results = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            _raise_if_cancelled()
            self._ttl_until_ms.clear()
            results = [error] * len(batch)
        for write, result in zip(batch, results, strict=False):
            self._settle(write, result)

    def _settle(self, write: _Write, result: object) -> None:
        if write.done.done():  # its task was cancelled meanwhile
            return
        if isinstance(result, ResponseError) and "equal or smaller" in str(result):
            metrics.streams_stale_writes.labels(_label(write.key)).inc()
            write.done.set_exception(
                StaleEpochError(f"{write.key}: {write.entry} is not newer than what is there")
            )
        elif isinstance(result, Exception):
            write.done.set_exception(StreamLostError(f"Redis cannot be written: {result}"))
        else:
            metrics.streams_messages_written.labels(_label(write.key)).inc()
            write.done.set_result(None)

    def _due_for_ttl(self, keys: set[str]) -> list[str]:
        now_ms = self._clock.now_ms()
        if len(self._ttl_until_ms) > 10_000:  # forget sessions long gone
            self._ttl_until_ms.clear()
        due = [key for key in keys if self._ttl_until_ms.get(key, -1) < now_ms]
        self._ttl_until_ms.update(dict.fromkeys(due, now_ms + TTL_REFRESH_MS))
        return due


class Streams(AbstractAsyncContextManager["Streams"]):
    """One process's access to the streams: `async with Streams(url) as streams`."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        clock = clock or RealClock()
        self._read_client, self.client = connect(url), connect(url)
        self._reader = StreamReader(self._read_client, self.client, clock)
        self._writer = StreamWriter(self.client, clock)
        self.subscribe = self._reader.subscribe
        self.write = self._writer.write
        self.flush = self._writer.flush
        self._stack = AsyncExitStack()

    @property
    def healthy(self) -> bool:
        """Whether the last read reached Redis."""
        return self._reader.healthy

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self._read_client.aclose)
        self._stack.push_async_callback(self.client.aclose)
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        loops = [
            tasks.create_task(self._reader.read_loop(), name="streams-read"),
            tasks.create_task(self._reader.wake_loop(), name="streams-wake"),
            tasks.create_task(self._writer.run(), name="streams-write"),
        ]
        self._stack.push_async_callback(_cancel_until_done, loops)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()  # not told of the body's error, which would come back in a group


class TurnWriter(Generic[M]):
    """One worker's output of one epoch: counts `seq`, so that ids are contiguous."""

    def __init__(self, streams: Streams, key: str, epoch: int) -> None:
        self._streams = streams
        self._key = key
        self._epoch = epoch
        self.seq = 0

    async def write(self, message: M) -> None:
        """Raises what `StreamWriter.write` raises."""
        self.seq += 1  # one writer at a time: callers await in order
        await self._streams.write(self._key, self._epoch, self.seq, message)
