"""A voice of sine tones: deterministic, with a set delay. Each word lasts 60 ms per letter."""

import time
import zlib
from collections.abc import Sequence

import numpy as np

from services.tts.backend import Timed, Utterance
from services.tts.settings import Settings
from visavis.audio import samples_to_pcm

LETTER_MS = 60
VOWELS = "aeiouy"


class FakeBackend:
    sample_rate_hz = 16_000
    voices: Sequence[str] = ("fake", "fake-high")

    def __init__(self, delay_ms: float) -> None:
        self._delay_ms = delay_ms

    def synthesize(self, text: str, voice: str) -> Utterance:
        time.sleep(self._delay_ms / 1000)
        words: list[Timed] = []
        phonemes: list[Timed] = []
        at_ms = 0.0
        for word in text.split():
            start_ms = at_ms
            for letter in word.lower():
                symbol = letter if letter in VOWELS else "t" if letter.isalnum() else ","
                phonemes.append(Timed(symbol, at_ms, at_ms + LETTER_MS))
                at_ms += LETTER_MS
            words.append(Timed(word, start_ms, at_ms))
        return Utterance(self._tone(text, voice, at_ms), words, phonemes)

    def _tone(self, text: str, voice: str, duration_ms: float) -> bytes:
        """One pitch for each text and voice, so that a test can tell whose sound it hears."""
        pitch_hz = 200 + zlib.crc32(text.encode()) % 400 + (400 if voice == "fake-high" else 0)
        time_s = np.arange(int(self.sample_rate_hz * duration_ms / 1000)) / self.sample_rate_hz
        return samples_to_pcm((0.3 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32))


def load(settings: Settings) -> FakeBackend:
    return FakeBackend(settings.fake_delay_ms)
