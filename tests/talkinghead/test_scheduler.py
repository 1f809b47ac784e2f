"""Which pictures are rendered, with whom, and who gets them; the render thread is moved by hand."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

import numpy as np
import pytest

from services.talkinghead.backend import FRAME_MS
from services.talkinghead.backends.fake import FakeAnimation, FakeBackend, read_counters
from services.talkinghead.scheduler import Scheduler, pictures_dropped
from visavis.clock import settle


class HeldExecutor(Executor):
    """Takes work and does it when told to."""

    def __init__(self) -> None:
        self._held: list[tuple[Future, Callable, tuple]] = []

    def submit(self, fn: Callable, /, *args: object, **kwargs: object) -> Future:
        future: Future = Future()
        self._held.append((future, fn, args))
        return future

    async def release(self) -> None:
        held, self._held = self._held, []
        for future, fn, args in held:
            try:
                future.set_result(fn(*args))
            except Exception as error:
                future.set_exception(error)
        await settle()


class RecordingBackend(FakeBackend):
    def __init__(self, batch_size: int = 8) -> None:
        super().__init__(0)
        self.batch_size = batch_size
        self.batches: list[list[int]] = []

    def render(self, due: Sequence[tuple[FakeAnimation, int]]) -> list[np.ndarray]:
        self.batches.append([index for _, index in due])
        return super().render(due)


class Stage:
    """A scheduler whose render thread is held."""

    def __init__(self, backend: FakeBackend) -> None:
        self.thread = HeldExecutor()
        self._scheduler = Scheduler(backend, self.thread)
        self.tasks: list[asyncio.Task[np.ndarray | None]] = []

    def want(self, index: int, slack_ms: float = 0, persona: str = "theo") -> asyncio.Task:
        animation = FakeAnimation(persona, 0)
        task = asyncio.ensure_future(self._scheduler.render(animation, index, lambda: slack_ms))
        self.tasks.append(task)
        return task

    async def finish(self) -> list[np.ndarray | None]:
        while not all(task.done() for task in self.tasks):
            await settle()
            await self.thread.release()
        return [task.result() for task in self.tasks]


async def test_sessions_that_are_ready_together_share_a_batch():
    backend = RecordingBackend()
    stage = Stage(backend)
    for index in range(4):
        stage.want(index)
    await stage.finish()
    assert backend.batches == [[0, 1, 2, 3]]


async def test_the_next_batch_gathers_while_one_is_rendered():
    backend = RecordingBackend()
    stage = Stage(backend)
    stage.want(1)
    await settle()
    stage.want(2)
    await settle()
    stage.want(3)
    await stage.finish()
    assert backend.batches == [[1], [2, 3]]


async def test_least_slack_goes_first():
    backend = RecordingBackend(batch_size=2)
    stage = Stage(backend)
    for index, slack_ms in enumerate([600, 0, 300, -20, 80]):
        stage.want(index, slack_ms)
    await stage.finish()
    assert backend.batches == [[3, 1], [4, 2], [0]]


async def test_late_pictures_are_dropped_not_queued():
    backend = RecordingBackend()
    stage = Stage(backend)
    dropped = pictures_dropped._value.get()
    late, just_late = stage.want(1, -FRAME_MS - 1), stage.want(2, -FRAME_MS)
    await stage.finish()
    assert late.result() is None and just_late.result() is not None
    assert backend.batches == [[2]]
    assert pictures_dropped._value.get() == dropped + 1


async def test_lateness_is_judged_when_the_batch_is_made():
    backend = RecordingBackend()
    stage = Stage(backend)
    stage.want(0)
    await settle()
    slack_ms = 100.0
    animation = FakeAnimation("theo", 0)
    waiting = asyncio.ensure_future(stage._scheduler.render(animation, 7, lambda: slack_ms))
    await settle()
    slack_ms = -100.0
    await stage.thread.release()
    assert await waiting is None


async def test_each_session_gets_its_own_pictures():
    """Forty sessions with faces of different colours, in batches of eight, in an order of their own."""
    stage = Stage(RecordingBackend())
    for number in range(40):
        stage.want(number, slack_ms=(number * 17) % 40, persona=f"persona {number}")
    for number, picture in enumerate(await stage.finish()):
        assert read_counters(picture)[0] == number
        colour = FakeAnimation(f"persona {number}", 0).colour
        assert tuple(picture[500, 500]) == colour


async def test_a_cancelled_session_is_skipped_and_does_not_disturb_the_others():
    backend = RecordingBackend()
    stage = Stage(backend)
    in_the_batch, beside_it = stage.want(0), stage.want(1)
    await settle()
    waiting, behind_it = stage.want(2), stage.want(3)
    await settle()
    in_the_batch.cancel()
    waiting.cancel()
    await settle()
    await stage.thread.release()
    await stage.thread.release()
    assert read_counters(beside_it.result())[0] == 1
    assert read_counters(behind_it.result())[0] == 3
    assert backend.batches == [[0, 1], [3]]


async def test_an_error_fails_its_batch_and_the_next_goes_on():
    class Broken(FakeAnimation):
        def draw(self, index: int) -> np.ndarray:
            raise RuntimeError("broken")

    stage = Stage(RecordingBackend())
    failing = asyncio.ensure_future(stage._scheduler.render(Broken("theo", 0), 0, lambda: 0.0))
    await settle()
    following = stage.want(1)
    await settle()
    await stage.thread.release()
    await stage.thread.release()
    with pytest.raises(RuntimeError, match="broken"):
        await failing
    assert read_counters(following.result())[0] == 1
