"""The silence around a clause: as much as a speaker leaves, whatever the model left."""

from collections.abc import Sequence

import numpy as np

from services.tts.backend import Timed
from visavis.audio import Samples

LEAD_MS = 20.0
FADE_MS = 5.0
TAIL_MS = 30.0  # kept after the last loud window: soft consonants die away
WINDOW_MS = 10.0
QUIET = 10 ** (-45 / 20)  # of the loudest window: below is silence

SENTENCE_PAUSE_MS = 280.0
COMMA_PAUSE_MS = 120.0
NO_PAUSE_MS = 30.0  # the clause was cut between two words


def pause_after_ms(text: str) -> float:
    """How long a speaker is silent after this text."""
    end = text.rstrip().rstrip("\"'”’)")[-1:]
    if end in (".", "!", "?", "…"):
        return SENTENCE_PAUSE_MS
    return COMMA_PAUSE_MS if end in (",", ";", ":", "—", "–") else NO_PAUSE_MS


def reframe(
    samples: Samples, rate_hz: int, phonemes: Sequence[Timed], pause_ms: float
) -> tuple[Samples, list[Timed]]:
    """The sound with LEAD_MS before its first phoneme and `pause_ms` after its last sound.

    Phonemes move along and stay inside the sound. The cuts are faded, so that they do not click.
    """
    loud = _loud_windows(samples, rate_hz)
    if not len(loud):
        return samples, list(phonemes)

    def index(ms: float) -> int:
        return int(ms * rate_hz / 1000)

    # The first phoneme may be a breath (h, f) below the threshold.
    onset = min(index(loud[0] * WINDOW_MS), *(index(p.start_ms) for p in phonemes[:1]))
    start = max(0, onset - index(LEAD_MS))
    end = min(len(samples), index((loud[-1] + 1) * WINDOW_MS + TAIL_MS))
    sound = samples[start:end].copy()
    ramp = np.linspace(0, 1, min(index(FADE_MS), len(sound)), dtype=np.float32)
    sound[: len(ramp)] *= ramp
    sound[len(sound) - len(ramp) :] *= ramp[::-1]
    kept_ms = len(sound) * 1000 / rate_hz
    silence = np.zeros(max(0, index(pause_ms - TAIL_MS)), np.float32)
    start_ms = start * 1000 / rate_hz

    def moved(at_ms: float) -> float:
        return min(max(at_ms - start_ms, 0.0), kept_ms)

    return np.concatenate([sound, silence]), [
        Timed(p.text, moved(p.start_ms), moved(p.end_ms)) for p in phonemes
    ]


def _loud_windows(samples: Samples, rate_hz: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    size = int(rate_hz * WINDOW_MS / 1000)
    windows = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(windows):
        return np.empty(0, np.intp)
    loudness = np.sqrt((windows**2).mean(axis=1))
    return np.flatnonzero(loudness > loudness.max() * QUIET)
