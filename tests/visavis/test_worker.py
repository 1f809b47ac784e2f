"""A stage's process as the outside sees it: ready, listed, drained."""

import asyncio
import os
import signal
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import eventually
from visavis import registry
from visavis.registry import Heartbeat
from visavis.streams import Streams, stream_key
from visavis.v1.common_pb2 import TurnRef
from visavis.v1.tts_pb2 import SynthesizeRequest
from visavis.v1.tts_pb2_grpc import TtsServiceStub


async def listed(streams: Streams, service: str) -> Heartbeat:
    return (await eventually(lambda: registry.workers(streams.client, service), 20))[0]


async def unlisted(streams: Streams, service: str) -> bool:
    return not await registry.workers(streams.client, service)


@pytest.fixture
def tts_process(redis_url: str):
    env = {**os.environ, "REDIS_URL": redis_url, "TTS_BACKEND": "fake", "TTS_SLOTS": "2"}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.tts"], env=env, stderr=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()


async def test_a_worker_is_listed_healthy_and_drains(
    streams: Streams, tts_process: "subprocess.Popen[bytes]", session_id: str
):
    """On SIGTERM it leaves the list, finishes what runs, refuses what is new, and exits with 0."""
    beat = await listed(streams, "tts")
    assert (beat.slots, beat.used, beat.backend) == (2, 0, "fake")
    assert beat.detail["sample_rate_hz"] == "16000"
    async with grpc.aio.insecure_channel(beat.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

        call = TtsServiceStub(channel).Synthesize(request(session_id))
        await call.read()  # started
        tts_process.send_signal(signal.SIGTERM)
        await eventually(lambda: unlisted(streams, "tts"))
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await TtsServiceStub(channel).Synthesize(request("another")).read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert tts_process.poll() is None  # what runs may finish
        call.cancel()
        assert await asyncio.to_thread(tts_process.wait, 10) == 0


def request(session_id: str) -> SynthesizeRequest:
    return SynthesizeRequest(
        turn=TurnRef(session_id=session_id, epoch=1),
        reply_stream=stream_key(session_id, "reply"),
        speech_stream=stream_key(session_id, "speech"),
        playback_stream=stream_key(session_id, "playback"),
    )


async def test_a_worker_that_is_killed_leaves_the_list_by_itself(
    streams: Streams, tts_process: "subprocess.Popen[bytes]"
):
    await listed(streams, "tts")
    tts_process.kill()
    await eventually(lambda: unlisted(streams, "tts"))
