"""Calls through the containers: heard, answered with sound and pictures, scaled, broken and mended."""

import asyncio
import time
from collections.abc import Callable

import pytest

from services.gateway import protocol
from tests.compose.conftest import Compose
from tests.conftest import DATA
from tests.listening import share_heard
from visavis.audio import MIC_SAMPLE_RATE_HZ, read_wav, resample
from visavis.client import Caller, CallError, ReplyRecord, dial

# Building the images for the first time takes minutes.
pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]


async def greeted(caller: Caller) -> None:
    silence = asyncio.ensure_future(caller.stay_silent())
    try:
        await caller.next_reply(0)
    finally:
        silence.cancel()


async def ask(url: str) -> tuple[Caller, ReplyRecord]:
    """Asks for the capital of France by voice; returns when the answer has been heard."""
    samples, rate_hz = read_wav(DATA / "capital-of-france.wav")
    async with dial(url) as caller:
        await greeted(caller)
        await caller.say(resample(samples, rate_hz, MIC_SAMPLE_RATE_HZ), trailing_silence_ms=100)
        silence = asyncio.ensure_future(caller.stay_silent())
        try:
            return caller, await caller.next_reply(1, timeout_ms=90_000)
        finally:
            silence.cancel()


def check_answer(caller: Caller, reply: ReplyRecord) -> None:
    assert {"capital", "france"} <= set(" ".join(caller.user_texts).lower().strip("?.").split())
    assert reply.reason == "finished" and reply.text.strip()
    assert share_heard(reply.text, reply.samples, reply.sample_rate_hz) >= 0.6
    shown = len(reply.shown) + reply.dropped_pictures
    assert shown >= reply.buffered_ms / 1000 * 20  # of 25 a second


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


async def test_a_spoken_question_is_answered(compose: Compose):
    check_answer(*await ask(compose.url))


async def test_a_second_ear_joins(compose: Compose):
    assert compose.workers("asr") == 1
    compose("up", "--detach", "--no-build", "--wait", "--scale", "asr=2")
    wait_until(lambda: compose.workers("asr") == 2)
    check_answer(*await ask(compose.url))


async def test_a_lost_mind_is_told_and_comes_back(compose: Compose):
    """Who is in a call is told, who calls is told, and when it is back it works again."""
    async with dial(compose.url) as caller:
        await greeted(caller)
        compose("stop", "--timeout", "5", "llm")
        await caller.send_text("Are you there?")
        await caller.wait_for(lambda: bool(caller.errors), 15_000)
    assert caller.errors[0].code == "stage_unavailable"
    assert "mind" in caller.errors[0].message

    refusals: list[protocol.ServerEvent] = []
    with pytest.raises(CallError, match="mind"):
        async with dial(compose.url, on_event=refusals.append):
            pass
    assert [event.code for event in refusals if isinstance(event, protocol.ErrorEvent)] == [
        "stage_unavailable"
    ]

    compose("start", "llm")
    wait_until(lambda: compose.workers("llm") == 1, 60)
    check_answer(*await ask(compose.url))
