"""One contract for every voice: those whose library and weights are here, the fake included.

With CI=true nothing is skipped: a missing library or model is a failure.
"""

import importlib.util
import os
from collections.abc import Iterator

import numpy as np
import pytest

from services.tts.backend import BACKENDS, Backend, load_backend
from services.tts.settings import Settings
from tests.listening import share_heard
from visavis.audio import pcm_to_samples
from visavis.models import ModelMissing

LIBRARIES = {"piper": "piper", "kokoro": "kokoro_onnx"}
SENTENCES = [
    "Hello there, my friend.",
    "I have 42 cats and 3.5 dogs: 20% off!",
    "Well,",
    "One. Two! Three?",
    "The people in the world, I am going to be there",
    "It's a well-known fact — really; don't you think so?",
]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.weights) if name in LIBRARIES else name
        for name in BACKENDS
    ],
)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    try:
        if request.param in LIBRARIES and not importlib.util.find_spec(LIBRARIES[request.param]):
            raise ModelMissing(f"{LIBRARIES[request.param]} is not installed")
        yield load_backend(Settings(backend=request.param))
    except ModelMissing as missing:
        # Kokoro is no part of the small profile, which is what CI has.
        if os.environ.get("CI") == "true" and request.param != "kokoro":
            raise
        pytest.skip(str(missing))


@pytest.mark.parametrize("text", SENTENCES)
def test_timings_are_in_order_and_sum_up_to_the_sound(backend: Backend, text: str):
    utterance = backend.synthesize(text, backend.voices[0])
    duration_ms = len(utterance.pcm) / 2 / backend.sample_rate_hz * 1000
    for timeline in (utterance.words, utterance.phonemes):
        edges = [edge for timed in timeline for edge in (timed.start_ms, timed.end_ms)]
        assert edges == sorted(edges)
        assert 0 <= edges[0] < 100
        assert duration_ms - 400 <= edges[-1] <= duration_ms + 0.1


@pytest.mark.parametrize("text", SENTENCES)
def test_every_word_has_its_time_and_its_sound(backend: Backend, text: str):
    utterance = backend.synthesize(text, backend.voices[0])
    assert [w.text for w in utterance.words if w.text != "—"] == [
        w for w in text.split() if w != "—"
    ]
    samples = pcm_to_samples(utterance.pcm)
    for word in utterance.words:
        assert word.end_ms - word.start_ms >= 20
        first, last = (
            int(ms * backend.sample_rate_hz / 1000) for ms in (word.start_ms, word.end_ms)
        )
        assert np.abs(samples[first:last]).max() > 0.02


def test_every_voice_speaks_with_a_sound_of_its_own(backend: Backend):
    sounds = [backend.synthesize("Hello there.", voice).pcm for voice in backend.voices[:4]]
    assert all(np.abs(pcm_to_samples(pcm)).max() > 0.1 for pcm in sounds)
    assert len(set(sounds)) == len(sounds)


def test_does_not_click_at_the_edges_of_a_clause(backend: Backend):
    for text in ("Hello there, my friend.", "and then", "Well,"):
        samples = pcm_to_samples(backend.synthesize(text, backend.voices[0]).pcm)
        assert abs(samples[0]) < 0.02 and abs(samples[-1]) < 0.3
    if backend.sample_rate_hz != 16_000:  # the fake does not pause
        assert abs(samples[-1]) < 0.001


def test_what_cannot_be_said_is_silence_not_an_error(backend: Backend):
    for text in ("日本", "...", "हिन्दी 7"):
        utterance = backend.synthesize(text, backend.voices[0])
        assert len(utterance.pcm) % 2 == 0


@pytest.mark.weights
def test_speech_is_understood(backend: Backend):
    """The round trip: what the voice says, Whisper writes."""
    if backend.sample_rate_hz == 16_000:
        pytest.skip("the fake does not speak English")
    text = "The train to the city leaves at nine in the morning, and my sister will meet us there."
    pcm = backend.synthesize(text, backend.voices[0]).pcm
    # Voices vary a little each time, and the tests' ear is a small one: two words of seventeen may go wrong.
    heard_text = text.replace("nine", "9")
    shares = [
        share_heard(said, pcm_to_samples(pcm), backend.sample_rate_hz)
        for said in (text, heard_text)
    ]
    assert max(shares) >= 0.85
