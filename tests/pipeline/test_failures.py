"""What goes wrong must be said clearly, and the service must be up afterwards."""

import asyncio
import json

import numpy as np
import pytest
import websockets

from services.asr.backends.fake import tone
from services.gateway import protocol
from services.tts.backends.fake import FakeBackend as FakeVoice
from tests.pipeline.conftest import StartSystem, System
from visavis.client import CallError, dial
from visavis.redis_server import start_redis

START = protocol.SessionStart().model_dump_json()
MIC_HEADER = protocol.MediaPacket.HEADER.pack(1, 0, 0, 0, 0.0)


async def conversation(system: System, *frames: "str | bytes") -> tuple[list[dict], int]:
    """Sends frames; returns the events that came until the gateway closed, and the close code."""
    events = []
    async with websockets.connect(system.url, compression=None, proxy=None) as connection:
        try:
            for frame in frames:
                await connection.send(frame)
            async with asyncio.timeout(10):
                async for message in connection:
                    if isinstance(message, str):
                        events.append(json.loads(message))
        except websockets.ConnectionClosed:
            pass
        return events, connection.close_code


async def still_works(system: System) -> None:
    async with dial(system.url) as caller:
        reply = await caller.next_reply(0)
        assert reply.reason == "finished" and reply.pcm


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (["nonsense"], "JSON"),
        (['{"type": "text.send", "text": "hi"}'], "session.start"),
        ([b"\x01\x02"], "header"),
        ([START, START], "once"),
        ([START, '{"type": "text.send"}'], "text"),
        ([START, b""], "header"),
        ([START, b"\x07" + bytes(20)], "kind"),
        ([START, MIC_HEADER + b"\0"], "even"),
        ([START, MIC_HEADER + bytes(protocol.MAX_MIC_PACKET_BYTES + 2)], "640"),
        ([START, '{"type": "text.send", "text": "' + "x" * 20_000 + '"}'], "characters"),
    ],
)
async def test_a_broken_protocol_is_told_and_closed(
    start_system: StartSystem, frames: list, told: str
):
    async with start_system() as system:
        events, code = await conversation(system, *frames)
        assert code == 1008
        assert events[-1]["type"] == "error" and events[-1]["code"] == "bad_message"
        assert told in events[-1]["message"]
        await still_works(system)


@pytest.mark.parametrize(
    ("start", "code", "told"),
    [
        ({"persona_id": "nobody"}, "unknown_persona", "theo"),
        ({"persona_id": "../../etc"}, "unknown_persona", "no persona"),
        ({"mic": {"sample_rate_hz": 44100}}, "unsupported", "16000"),
        ({"protocol": 99}, "unsupported", "Reload"),
    ],
)
async def test_what_cannot_be_served_is_refused_in_words(
    start_system: StartSystem, start: dict, code: str, told: str
):
    async with start_system() as system:
        events, _ = await conversation(system, json.dumps({"type": "session.start", **start}))
        assert events[-1]["code"] == code and events[-1]["fatal"]
        assert told in events[-1]["message"]
        await still_works(system)


async def test_a_full_server_says_so_and_when_to_try_again(start_system: StartSystem):
    async with start_system(max_sessions=1) as system:
        async with dial(system.url):
            events, code = await conversation(system, START)
            assert events[-1]["code"] == "server_full" and events[-1]["retry_after_ms"] > 0
            assert code == 1013
        await asyncio.sleep(0.2)
        await still_works(system)


async def test_an_unknown_earlier_call_becomes_a_new_one(start_system: StartSystem):
    async with (
        start_system() as system,
        dial(system.url, protocol.SessionStart(resume_session_id="gone")) as caller,
    ):
        assert caller.errors[0].code == "session_expired" and not caller.errors[0].fatal
        assert not caller.started.resumed and caller.started.session_id != "gone"


async def test_silence_and_noise_are_no_turn(start_system: StartSystem):
    """Nothing is answered; a real question afterwards is."""
    rng = np.random.default_rng(1)
    clicks = np.zeros(16_000, np.float32)
    clicks[::4000] = 0.9
    async with start_system() as system, dial(system.url) as caller:
        await caller.next_reply(0)
        await caller.say(np.zeros(16_000, np.float32))
        await caller.say((0.005 * rng.standard_normal(16_000)).astype(np.float32))
        await caller.say(clicks)
        assert len(caller.replies) == 1
        await caller.say(tone("golf", 400), trailing_silence_ms=1500)
        assert caller.user_texts == ["golf"]


async def test_without_a_voice_no_call_begins(start_system: StartSystem):
    async with start_system() as system:
        await system.stop("tts")
        events, _ = await conversation(system, START)
        assert events[-1]["code"] == "stage_unavailable" and "voice" in events[-1]["message"]


@pytest.mark.parametrize(("service", "told"), [("llm", "mind"), ("tts", "voice")])
async def test_a_stage_that_dies_in_mid_turn_fails_the_turn_not_the_call(
    start_system: StartSystem, service: str, told: str
):
    """The turn ends with a clear error, typed or spoken input is still taken."""
    async with (
        start_system(voice=FakeVoice(300)) as system,
        dial(system.url) as caller,
    ):
        await caller.next_reply(0)
        if service == "llm":
            await system.stop("llm")
        await caller.send_text("one two three four. " * 10)
        if service == "tts":
            await caller.wait_for(
                lambda: len(caller.replies) > 1 and len(caller.replies[1].pcm) > 0, 8000
            )
            await system.stop("tts")
        failed = await caller.next_reply(1)
        assert failed.reason == "failed"
        assert caller.errors[-1].code == "stage_unavailable" and told in caller.errors[-1].message
        assert not caller.closed


async def test_an_ear_that_dies_is_told_and_typing_goes_on(start_system: StartSystem):
    async with start_system() as system, dial(system.url) as caller:
        await caller.next_reply(0)
        await system.stop("asr")
        await caller.wait_for(lambda: bool(caller.errors), 5_000)
        assert "ear" in caller.errors[0].message and not caller.errors[0].fatal
        await caller.send_text("hello there")
        assert (await caller.next_reply(1)).reason == "finished"


async def test_a_face_that_dies_leaves_the_voice(start_system: StartSystem):
    async with start_system() as system, dial(system.url) as caller:
        await caller.next_reply(0)
        await system.stop("talkinghead")
        await caller.send_text("hello there")
        reply = await caller.next_reply(1)
        assert reply.reason == "finished" and reply.pcm and not reply.pictures
        assert "face" in caller.errors[-1].message


async def test_a_lost_redis_ends_the_call_in_words(start_system: StartSystem, tmp_path):
    """In mid-call, and for the next caller; when it is back, calls are taken again without a restart."""
    redis = start_redis(tmp_path)
    async with start_system(redis_url=redis.url) as system:
        with pytest.raises(CallError, match="Redis"):
            async with dial(system.url) as caller:
                await caller.next_reply(0)
                redis.stop()
                await caller.send_text("are you still there")
                await caller.next_reply(1)
        events, _ = await conversation(system, START)
        assert events[-1]["code"] == "stage_unavailable" and "Redis" in events[-1]["message"]
        again = start_redis(tmp_path, port=redis.port)
        await asyncio.sleep(2)
        await still_works(system)
    again.stop()
