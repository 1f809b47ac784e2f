"""A call through the whole system, with fake models: what the user gets, and what is kept."""

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from services.asr.backends.fake import tone
from services.gateway import protocol
from services.talkinghead.backends.fake import read_counters
from services.tts.backends.fake import FakeBackend as FakeVoice
from tests.pipeline.conftest import StartSystem
from visavis.client import Caller, dial
from visavis.persona import persona_dir
from visavis.recording import decode_pictures

GAP = np.zeros(1600, np.float32)


def question(*words: str) -> np.ndarray:
    """Speech that the fake ear understands as these words."""
    return np.concatenate([part for word in words for part in (tone(word), GAP)])


async def ask(caller: Caller, *words: str):
    """Asks by voice and returns the reply."""
    number = len(caller.replies)
    await caller.say(question(*words), trailing_silence_ms=200)
    silence = asyncio.ensure_future(caller.stay_silent())
    try:
        return await caller.next_reply(number)
    finally:
        silence.cancel()


async def greeted(caller: Caller) -> Caller:
    await caller.next_reply(0)
    return caller


async def test_a_spoken_question_is_answered_with_sound_and_pictures(start_system: StartSystem):
    """Everything arrives, in sync, and the transcript says what was said and heard."""
    async with start_system() as system:
        async with dial(system.url) as caller:
            await greeted(caller)
            reply = await ask(caller, "alpha", "bravo")
        assert caller.user_texts == ["alpha bravo"]
        assert reply.reason == "finished" and reply.text.strip()
        assert reply.heard_text.split() == reply.text.split()
        assert reply.duration_ms == pytest.approx(reply.buffered_ms, abs=1)
        numbers = [
            read_counters(pixels)
            for _, pixels in decode_pictures(reply.pictures, caller.started.video.codec)
        ]
        first_loop_frame = numbers[0][1]
        assert [n for n, _ in numbers] == list(range(len(numbers)))
        assert [f for _, f in numbers] == [(first_loop_frame + n) % 250 for n, _ in numbers]
        assert len(numbers) * 40 >= reply.duration_ms
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"{system.http}/v1/sessions/{caller.started.session_id}/transcript"
            turns = (await client.get(url)).json()["turns"]
        assert [turn["role"] for turn in turns] == ["agent", "user", "agent"]
        assert turns[1]["text"] == "alpha bravo"
        assert turns[2]["text"] == reply.heard_text


async def test_typed_text_is_answered_like_speech(start_system: StartSystem):
    async with start_system() as system, dial(system.url) as caller:
        await greeted(caller)
        await caller.send_text("what is your name")
        reply = await caller.next_reply(1)
        assert reply.reason == "finished" and len(reply.pcm) > 0 and reply.pictures
        assert caller.user_texts == ["what is your name"]


async def test_a_barge_in_stops_sound_and_face_and_cuts_the_history(start_system: StartSystem):
    """What was not heard is not remembered; the interruption is answered."""
    async with start_system() as system, dial(system.url) as caller:
        await greeted(caller)
        await caller.send_text("one two three four five six seven eight nine ten " * 4)
        await caller.wait_for(
            lambda: len(caller.replies) > 1 and caller.replies[1].played_ms > 600, 9000
        )
        await caller.say(question("delta", "echo", "hotel", "delta"), trailing_silence_ms=200)
        silence = asyncio.ensure_future(caller.stay_silent())
        cut = await caller.next_reply(1)
        answer = await caller.next_reply(2)
        silence.cancel()
        assert cut.reason == "barge_in"
        assert cut.played_ms < cut.buffered_ms
        assert 0 < len(cut.heard_text.split()) < len(cut.text.split())
        assert answer.reason == "finished"
        assert "delta" in caller.user_texts[-1]
        turns = await system.gateway.store.turns(caller.started.session_id)
        assert cut.heard_text in [turn.text for turn in turns]


@pytest.fixture
def vera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A second persona, of the user's own."""
    monkeypatch.setenv("VISAVIS_HOME", str(tmp_path))
    folder = tmp_path / "personas" / "vera"
    shutil.copytree(persona_dir("theo"), folder)
    card = json.loads((folder / "persona.json").read_text())
    (folder / "persona.json").write_text(json.dumps({**card, "id": "vera", "name": "Vera"}))
    return "vera"


async def test_two_calls_at_once_never_mix(start_system: StartSystem, vera: str):
    """Each caller gets the sound, the words and the pictures made for it."""
    async with (
        start_system(voice=FakeVoice(5)) as system,
        dial(system.url) as one,
        dial(system.url, protocol.SessionStart(persona_id=vera)) as two,
    ):
        assert (one.started.persona.name, two.started.persona.name) == ("Theo", "Vera")
        await asyncio.gather(greeted(one), greeted(two))
        await asyncio.gather(
            one.send_text("I am number one"), two.send_text("and this is the second")
        )
        first, second = await asyncio.gather(one.next_reply(1), two.next_reply(1))
        assert "number one" in first.text and "second" not in first.text
        assert "second" in second.text and "number one" not in second.text
        pitches, colours = [], []
        for caller, reply, own in ((one, first, "number"), (two, second, "second")):
            assert all(clause.epoch == reply.epoch for clause in reply.clauses)
            clause = next(clause for clause in reply.clauses if own in clause.text)
            start, end = (
                int(ms * reply.sample_rate_hz / 1000) for ms in (clause.start_ms, clause.end_ms)
            )
            spectrum = np.abs(np.fft.rfft(reply.samples[start:end], 16_000))
            pitches.append(int(np.argmax(spectrum)))
            pictures = list(decode_pictures(reply.pictures, caller.started.video.codec))
            shades = {
                tuple(np.round(p[-40:, -40:].mean((0, 1)) / 24).astype(int)) for _, p in pictures
            }
            assert len(shades) == 1  # every picture of a call is its own
            colours.append(shades.pop())
        assert pitches[0] != pitches[1] and colours[0] != colours[1]


async def test_a_lost_connection_is_taken_up_again(start_system: StartSystem):
    """The call goes on under its old id, with its history, and without another greeting."""
    async with start_system() as system:
        async with dial(system.url) as caller:
            await greeted(caller)
            await caller.send_text("remember me")
            await caller.next_reply(1)
            session_id = caller.started.session_id
        start = protocol.SessionStart(resume_session_id=session_id)
        async with dial(system.url, start) as again:
            assert again.started.resumed and again.started.session_id == session_id
            await again.send_text("still there")
            reply = await again.next_reply(0)
            assert reply.reason == "finished"
        turns = await system.gateway.store.turns(session_id)
        assert [turn.role for turn in turns] == ["agent", "user", "agent", "user", "agent"], turns


async def test_hanging_up_in_the_middle_leaves_nothing_behind(start_system: StartSystem):
    """Every worker is idle again, and the next caller is served."""
    async with start_system(voice=FakeVoice(50)) as system:
        async with dial(system.url) as caller:
            await caller.send_text("tell me a very long story " * 8)
            await caller.wait_for(lambda: any(r.played_ms > 200 for r in caller.replies), 9000)
        async with asyncio.timeout(3):
            for stage in system.stages.values():
                await stage.worker.idle()
        assert system.gateway.sessions == 0
        async with dial(system.url) as caller:
            await greeted(caller)
