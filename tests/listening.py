"""An ear of the tests' own: Whisper tiny from the store says which words a sound holds."""

import re
from functools import cache

from faster_whisper import WhisperModel

from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples, resample
from visavis.models import model_path


@cache
def _model() -> WhisperModel:
    return WhisperModel(str(model_path("whisper-tiny.en")), device="cpu", compute_type="int8")


def heard_words(samples: Samples, sample_rate_hz: int) -> list[str]:
    """The words in a sound [n], lower case, without marks."""
    sound = resample(samples, sample_rate_hz, MIC_SAMPLE_RATE_HZ)
    segments, _ = _model().transcribe(sound, language="en", beam_size=5)
    return words(" ".join(segment.text for segment in segments))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))


def share_heard(said: str, samples: Samples, sample_rate_hz: int) -> float:
    """How much of what was said can be heard in the sound: 0 to 1."""
    expected, heard = words(said), set(heard_words(samples, sample_rate_hz))
    return sum(word in heard for word in expected) / max(1, len(expected))
