"""Which word sounds when: from the times of phonemes to the times of words, and trimmed silence."""

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from services.tts.backend import Timed
from visavis.audio import Samples

SILENCE = 0.008  # of full scale, -42 dBFS
LEAD_MS = 20  # silence kept before the first sound
SENTENCE_PAUSE_MS = 260
CLAUSE_PAUSE_MS = 120
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)]*\s*$")
_SOUNDED = re.compile(r"\w")


def trimmed(
    samples: Samples, phonemes: Sequence[Timed], sample_rate_hz: int, text: str
) -> tuple[Samples, list[Timed]]:
    """Sound [n] and its phonemes without the silence in front, and with a pause fit for the text behind."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE)
    if not len(loud):
        return samples, list(phonemes)
    per_ms = sample_rate_hz / 1000
    first = max(0, int(loud[0] - LEAD_MS * per_ms))
    pause_ms = SENTENCE_PAUSE_MS if _SENTENCE_END.search(text) else CLAUSE_PAUSE_MS
    last = int(loud[-1] + pause_ms * per_ms)
    kept = samples[first:last]
    kept = np.pad(kept, (0, last - first - len(kept)))
    shift_ms, length_ms = first / per_ms, len(kept) / per_ms

    def moved(time_ms: float) -> float:
        return min(max(time_ms - shift_ms, 0.0), length_ms)

    return kept, [Timed(p.text, moved(p.start_ms), moved(p.end_ms)) for p in phonemes]


def align_words(text: str, phonemes: Sequence[Timed]) -> list[Timed]:
    """The words of the text as they stand, each with the time of the phonemes that say it.

    Phonemes carry spaces between spoken words. A written word may be several spoken ones ("42"), so the
    groups that are too many go to the words that hold digits or signs.
    """
    words = text.split()
    spans = _spoken_words(phonemes)
    if not words or not spans:
        return []
    if len(spans) < len(words):
        return _spread(words, spans[0][0], spans[-1][1])
    counts = _spoken_counts(words, len(spans) - len(words))
    timed, at = [], 0
    for word, count in zip(words, counts, strict=True):
        group = spans[at : at + count]
        timed.append(Timed(word, group[0][0], group[-1][1]))
        at += count
    return timed


def _spoken_words(phonemes: Sequence[Timed]) -> list[tuple[float, float]]:
    """Start and end of each run of phonemes between spaces that holds a sound."""
    spans = []
    for is_space, run in groupby(phonemes, key=lambda p: not p.text.strip()):
        group = [p for p in run if _SOUNDED.search(p.text)]
        if not is_space and group:
            spans.append((group[0].start_ms, group[-1].end_ms))
    return spans


def _spoken_counts(words: Sequence[str], extra: int) -> list[int]:
    """How many spoken words each written word is, if `extra` more were spoken than are written."""
    weights = [
        len(re.findall(r"[\d%$€£&@+]|[A-Z](?=[A-Z])|(?<=\w)-(?=\w)", word)) for word in words
    ]
    if not any(weights):
        weights = [len(word) for word in words]
    shares = np.floor(np.cumsum(weights) / sum(weights) * extra + 0.5).astype(int)
    return [1 + int(share) for share in np.diff(shares, prepend=0)]


def _spread(words: Sequence[str], start_ms: float, end_ms: float) -> list[Timed]:
    """Without a match: by length."""
    edges = start_ms + np.cumsum([0, *map(len, words)]) / sum(map(len, words)) * (end_ms - start_ms)
    return [
        Timed(word, float(a), float(b))
        for word, a, b in zip(words, edges[:-1], edges[1:], strict=True)
    ]
