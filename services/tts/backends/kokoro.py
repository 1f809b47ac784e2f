"""Kokoro-82M, int8: 28 English voices, better and slower than Piper; for a machine with cores to spare.

Phoneme times come from the model itself: the store's `.timed.onnx` has an output with their durations. The
phonemizer, espeak-ng, is GPL-3 and runs in this process only.
"""

import logging
from collections.abc import Sequence

import numpy as np
from kokoro_onnx import SAMPLE_RATE, Kokoro

from services.tts.alignment import time_words
from services.tts.backend import Timed, Utterance
from services.tts.onnx_session import open_session
from services.tts.settings import Settings
from services.tts.silence import pause_after_ms, reframe
from visavis.audio import samples_to_pcm
from visavis.models import model_path

logger = logging.getLogger(__name__)

DEFAULT_VOICE = "af_heart"
# The durations lag behind the sound by three frames of the model (its own code, join_timestamps, takes off
# as much; measured on three voices: 40-115 ms).
LAG_MS = 75.0


class KokoroBackend:
    sample_rate_hz: int = SAMPLE_RATE

    def __init__(self, kokoro: Kokoro) -> None:
        self._kokoro = kokoro
        others = [voice for voice in kokoro.get_voices() if voice != DEFAULT_VOICE]
        self.voices: Sequence[str] = (DEFAULT_VOICE, *others)

    def synthesize(self, text: str, voice: str) -> Utterance:
        words = [word for word in text.split() if any(char.isalnum() for char in word)]
        language = "en-gb" if voice[0] == "b" else "en-us"
        ipa, *alone = (self._ipa(part, language) for part in (text, *words))
        if not ipa:  # nothing that has a sound
            return Utterance(b"", [Timed(word, 0, 0) for word in words], [])
        samples, _, timings = self._kokoro.create_timed(
            ipa, voice, is_phonemes=True, trim=False, sentence_pause=0, clause_pause=0
        )
        phonemes = [
            Timed(t.phoneme, t.start * 1000 - LAG_MS, t.end * 1000 - LAG_MS) for t in timings
        ]
        samples, phonemes = reframe(
            samples.astype(np.float32), SAMPLE_RATE, phonemes, pause_after_ms(text)
        )
        return Utterance(samples_to_pcm(samples), time_words(words, alone, phonemes), phonemes)

    def _ipa(self, text: str, language: str) -> str:
        """IPA without symbols that the model does not know."""
        return " ".join(self._kokoro.tokenizer.phonemize(text, language).split())


def load(settings: Settings) -> KokoroBackend:
    path = model_path("kokoro-82m", "kokoro-v1.0.int8.timed.onnx")
    voices = model_path("kokoro-82m", "voices.npz")
    backend = KokoroBackend(Kokoro.from_session(open_session(path, settings.threads), str(voices)))
    backend.synthesize("Warming up, one two three.", DEFAULT_VOICE)
    logger.info("loaded %s", path.name)
    return backend
