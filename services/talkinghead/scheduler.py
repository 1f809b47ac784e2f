"""Which pictures are rendered next: one scheduler per process, batches across sessions.

    session A ─▶ picture 7 ┐
    session B ─▶ picture 3 ├─▶ least slack first ─▶ one batch ─▶ render thread ─▶ back to A, B, C
    session C ─▶ picture 0 ┘

A tick begins when the render thread is free and a picture is wanted. While it renders, the next batch gathers
by itself, so a busy worker makes large batches and an idle one answers at once. A session asks for one picture
at a time: a batch never holds two of the same.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Generic

from prometheus_client import Counter, Histogram

from services.talkinghead.backend import FRAME_MS, A, Backend, Picture

pictures_rendered = Counter(
    "visavis_talkinghead_pictures_rendered_total", "Pictures that were rendered"
)
pictures_dropped = Counter(
    "visavis_talkinghead_pictures_dropped_total",
    "Pictures not rendered because the playback position had passed them",
)
batch_pictures = Histogram(
    "visavis_talkinghead_batch_pictures",
    "Pictures of different sessions in one batch",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32),
)

# Time left until the picture should be seen; negative: it is late.
Slack = Callable[[], float]


@dataclass(eq=False)
class _Request(Generic[A]):
    animation: A
    index: int
    slack_ms: Slack
    picture: "asyncio.Future[Picture | None]"


class Scheduler(Generic[A]):
    def __init__(self, backend: Backend[A], executor: Executor) -> None:
        """`executor` is the render thread: one, that nothing else uses."""
        self._backend = backend
        self._executor = executor
        self._waiting: list[_Request[A]] = []  # bounded: one for each session
        self._is_ticking = False

    async def render(self, animation: A, index: int, slack_ms: Slack) -> Picture | None:
        """One picture, when its turn comes; None if it is late by more than a frame, and so of no use."""
        loop = asyncio.get_running_loop()
        request = _Request(animation, index, slack_ms, loop.create_future())
        self._waiting.append(request)
        if not self._is_ticking:
            self._is_ticking = True
            loop.call_soon(self._tick)  # not at once: sessions woken together share a batch
        # Cancelled here: the next tick skips the request, or the picture on its way is thrown away.
        return await request.picture

    def _tick(self) -> None:
        batch = self._take_batch()
        if not batch:
            self._is_ticking = False
            return
        due = [(request.animation, request.index) for request in batch]
        rendering = asyncio.get_running_loop().run_in_executor(
            self._executor, self._backend.render, due
        )
        rendering.add_done_callback(partial(self._hand_back, batch))

    def _take_batch(self) -> list[_Request[A]]:
        ordered = []
        for request in self._waiting:
            if request.picture.done():  # its session was cancelled
                continue
            slack_ms = request.slack_ms()
            if slack_ms < -FRAME_MS:
                pictures_dropped.inc()
                request.picture.set_result(None)
            else:
                ordered.append((slack_ms, request))
        ordered.sort(key=lambda pair: pair[0])
        requests = [request for _, request in ordered]
        self._waiting = requests[self._backend.batch_size :]
        return requests[: self._backend.batch_size]

    def _hand_back(
        self, batch: list[_Request[A]], rendering: "asyncio.Future[list[Picture]]"
    ) -> None:
        error = rendering.exception()
        pictures = [] if error else rendering.result()
        if not error and len(pictures) != len(batch):
            error = RuntimeError(f"{len(batch)} pictures were due, {len(pictures)} came")
        batch_pictures.observe(len(batch))
        pictures_rendered.inc(len(pictures))
        for position, request in enumerate(batch):
            if request.picture.done():
                continue
            if error:
                request.picture.set_exception(error)
            else:
                request.picture.set_result(pictures[position])
        # After the sessions just served had their turn of the loop, so that they can be in the next batch.
        asyncio.get_running_loop().call_soon(self._tick)
