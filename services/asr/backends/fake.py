"""An ear for sine tones: deterministic, with a set delay. Each burst of sound is a word, named by its pitch."""

import time
from collections.abc import Sequence

import numpy as np

from services.asr.backend import FRAME_SAMPLES
from services.asr.settings import Settings
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples

LOUD = 0.02
WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")
FIRST_PITCH_HZ = 200
PITCH_STEP_HZ = 100
BLOCK = MIC_SAMPLE_RATE_HZ // 100  # 10 ms
WORD_GAP_BLOCKS = 3


class FakeRecognizer:
    def __init__(self, backend: "FakeBackend") -> None:
        self._backend = backend

    def speech_probability(self, frame: Samples) -> float:
        return 0.95 if rms(frame) > LOUD else 0.05

    def partial_text(self, samples: Samples) -> str:
        return heard_words(samples)

    def final_text(self, samples: Samples) -> str:
        time.sleep(self._backend.delay_ms / 1000)
        return heard_words(samples)

    def end_of_turn_probability(self, samples: Samples) -> float:
        return self._backend.end_of_turn


class FakeBackend:
    languages: Sequence[str] = ("en",)

    def __init__(self, delay_ms: float = 0, end_of_turn: float = 0.9) -> None:
        self.delay_ms = delay_ms
        self.end_of_turn = end_of_turn

    def open(self, language: str) -> FakeRecognizer:
        return FakeRecognizer(self)


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def heard_words(samples: Samples) -> str:
    """One word for each burst of sound between gaps of 30 ms or more."""
    blocks = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
    loud = np.flatnonzero(np.sqrt(np.mean(np.square(blocks), axis=1)) > LOUD)
    bursts = np.split(loud, np.flatnonzero(np.diff(loud) > WORD_GAP_BLOCKS) + 1)
    return " ".join(word(blocks[burst].ravel()) for burst in bursts if len(burst) >= 2)


def word(samples: Samples) -> str:
    spectrum = np.abs(np.fft.rfft(samples))
    pitch_hz = int(np.argmax(spectrum)) * MIC_SAMPLE_RATE_HZ / len(samples)
    index = round((pitch_hz - FIRST_PITCH_HZ) / PITCH_STEP_HZ)
    return WORDS[min(max(index, 0), len(WORDS) - 1)]


def tone(word: str, duration_ms: float = 10 * FRAME_SAMPLES / 16) -> Samples:
    """A burst that is heard as `word`: for tests and load."""
    pitch_hz = FIRST_PITCH_HZ + WORDS.index(word) * PITCH_STEP_HZ
    time_s = np.arange(round(duration_ms * MIC_SAMPLE_RATE_HZ / 1000)) / MIC_SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)


def load(settings: Settings) -> FakeBackend:
    return FakeBackend(settings.fake_delay_ms)
