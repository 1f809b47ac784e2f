"""When the detector says that someone speaks, on probabilities given by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from services.asr.backend import FRAME_SAMPLES
from services.asr.settings import Settings
from services.asr.vad import (
    MUTED_SAMPLES,
    SpeechDetector,
    SpeechEvent,
    SpeechPausing,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    State,
)

NOISE = np.full(FRAME_SAMPLES, 0.01, np.float32)


def detector(probabilities: Sequence[float]) -> SpeechDetector:
    left = iter(probabilities)
    return SpeechDetector(lambda frame: next(left), Settings(backend="fake"))


def events(*probabilities: float) -> list[SpeechEvent]:
    return list(detector(probabilities).push(np.tile(NOISE, len(probabilities))))


def test_speech_starts_at_its_first_frame():
    assert events(0.1, 0.1, 0.9, 0.9) == [SpeechStarted(2 * FRAME_SAMPLES, 4 * FRAME_SAMPLES)]


def test_a_click_is_not_speech():
    assert events(0.1, 0.9, 0.1, 0.9, 0.4, 0.9) == []


def test_a_gap_between_words_is_taken_back():
    found = events(0.9, 0.9, 0.1, 0.1, 0.1, 0.9)
    assert [type(event) for event in found] == [SpeechStarted, SpeechPausing, SpeechResumed]
    assert found[1] == SpeechPausing(2 * FRAME_SAMPLES, 5 * FRAME_SAMPLES)
    assert found[2] == SpeechResumed(5 * FRAME_SAMPLES, 6 * FRAME_SAMPLES)


def test_a_pause_is_told_after_192_ms_and_names_the_last_voiced_sample():
    found = events(0.9, 0.9, *[0.1] * 6)
    assert [type(event) for event in found] == [SpeechStarted, SpeechPausing, SpeechStopped]
    assert found[2] == SpeechStopped(2 * FRAME_SAMPLES, 8 * FRAME_SAMPLES)


def test_a_soft_ending_counts_as_speech_but_does_not_start_it():
    """Hysteresis: between the two thresholds, what was before goes on."""
    assert events(*[0.4] * 20) == []
    found = events(0.9, 0.9, *[0.4] * 20)
    assert [type(event) for event in found] == [SpeechStarted]


def test_a_second_start_follows_a_stop():
    found = events(0.9, 0.9, *[0.1] * 6, 0.9, 0.9)
    assert isinstance(found[-1], SpeechStarted)


def test_a_muted_microphone_soon_does_not_ask_the_model():
    frames = MUTED_SAMPLES // FRAME_SAMPLES
    muted = detector([0.1] * frames)  # it would fail if it were asked more often
    assert list(muted.push(np.zeros(10 * frames * FRAME_SAMPLES, np.float32))) == []
    assert muted.heard == 10 * frames * FRAME_SAMPLES


@pytest.mark.parametrize("size", [1, 320, 700])
def test_sound_may_come_in_any_pieces(size: int):
    """The same events, whatever the length of the chunks."""
    probabilities = [0.9, 0.9, *[0.1] * 7]
    one_by_one = detector(probabilities)
    sound = np.tile(NOISE, len(probabilities))
    found: list[SpeechEvent] = []
    for begin in range(0, len(sound), size):
        found += one_by_one.push(sound[begin : begin + size])
    assert found == events(*probabilities)


def test_closing_the_microphone_ends_speech():
    open_one = detector([0.9, 0.9])
    list(open_one.push(np.tile(NOISE, 2)))
    assert [type(event) for event in open_one.end()] == [SpeechPausing, SpeechStopped]
    assert open_one.state is State.SILENT
    assert list(open_one.end()) == []
