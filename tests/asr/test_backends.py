"""What every ear must do: one contract, over each backend that is installed and has its weights."""

import asyncio
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from services.asr.backend import BACKENDS, FRAME_SAMPLES, Backend, Recognizer, load_backend
from services.asr.settings import Settings
from tests.asr.listening import listening, silence, speech
from tests.conftest import DATA
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples, read_wav
from visavis.models import ModelMissing


@dataclass(frozen=True)
class Said:
    sound: Samples
    text: str  # in lower case, without marks


@dataclass(frozen=True)
class Ear:
    backend: Backend
    question: Said
    wish: Said


def recording(name: str, text: str) -> Said:
    samples, rate_hz = read_wav(DATA / name)
    assert rate_hz == MIC_SAMPLE_RATE_HZ
    return Said(samples, text)


@pytest.fixture(
    scope="module", params=["fake", pytest.param("embedded", marks=pytest.mark.weights)]
)
def ear(request: pytest.FixtureRequest) -> Ear:
    try:
        backend = load_backend(Settings(backend=request.param, profile="small"))
    except (ImportError, ModelMissing) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    if request.param == "fake":
        return Ear(
            backend,
            Said(speech("alpha bravo charlie"), "alpha bravo charlie"),
            Said(speech("echo golf"), "echo golf"),
        )
    # Made with Piper, voice joe (CC0).
    return Ear(
        backend,
        recording("capital-of-france.wav", "what is the capital of france"),
        recording("story-about-the-moon.wav", "please tell me a story about the moon"),
    )


def bare(text: str) -> str:
    return re.sub(r"[^a-z' ]", "", text.lower())


def frames(sound: Samples) -> Iterator[Samples]:
    for begin in range(0, len(sound) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        yield sound[begin : begin + FRAME_SAMPLES]


def probabilities(recognizer: Recognizer, sound: Samples) -> list[float]:
    return [recognizer.speech_probability(frame) for frame in frames(sound)]


def noise(seconds: float, level: float) -> Samples:
    shape = round(seconds * MIC_SAMPLE_RATE_HZ)
    return (level * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def test_names_its_languages(ear: Ear):
    assert ear.backend.languages[0] == "en"


def test_speech_becomes_text(ear: Ear):
    recognizer = ear.backend.open("en")
    for said in (ear.question, ear.wish):
        assert bare(recognizer.final_text(said.sound)) == said.text


def test_a_partial_is_the_beginning_of_the_final(ear: Ear):
    recognizer = ear.backend.open("en")
    half = bare(recognizer.partial_text(ear.wish.sound[: len(ear.wish.sound) // 2])).split()
    whole = bare(recognizer.partial_text(ear.wish.sound)).split()
    assert whole == ear.wish.text.split()
    assert half
    assert half[:1] == whole[:1] and len(half) <= len(whole)


@pytest.mark.parametrize("seconds", [0.5, 1, 5])
def test_silence_has_no_words(ear: Ear, seconds: float):
    assert ear.backend.open("en").final_text(silence(1000 * seconds)) == ""


@pytest.mark.parametrize("level", [0.001, 0.01])
@pytest.mark.parametrize("seconds", [0.5, 2, 10])
def test_noise_has_no_words(ear: Ear, seconds: float, level: float):
    assert ear.backend.open("en").final_text(noise(seconds, level)) == ""


def test_speech_is_told_from_silence_and_noise(ear: Ear):
    recognizer = ear.backend.open("en")
    assert max(probabilities(recognizer, silence(1000))) < 0.35
    assert max(probabilities(recognizer, noise(1, 0.01))) < 0.35
    voiced = probabilities(recognizer, ear.question.sound)
    assert sum(p > 0.5 for p in voiced) > 0.6 * len(voiced)
    assert max(probabilities(recognizer, silence(1000))[-15:]) < 0.35


def test_the_end_of_turn_is_a_probability(ear: Ear):
    recognizer = ear.backend.open("en")
    for sound in (ear.question.sound, silence(50), noise(20, 0.01)):
        assert 0 <= recognizer.end_of_turn_probability(sound) <= 1


def test_two_recognizers_never_mix(ear: Ear):
    """Frames taken in turns, and passes run at once, give what each alone would give."""
    alone = [probabilities(ear.backend.open("en"), said.sound) for said in (ear.question, ear.wish)]
    first, second = ear.backend.open("en"), ear.backend.open("en")
    pairs = zip(frames(ear.question.sound), frames(ear.wish.sound), strict=False)
    together = [(first.speech_probability(a), second.speech_probability(b)) for a, b in pairs]
    assert [a for a, _ in together] == alone[0][: len(together)]
    assert [b for _, b in together] == alone[1][: len(together)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            one = pool.submit(first.final_text, ear.question.sound)
            other = pool.submit(second.partial_text, ear.wish.sound)
            assert bare(one.result()) == ear.question.text
            assert bare(other.result()) == ear.wish.text


async def test_a_session_from_sound_to_text(ear: Ear):
    """All of it together: pauses are found, and the second utterance joins the first."""
    async with listening(ear.backend) as session:
        await session.hear(silence(500))
        for said in (ear.question, ear.wish):
            await session.hear(said.sound)
            await session.hear(silence(700))
            await session.next("final")
        await asyncio.sleep(0)
        await session.end()
    assert bare(session.finals[-1]) == f"{ear.question.text} {ear.wish.text}"
    assert session.kinds[0] == "speech_started" and session.kinds[-1] == "end"


@pytest.mark.weights
def test_words_beyond_whispers_window_are_kept():
    """Sound of 40 s: nothing is lost where one window of 30 s ends."""
    try:
        backend = load_backend(Settings(backend="embedded", profile="small"))
    except (ImportError, ModelMissing) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    question = recording("capital-of-france.wav", "").sound
    wish = recording("story-about-the-moon.wav", "").sound
    both = np.concatenate([question, silence(500), wish, silence(500)])
    count = round(40 * MIC_SAMPLE_RATE_HZ / len(both))
    words = bare(backend.open("en").final_text(np.tile(both, count))).split()
    assert words.count("capital") == words.count("moon") == count


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="choose one of fake, embedded"):
        load_backend(Settings(backend="magic"))
    assert set(BACKENDS) == {"fake", "embedded"}
