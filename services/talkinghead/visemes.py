"""From timed phonemes to mouth shapes: the lips of the person, as a function of time.

Phonemes are IPA as espeak and misaki write it (the front ends of Piper and Kokoro). Each one has a
target mouth shape and a dominance: a bump in time that says how strongly it holds the mouth. The mouth
at time t is the mean of the targets, weighted by dominance (Cohen and Massaro, 1993), so neighbours
blend into each other as they do in speech:

    sound       |h |ə |l |  oʊ  |          (silence)
    dominance   ╱╲╱╲_╱╲╱ ──── ╲
    jaw      _▁▂▂▃▃▂▂▄▅▅▄▃▂▁__________________________
             ↑ the lips lead the sound by LEAD_MS

Two contacts must survive the blending, because people see it at once when they are missed: closed lips
for p, b, m, and teeth on the lip for f, v.

Every bump ends within a fixed reach, so the mouth at t never depends on phonemes that start after
t + LOOKAHEAD_MS: a track that is filled while it is played gives the same mouth as a complete one.

This module does no I/O and knows no pictures; `face.Face` turns a `MouthShape` into pixels.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

LEAD_MS = 30.0  # lips move before they are heard
LOOKAHEAD_MS = (
    120.0  # at(t) is final once every phoneme that starts before t + LOOKAHEAD_MS is known
)
CLOSING_MS = 140.0  # how long the mouth takes to close after stop()

_REACH_MS = LOOKAHEAD_MS - LEAD_MS  # beyond its own edges by this much, a phoneme has no say
_FALL_MS = 30.0  # dominance falls by a factor of e over this time outside the phoneme
_ACTIVITY_LEAD_MS = 5.0  # opening and closing as a whole lead the sound less than single shapes do
_CONTACT_MIN_MS = 40.0  # half-width of a contact: wide enough to show in one frame at 25 fps
_CONTACT_MAX_MS = 120.0


class TimedPhoneme(Protocol):
    """One phoneme of the speech, on the clock of its audio."""

    @property
    def symbol(self) -> str:
        """IPA, usually one character."""

    @property
    def start_ms(self) -> float:
        """Where its sound starts."""

    @property
    def end_ms(self) -> float:
        """Where its sound ends."""


@dataclass(frozen=True, slots=True)
class MouthShape:
    """A point of mouth space; all zeros is the mouth at rest, closed and relaxed."""

    jaw: float = 0.0
    """0 closed .. 1 wide open."""
    width: float = 0.0
    """-1 rounded, puckered .. 0 neutral .. 1 spread."""
    press: float = 0.0
    """0 .. 1 lips pressed together."""
    lip_teeth: float = 0.0
    """0 .. 1 upper teeth on the lower lip."""

    @property
    def is_rest(self) -> bool:
        """Whether the mouth is exactly at rest."""
        return not (self.jaw or self.width or self.press or self.lip_teeth)

    def scaled(self, amount: float) -> MouthShape:
        """The shape moved towards rest: 1 is unchanged, 0 is rest."""
        return MouthShape(
            self.jaw * amount, self.width * amount, self.press * amount, self.lip_teeth * amount
        )


REST = MouthShape()


@dataclass(frozen=True, slots=True)
class Viseme:
    """What a class of phonemes wants of the mouth, and how much it insists."""

    jaw: float
    width: float
    dominance: float = 1.0
    press: bool = False
    lip_teeth: bool = False


# Symbols of one mouth shape. Consonants made behind the lips (t, k, h ...) insist little: the vowels
# around them shape the mouth.
_CLASSES: tuple[tuple[str, Viseme], ...] = (
    ("pbmɓ", Viseme(0.00, 0.00, 1.6, press=True)),
    ("fvɱɸβʋ", Viseme(0.05, 0.05, 1.4, lip_teeth=True)),
    ("θð", Viseme(0.22, 0.15, 0.9)),
    ("tdnɾɗʈɖɳT", Viseme(0.18, 0.15, 0.7)),
    ("lɫʎɭ", Viseme(0.28, 0.05, 0.7)),
    ("szʦʣ", Viseme(0.10, 0.40, 1.1)),
    ("ʃʒʂʐɕʑ", Viseme(0.18, -0.60, 1.4)),
    ("kɡgŋxɣqɢχʁcɟçɲ", Viseme(0.28, 0.05, 0.6)),
    ("hɦħʕʔ", Viseme(0.28, 0.00, 0.3)),
    ("rɹɻʀ", Viseme(0.22, -0.50, 1.1)),
    ("wʍɥ", Viseme(0.10, -1.00, 1.7)),
    ("j", Viseme(0.18, 0.60, 1.0)),
    ("ɑa", Viseme(0.80, 0.05, 1.3)),
    ("æ", Viseme(0.70, 0.40, 1.2)),
    ("ɒɔ", Viseme(0.60, -0.45, 1.3)),
    ("ʌɐ", Viseme(0.54, 0.05, 1.1)),
    ("əᵊɘɵɨᵻ", Viseme(0.34, 0.00, 0.8)),
    ("ɚɝɜɞ", Viseme(0.36, -0.40, 1.1)),
    ("ɛe", Viseme(0.46, 0.40, 1.1)),
    ("ɪ", Viseme(0.30, 0.45, 1.0)),
    ("i", Viseme(0.22, 0.80, 1.2)),
    ("o", Viseme(0.48, -0.75, 1.4)),
    ("øœ", Viseme(0.42, -0.75, 1.4)),
    ("ʊ", Viseme(0.28, -0.70, 1.2)),
    ("uɯ", Viseme(0.20, -0.95, 1.4)),
    ("yʏ", Viseme(0.20, -0.80, 1.4)),
)
_VISEMES = {symbol: viseme for symbols, viseme in _CLASSES for symbol in symbols}
# misaki writes diphthongs and affricates as single letters; they are two shapes one after the other.
_COMPOUNDS = {
    **{"A": "eɪ", "I": "aɪ", "O": "oʊ", "Q": "əʊ", "W": "aʊ", "Y": "ɔɪ"},
    **{"ʤ": "dʒ", "ʧ": "tʃ", "ʨ": "tɕ", "ʥ": "dʑ"},
}
_UNKNOWN_LETTER = Viseme(0.30, 0.00, 0.6)
_LENGTH_MARKS = "ːˑ"
# Piper gives stress marks a time of their own, at the edge of a vowel: the mouth stays in speech.
_STRESS = Viseme(0.25, 0.00, 0.25)


def visemes_of(symbol: str, previous: Viseme | None = None) -> list[Viseme]:
    """The mouth targets of one phoneme symbol, in order; none for silence and punctuation.

    A length mark goes on with the `previous` target. Letters that are no known IPA open the mouth a little,
    so that a strange symbol never freezes the face.
    """
    targets: list[Viseme] = []
    for character in "".join(_COMPOUNDS.get(c, c) for c in symbol):
        if character in _VISEMES:
            targets.append(_VISEMES[character])
        elif character in _LENGTH_MARKS and (targets or previous):
            targets.append(targets[-1] if targets else previous or _UNKNOWN_LETTER)
        elif character in "ˈˌ":
            targets.append(_STRESS)
        elif unicodedata.category(character) in ("Ll", "Lu", "Lo"):
            targets.append(_UNKNOWN_LETTER)
    return targets


@dataclass(frozen=True, slots=True)
class _Target:
    """A viseme at its place on the clock."""

    viseme: Viseme
    start_ms: float
    end_ms: float

    def distance_ms(self, time_ms: float) -> float:
        return max(self.start_ms - time_ms, time_ms - self.end_ms, 0.0)

    def dominance(self, time_ms: float) -> float:
        away = self.distance_ms(time_ms)
        if away >= _REACH_MS:
            return 0.0
        half = (self.end_ms - self.start_ms) / 2
        x = min(abs(time_ms - self.start_ms - half) / half, 1.0) if half > 0 else 1.0
        # The last factor ends the bump exactly at its reach, without a step.
        fall = math.exp(-away / _FALL_MS) * (1 - (away / _REACH_MS) ** 2) ** 2
        return self.viseme.dominance * math.exp(-0.8 * x * x) * fall

    def contact(self, time_ms: float) -> float:
        """1 while the lips touch, 0 well outside: flat at the top, so that the touch is seen."""
        half = (self.end_ms - self.start_ms) / 2
        width = 1.15 * min(max(half, _CONTACT_MIN_MS), _CONTACT_MAX_MS)
        x = (time_ms - self.start_ms - half) / width
        return max(0.0, (math.exp(-(x**4)) - 0.01) / 0.99) if abs(x) < 2 else 0.0


class MouthTrack:
    """The mouth of one utterance. Phonemes come in as they are synthesised, shapes go out by time.

    Phonemes must come in order of their start. One track serves one utterance: make a new one for the
    next. Not safe for use from several threads at once.
    """

    def __init__(self) -> None:
        self._targets: list[_Target] = []
        self._starts_ms: list[float] = []
        self._stop_ms: float | None = None
        self._shape_at_stop = REST

    def add(self, phonemes: Sequence[TimedPhoneme]) -> None:
        """Append phonemes. After stop() they are dropped: the person has been cut off.

        Raises ValueError when a phoneme starts before the one before it.
        """
        if self._stop_ms is not None:
            return
        for phoneme in phonemes:
            for target in self._place(phoneme):
                self._targets.append(target)
                self._starts_ms.append(target.start_ms)

    def stop(self, time_ms: float) -> None:
        """Cut the speech off: from its shape at `time_ms` the mouth closes within CLOSING_MS."""
        if self._stop_ms is None or time_ms < self._stop_ms:
            self._shape_at_stop = self.at(time_ms)
            self._stop_ms = time_ms

    @property
    def rest_from_ms(self) -> float:
        """From this time on the mouth is exactly at rest, as far as is known now."""
        spoken_ms = self._targets[-1].end_ms + _REACH_MS if self._targets else 0.0
        return spoken_ms if self._stop_ms is None else min(spoken_ms, self._stop_ms + CLOSING_MS)

    def at(self, time_ms: float) -> MouthShape:
        """The mouth at `time_ms` of the audio. Final once phonemes up to LOOKAHEAD_MS later are known."""
        if self._stop_ms is not None and time_ms >= self._stop_ms:
            closed = min((time_ms - self._stop_ms) / CLOSING_MS, 1.0)
            open_ = 1 - closed * closed * (3 - 2 * closed)
            return self._shape_at_stop.scaled(open_) if open_ > 0 else REST
        activity = self._activity(time_ms + _ACTIVITY_LEAD_MS)
        if activity <= 0:
            return REST
        # While the mouth closes, the last sound falls out of reach of the leading time first.
        ahead = self._blend(time_ms + LEAD_MS) or self._blend(time_ms + _ACTIVITY_LEAD_MS)
        return ahead.scaled(activity) if ahead else REST

    def _place(self, phoneme: TimedPhoneme) -> Iterator[_Target]:
        """Share the time of one phoneme among its targets."""
        if self._starts_ms and phoneme.start_ms < self._starts_ms[-1]:
            raise ValueError(f"phoneme {phoneme.symbol!r} starts before the one before it")
        previous = self._targets[-1].viseme if self._targets else None
        visemes = visemes_of(phoneme.symbol, previous)
        if not visemes:
            return
        share_ms = max(phoneme.end_ms - phoneme.start_ms, 0.0) / len(visemes)
        for i, viseme in enumerate(visemes):
            start_ms = phoneme.start_ms + i * share_ms
            yield _Target(viseme, start_ms, start_ms + share_ms)

    def _near(self, time_ms: float) -> Iterator[_Target]:
        """Targets within reach of a time, latest first."""
        for i in range(bisect_left(self._starts_ms, time_ms + _REACH_MS) - 1, -1, -1):
            target = self._targets[i]
            if target.end_ms <= time_ms - _REACH_MS:
                return
            yield target

    def _activity(self, time_ms: float) -> float:
        """1 within speech, falling to 0 over _REACH_MS of silence on either side of it."""
        near = [target.distance_ms(time_ms) for target in self._near(time_ms)]
        into = 1 - min(near, default=_REACH_MS) / _REACH_MS
        return into * into * (3 - 2 * into)

    def _blend(self, time_ms: float) -> MouthShape | None:
        """Mean target at a time; None when no phoneme is in reach."""
        total = jaw = width = press = lip_teeth = 0.0
        for target in self._near(time_ms):
            viseme, weight = target.viseme, target.dominance(time_ms)
            total += weight
            jaw += weight * viseme.jaw
            width += weight * viseme.width
            if viseme.press:
                press = max(press, target.contact(time_ms))
            elif viseme.lip_teeth:
                lip_teeth = max(lip_teeth, target.contact(time_ms))
        if total <= 0:
            return None
        # Lips that touch cannot be parted by the vowels beside them.
        held = max(press, 0.9 * lip_teeth)
        lip_teeth *= 1 - press
        return MouthShape(
            jaw / total * (1 - held), width / total * (1 - 0.4 * held), press, lip_teeth
        )
