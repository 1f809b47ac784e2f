"""Is someone speaking? Frames of sound in, starts and stops of speech out. Plain code: no I/O, no clock.

    p > start_probability for start_ms            silence for pausing_ms           for stop_ms
SILENT ──────── SpeechStarted ────────▶ SPEAKING ─── SpeechPausing ───▶ PAUSING ─── SpeechStopped ──▶ SILENT
                                           ▲                               │
                                           └──────── SpeechResumed ────────┘
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from services.asr.backend import FRAME_SAMPLES
from services.asr.settings import Settings
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples

SAMPLES_PER_MS = MIC_SAMPLE_RATE_HZ / 1000
# The model hears this much of a muted microphone: it must know that it is silent, to hear the next word.
MUTED_SAMPLES = 2 * MIC_SAMPLE_RATE_HZ


@dataclass(frozen=True)
class SpeechEvent:
    at: int  # position in samples, from the first of the microphone
    heard: int  # the event was decided on the sound up to here


class SpeechStarted(SpeechEvent):
    """`at` is the first voiced sample."""


class SpeechPausing(SpeechEvent):
    """A gap, perhaps only between two words. `at` is the last voiced sample."""


class SpeechResumed(SpeechEvent):
    """It was a gap between two words. `at` is the first voiced sample after it."""


class SpeechStopped(SpeechEvent):
    """The gap has become a pause. `at` is the last voiced sample."""


class State(Enum):
    SILENT = auto()
    SPEAKING = auto()
    PAUSING = auto()


class SpeechDetector:
    """Follows one microphone."""

    def __init__(self, probability: Callable[[Samples], float], settings: Settings) -> None:
        self.state = State.SILENT
        self.heard = 0
        self.last_voiced = 0
        self._probability = probability
        self._settings = settings
        self._rest: Samples = np.zeros(0, np.float32)
        self._zeros = 0  # samples of nothing in a row
        self._rising = 0  # samples above `start_probability` in a row

    def push(self, samples: Samples) -> Iterator[SpeechEvent]:
        """Takes the next sound; sound that does not fill a frame waits for more."""
        self._rest = np.concatenate([self._rest, samples])
        while len(self._rest) >= FRAME_SAMPLES:
            frame, self._rest = self._rest[:FRAME_SAMPLES], self._rest[FRAME_SAMPLES:]
            self.heard += FRAME_SAMPLES
            event = self._step(self._judge(frame))
            if event is not None:
                yield event

    def end(self) -> Iterator[SpeechEvent]:
        """The microphone is closed: whoever speaks stops."""
        if self.state is State.SPEAKING:
            yield SpeechPausing(self.last_voiced, self.heard)
        if self.state is not State.SILENT:
            self.state = State.SILENT
            yield SpeechStopped(self.last_voiced, self.heard)

    def _judge(self, frame: Samples) -> float:
        """A microphone that has been muted for a while is not worth asking the model about."""
        self._zeros = 0 if frame.any() else self._zeros + FRAME_SAMPLES
        return 0.0 if self._zeros > MUTED_SAMPLES else self._probability(frame)

    def _step(self, probability: float) -> SpeechEvent | None:
        is_rising = probability > self._settings.start_probability
        self._rising = self._rising + FRAME_SAMPLES if is_rising else 0
        match self.state:
            case State.SILENT:
                return self._start_if_sure()
            case State.SPEAKING:
                if probability >= self._settings.stop_probability:
                    self.last_voiced = self.heard
                elif self._has_been_silent_for(self._settings.pausing_ms):
                    self.state = State.PAUSING
                    return SpeechPausing(self.last_voiced, self.heard)
            case State.PAUSING:
                if is_rising:
                    self.state = State.SPEAKING
                    self.last_voiced = self.heard
                    return SpeechResumed(self.heard - FRAME_SAMPLES, self.heard)
                if self._has_been_silent_for(self._settings.stop_ms):
                    self.state = State.SILENT
                    return SpeechStopped(self.last_voiced, self.heard)
        return None

    def _start_if_sure(self) -> SpeechEvent | None:
        if self._rising < self._settings.start_ms * SAMPLES_PER_MS:
            return None
        self.state = State.SPEAKING
        self.last_voiced = self.heard
        return SpeechStarted(self.heard - self._rising, self.heard)

    def _has_been_silent_for(self, duration_ms: float) -> bool:
        return self.heard - self.last_voiced >= duration_ms * SAMPLES_PER_MS
