"""The streams' promises, against a real Redis: order, fencing, no loss, and a clear end when it is gone."""

import asyncio
from pathlib import Path

import pytest

from tests.conftest import eventually
from visavis.redis_server import start_redis
from visavis.streams import (
    FUSE_ENTRIES,
    KEY_TTL_SECONDS,
    SUBSCRIPTION_BOUND,
    StaleEpochError,
    StreamGapError,
    StreamLostError,
    Streams,
    TurnWriter,
    stream_key,
)
from visavis.v1.llm_pb2 import ReplyMessage


def text(delta: str) -> ReplyMessage:
    return ReplyMessage(text_delta=delta)


async def take(subscription, count: int) -> list[str]:
    async with asyncio.timeout(5):
        return [(await anext(subscription)).text_delta for _ in range(count)]


@pytest.fixture
def key(session_id: str) -> str:
    return stream_key(session_id, "reply")


def test_all_keys_of_a_session_share_a_cluster_slot():
    assert stream_key("abc", "mic") == "session:{abc}:mic"


async def test_messages_arrive_in_order_whether_written_before_or_after(streams: Streams, key: str):
    writer = TurnWriter(streams, key, 5)
    await writer.write(text("a"))
    async with streams.subscribe(key, 5, ReplyMessage) as subscription:
        await writer.write(text("b"))
        await writer.write(text("c"))
        assert await take(subscription, 3) == ["a", "b", "c"]


async def test_a_late_writer_of_an_old_epoch_is_refused(streams: Streams, key: str):
    await streams.write(key, 7, 1, text("old"))
    await streams.flush(key, 8)
    with pytest.raises(StaleEpochError):
        await streams.write(key, 7, 2, text("late"))
    await streams.write(key, 8, 1, text("new"))
    with pytest.raises(StaleEpochError):
        await streams.write(key, 7, 3, text("later still"))


async def test_a_duplicate_is_refused(streams: Streams, key: str):
    await streams.write(key, 3, 1, text("once"))
    with pytest.raises(StaleEpochError):
        await streams.write(key, 3, 1, text("twice"))
    async with streams.subscribe(key, 3, ReplyMessage) as subscription:
        assert await take(subscription, 1) == ["once"]


async def test_a_flush_drops_what_is_older_and_wakes_its_reader(streams: Streams, key: str):
    async with streams.subscribe(key, 1, ReplyMessage) as subscription:
        await streams.write(key, 1, 1, text("heard"))
        assert await take(subscription, 1) == ["heard"]
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.05)
        await streams.flush(key, 2)
        with pytest.raises(StaleEpochError):
            await asyncio.wait_for(waiting, 2)
    assert await streams.client.xlen(key) == 1  # the flush mark alone


async def test_a_missing_message_is_noticed(streams: Streams, key: str):
    await streams.write(key, 1, 1, text("a"))
    await streams.write(key, 1, 3, text("c"))
    async with streams.subscribe(key, 1, ReplyMessage) as subscription:
        assert await take(subscription, 1) == ["a"]
        with pytest.raises(StreamGapError):
            await take(subscription, 1)


async def test_a_slow_reader_loses_nothing(streams: Streams, key: str):
    """Beyond its bound, messages wait in Redis."""
    count = 2 * SUBSCRIPTION_BOUND + 50
    async with streams.subscribe(key, 1, ReplyMessage) as subscription:
        writer = TurnWriter(streams, key, 1)
        for number in range(count):
            await writer.write(text(str(number)))
        await asyncio.sleep(0.1)
        assert await take(subscription, count) == [str(n) for n in range(count)]


async def test_a_reader_beyond_the_fuse_is_told(streams: Streams, key: str):
    await asyncio.gather(
        *(streams.write(key, 1, seq, text("x")) for seq in range(1, FUSE_ENTRIES + 400))
    )
    async with streams.subscribe(key, 1, ReplyMessage) as subscription:
        with pytest.raises(StreamGapError):
            await take(subscription, 1)


async def test_every_key_expires(streams: Streams, key: str):
    await streams.write(key, 1, 1, text("a"))
    assert 0 < await streams.client.ttl(key) <= KEY_TTL_SECONDS


async def test_many_streams_share_one_reader_and_never_mix(streams: Streams, session_id: str):
    keys = [stream_key(f"{session_id}{n}", "reply") for n in range(40)]

    async def talk(key: str) -> list[str]:
        async with streams.subscribe(key, 1, ReplyMessage) as subscription:
            writer = TurnWriter(streams, key, 1)
            for number in range(20):
                await writer.write(text(f"{key} {number}"))
            return await take(subscription, 20)

    for key, got in zip(keys, await asyncio.gather(*map(talk, keys)), strict=True):
        assert got == [f"{key} {number}" for number in range(20)]


async def test_cancelling_a_reader_in_the_middle_takes_nothing_from_the_next(
    streams: Streams, key: str
):
    async with streams.subscribe(key, 1, ReplyMessage) as subscription:
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await streams.write(key, 1, 1, text("a"))
        assert await take(subscription, 1) == ["a"]


async def test_a_lost_redis_ends_readers_and_writers_and_one_that_returns_is_used(
    tmp_path: Path, key: str
):
    redis = start_redis(tmp_path)
    async with Streams(redis.url) as streams:
        await streams.write(key, 1, 1, text("a"))
        async with streams.subscribe(key, 1, ReplyMessage) as subscription:
            assert await take(subscription, 1) == ["a"]
            redis.stop()
            with pytest.raises(StreamLostError):
                await take(subscription, 1)
        with pytest.raises(StreamLostError):
            await streams.write(key, 1, 2, text("b"))
        assert not streams.healthy
        again = start_redis(tmp_path, port=redis.port)
        async with streams.subscribe(key, 2, ReplyMessage) as subscription:
            await eventually(lambda: asyncio.sleep(0, streams.healthy))
            await streams.write(key, 2, 1, text("back"))
            assert await take(subscription, 1) == ["back"]
    again.stop()
