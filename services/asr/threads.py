"""The threads that models run on, shared by all sessions of the process."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from visavis.audio import Samples


class ModelThreads:
    """One thread for each kind of pass. Finals are never skipped; partials give way to them.

    When a caller is cancelled, its pass is forgotten if it waits; one that runs finishes, and nobody takes
    its result.
    """

    def __init__(self) -> None:
        self._final = ThreadPoolExecutor(1, "asr-final")
        self._judge = ThreadPoolExecutor(1, "asr-judge")
        self._partial = ThreadPoolExecutor(1, "asr-partial")
        # Waiting or running; bounded by the slots, since a session asks for one at a time.
        self._finals: set[Future[str]] = set()

    async def final(self, decode: Callable[[Samples], str], samples: Samples) -> str:
        future = self._final.submit(decode, samples)
        self._finals.add(future)
        future.add_done_callback(self._finals.discard)
        return await asyncio.wrap_future(future)

    async def judge(self, judge: Callable[[Samples], float], samples: Samples) -> float:
        return await asyncio.wrap_future(self._judge.submit(judge, samples))

    async def partial(self, decode: Callable[[], str]) -> str | None:
        """None: a final needs the processor now, and the next partial will hold this one's words."""
        return await asyncio.wrap_future(self._partial.submit(self._unless_busy, decode))

    def _unless_busy(self, decode: Callable[[], str]) -> str | None:
        return None if self._finals else decode()

    def close(self) -> None:
        for executor in (self._final, self._judge, self._partial):
            executor.shutdown(wait=False, cancel_futures=True)
