"""Back-pressure by credit: a worker stays within a fixed distance of the user's ear."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from visavis.streams import Streams
from visavis.v1.common_pb2 import PlaybackPosition


class Credit:
    """How far output may run ahead of the playback position. `lead_ms` 0 means no limit."""

    def __init__(self, lead_ms: float) -> None:
        self._lead_ms = lead_ms
        self._played_ms = 0.0
        self._moved = asyncio.Event()

    @property
    def played_ms(self) -> float:
        return self._played_ms

    def played(self, played_ms: float) -> None:
        self._played_ms = max(self._played_ms, played_ms)
        self._moved.set()

    async def wait_until_due(self, pts_ms: float) -> None:
        """Returns once output of this time may be written."""
        while self._lead_ms and pts_ms > self._played_ms + self._lead_ms:
            self._moved.clear()
            await self._moved.wait()


@asynccontextmanager
async def playback_credit(
    streams: Streams, key: str, epoch: int, lead_ms: float
) -> AsyncIterator[Credit]:
    """A Credit that follows the playback stream of one epoch. An unreadable stream fails the block."""
    credit = Credit(lead_ms)
    if not lead_ms:
        yield credit
        return
    async with (
        streams.subscribe(key, epoch, PlaybackPosition) as positions,
        asyncio.TaskGroup() as tasks,
    ):

        async def follow() -> None:
            async for position in positions:
                credit.played(position.played_ms)

        following = tasks.create_task(follow(), name="playback-credit")
        yield credit
        following.cancel()
