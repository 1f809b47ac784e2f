"""Calls with the real small models through the real processes, by the command line and by the Python caller."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import DATA
from tests.listening import share_heard
from tests.system import running_system
from visavis.audio import MIC_SAMPLE_RATE_HZ, read_wav, resample
from visavis.client import dial

pytestmark = [pytest.mark.weights, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_system(tmp_path_factory.mktemp("system") / "run.log") as url:
        yield url.replace("http", "ws") + "/v1/call"


def test_the_command_asks_by_voice_and_writes_the_answer_as_a_film(url: str, tmp_path: Path):
    """The film's sound holds the words that were printed, and its mouth moves with the sound."""
    film = tmp_path / "answer.mp4"
    question = DATA / "capital-of-france.wav"
    command = [sys.executable, "-m", "visavis.cli", "call", "--url", url, "--wav", str(question)]
    done = subprocess.run(
        [*command, "--out", str(film)], capture_output=True, text=True, timeout=200, check=True
    )
    assert "france" in done.stdout.lower() and "voice to voice" in done.stdout
    answer = next(line for line in done.stdout.splitlines() if line.startswith("Theo: "))
    pictures, samples, rate_hz = read_film(film)
    assert share_heard(answer.removeprefix("Theo: "), samples, rate_hz) >= 0.6
    seconds = len(samples) / rate_hz
    assert len(pictures) / seconds == pytest.approx(25, rel=0.15)
    together = mouth_follows_sound(pictures, samples, rate_hz)
    assert together > 0.3
    assert (
        together
        > mouth_follows_sound(pictures, np.roll(samples, len(samples) // 2), rate_hz) + 0.15
    )


def read_film(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Grey pictures [n, h, w] and samples [m] with their rate."""
    with av.open(str(path)) as film:
        pictures = np.stack([frame.to_ndarray(format="gray") for frame in film.decode(video=0)])
    with av.open(str(path)) as film:
        blocks = [frame.to_ndarray().mean(axis=0) for frame in film.decode(audio=0)]
        return pictures, np.concatenate(blocks).astype(np.float32), film.streams.audio[0].rate


def mouth_follows_sound(pictures: np.ndarray, samples: np.ndarray, rate_hz: int) -> float:
    """Correlation of loudness with the contrast of the mouth's picture (an open mouth is dark), within two pictures."""
    height, width = pictures.shape[1:]
    mouth = pictures[
        :, int(height * 0.52) : int(height * 0.72), int(width * 0.38) : int(width * 0.62)
    ]
    opening = mouth.reshape(len(mouth), -1).std(axis=1)

    def loudness(lag: int) -> np.ndarray:
        centres = (np.arange(len(opening)) + lag + 0.5) * rate_hz / 25
        reach = rate_hz * 60 // 1000
        parts = [samples[max(0, int(c) - reach) : max(1, int(c) + reach)] for c in centres]
        return np.array([np.sqrt(np.mean(np.square(p))) if len(p) else 0.0 for p in parts])

    return max(float(np.corrcoef(opening, loudness(lag))[0, 1]) for lag in range(-2, 3))


async def test_a_real_interruption_stops_the_agent_and_is_answered(url: str):
    samples, rate_hz = read_wav(DATA / "capital-of-france.wav")
    question = resample(samples, rate_hz, MIC_SAMPLE_RATE_HZ)
    async with dial(url) as caller:
        silence = asyncio.ensure_future(caller.stay_silent())
        await caller.next_reply(0)
        await caller.send_text("Please tell me a very long story about a dog, a ship and the sea.")
        await caller.wait_for(
            lambda: len(caller.replies) > 1 and caller.replies[1].played_ms > 300, 60_000
        )
        silence.cancel()
        await caller.say(question, trailing_silence_ms=300)
        silence = asyncio.ensure_future(caller.stay_silent())
        cut = await caller.next_reply(1, 60_000)
        answer = await caller.next_reply(2, 60_000)
        silence.cancel()
    assert cut.reason == "barge_in" and cut.played_ms < cut.buffered_ms
    assert "france" in caller.user_texts[-1].lower()
    assert answer.reason == "finished" and answer.pcm and answer.pictures


async def test_two_real_calls_at_once_keep_apart(url: str):
    """Each caller's question is understood as its own, and each hears its own answer."""
    names = ("capital-of-france.wav", "story-about-the-moon.wav")
    keywords = ("france", "moon")

    async def ask(name: str) -> tuple[str, float]:
        samples, rate_hz = read_wav(DATA / name)
        async with dial(url) as caller:
            silence = asyncio.ensure_future(caller.stay_silent())
            await caller.next_reply(0)
            silence.cancel()
            await caller.say(
                resample(samples, rate_hz, MIC_SAMPLE_RATE_HZ), trailing_silence_ms=300
            )
            silence = asyncio.ensure_future(caller.stay_silent())
            reply = await caller.next_reply(1, 90_000)
            silence.cancel()
        return caller.user_texts[-1], share_heard(reply.text, reply.samples, reply.sample_rate_hz)

    results = await asyncio.gather(*map(ask, names))
    for (text, share), keyword, other in zip(results, keywords, keywords[::-1], strict=True):
        assert keyword in text.lower() and other not in text.lower()
        assert share >= 0.6
