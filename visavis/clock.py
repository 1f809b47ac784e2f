"""Time, passed in: code that waits or measures takes a `Clock`, so that a test can move it by hand."""

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> float:
        """Milliseconds since an arbitrary start; never goes back."""

    async def sleep_ms(self, duration_ms: float) -> None: ...


class RealClock:
    def now_ms(self) -> float:
        return time.monotonic() * 1000

    async def sleep_ms(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)


class ManualClock:
    """Stands still until `advance_ms` moves it; wakes sleepers in the order of their times."""

    def __init__(self) -> None:
        self._now_ms = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> float:
        return self._now_ms

    async def sleep_ms(self, duration_ms: float) -> None:
        if duration_ms <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_ms + duration_ms, next(self._order), woken))
        await woken

    async def advance_ms(self, duration_ms: float) -> None:
        """Moves time, letting everything that becomes due run at its own moment."""
        end_ms = self._now_ms + duration_ms
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end_ms:
            due_ms, _, woken = heapq.heappop(self._sleepers)
            self._now_ms = max(self._now_ms, due_ms)
            if not woken.done():  # its sleeper may have been cancelled
                woken.set_result(None)
            await settle()
        self._now_ms = end_ms
        await settle()


async def settle(rounds: int = 20) -> None:
    """Lets tasks that are ready run until they wait again (tests only)."""
    for _ in range(rounds):
        await asyncio.sleep(0)
