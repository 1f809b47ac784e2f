"""Piper's voice `joe`: a VITS model, twenty times faster than real time on two cores.

Phoneme times come from the model itself: the store's `.aligned.onnx` has an output that says how many
samples each phoneme takes. piper-tts is GPL-3 and runs in this process only.
"""

import json
import logging
from collections.abc import Sequence

import numpy as np
from piper import PiperVoice
from piper.config import PiperConfig

from services.tts.alignment import time_words
from services.tts.backend import Timed, Utterance
from services.tts.onnx_session import open_session
from services.tts.settings import Settings
from services.tts.silence import pause_after_ms, reframe
from visavis.audio import Samples, samples_to_pcm
from visavis.models import model_path

logger = logging.getLogger(__name__)

BOS = "^"  # Piper's mark of the beginning; it holds silence
# Piper itself would bring each clause to full scale, a whisper as loud as a shout. One gain for all instead.
GAIN = 1.3


class PiperBackend:
    voices: Sequence[str] = ("joe",)

    def __init__(self, voice: PiperVoice) -> None:
        self._voice = voice
        self._ids = voice.config.phoneme_id_map
        self.sample_rate_hz: int = voice.config.sample_rate

    def synthesize(self, text: str, voice: str) -> Utterance:
        samples, phonemes = self._say(text)
        samples, phonemes = reframe(samples, self.sample_rate_hz, phonemes, pause_after_ms(text))
        words = [word for word in text.split() if any(char.isalnum() for char in word)]
        return Utterance(
            samples_to_pcm(samples),
            time_words(words, [self._ipa(word) for word in words], phonemes),
            phonemes,
        )

    def _say(self, text: str) -> tuple[Samples, list[Timed]]:
        """The sound of all sentences of the text, one after the other, and its phonemes."""
        parts: list[Samples] = [np.empty(0, np.float32)]
        phonemes: list[Timed] = []
        at = 0  # samples
        for sentence in self._phonemes(text):
            ids = self._voice.phonemes_to_ids(sentence)
            samples, lengths = self._voice.phoneme_ids_to_audio(ids, include_alignments=True)
            ends = at + np.cumsum(lengths)
            place = len(self._ids[BOS]) + 1  # behind each phoneme's ids stands a pad
            for phoneme in [*sentence, " "]:
                start = ends[place - 1]
                place = min(place + len(self._ids[phoneme]) + 1, len(ends))
                phonemes.append(Timed(phoneme, self._ms(start), self._ms(ends[place - 1])))
            parts.append(np.clip(samples * GAIN, -1, 1))
            at += len(samples)
        return np.concatenate(parts), phonemes

    def _phonemes(self, text: str) -> list[list[str]]:
        """IPA symbols, sentence by sentence, without those that the model does not know."""
        sentences = self._voice.phonemize(text)
        known = [[symbol for symbol in sentence if symbol in self._ids] for sentence in sentences]
        return [sentence for sentence in known if sentence]

    def _ms(self, samples: int) -> float:
        return float(samples * 1000 / self.sample_rate_hz)

    def _ipa(self, word: str) -> str:
        return "".join(symbol for sentence in self._phonemes(word) for symbol in sentence)


def load(settings: Settings) -> PiperBackend:
    path = model_path("piper-joe")
    config = json.loads(path.with_suffix(".onnx.json").read_text("utf-8"))
    voice = PiperVoice(open_session(path, settings.threads), PiperConfig.from_dict(config))
    backend = PiperBackend(voice)
    backend.synthesize("Warming up, one two three.", backend.voices[0])
    logger.info("loaded %s", path.name)
    return backend
