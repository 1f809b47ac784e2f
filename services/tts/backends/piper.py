"""Piper: a small, fast VITS voice that runs many times faster than real time on one core.

Needs the package `piper-tts` (GPL-3.0-or-later, which is why this stage is a process of its own) and the voice
whose onnx file gives alignments, which `visavis models pull` makes.
"""

from collections.abc import Sequence

import numpy as np
from piper import PiperVoice

from services.tts.alignment import align_words, trimmed
from services.tts.backend import Timed, Utterance
from services.tts.settings import Settings
from visavis.audio import samples_to_pcm
from visavis.models import model_path

# Marks that Piper adds around a sentence; silent.
START, END = "^", "$"


class PiperBackend:
    voices: Sequence[str] = ("joe",)

    def __init__(self, voice: PiperVoice) -> None:
        self._voice = voice
        self.sample_rate_hz: int = voice.config.sample_rate

    def synthesize(self, text: str, voice: str) -> Utterance:
        sound, phonemes = [np.zeros(0, np.float32)], list[Timed]()
        at = 0  # samples
        for sentence in self._voice.synthesize(text, include_alignments=True):
            for alignment in sentence.phoneme_alignments or ():
                start, at = at, at + int(alignment.num_samples)
                if alignment.phoneme not in (START, END):
                    phonemes.append(Timed(alignment.phoneme, self._ms(start), self._ms(at)))
            sound.append(sentence.audio_float_array)
            phonemes.append(Timed(" ", self._ms(at), self._ms(at)))  # sentences end words
        samples, phonemes = trimmed(np.concatenate(sound), phonemes, self.sample_rate_hz, text)
        return Utterance(samples_to_pcm(samples), align_words(text, phonemes), phonemes)

    def _ms(self, samples: int) -> float:
        return samples / self.sample_rate_hz * 1000


def load(settings: Settings) -> PiperBackend:
    backend = PiperBackend(PiperVoice.load(str(model_path("piper-joe"))))
    backend.synthesize("Warming up.", backend.voices[0])
    return backend
