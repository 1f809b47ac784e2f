"""The silence around a clause."""

import numpy as np
import pytest

from services.tts.backend import Timed
from services.tts.silence import pause_after_ms, reframe

RATE_HZ = 16_000


def tone(duration_ms: float) -> np.ndarray:
    return 0.5 * np.sin(np.arange(int(duration_ms * 16)) * 0.3).astype(np.float32)


def quiet(duration_ms: float) -> np.ndarray:
    return np.zeros(int(duration_ms * 16), np.float32)


@pytest.mark.parametrize(
    ("text", "pause_ms"),
    [("Hi.", 280), ("Hi!", 280), ('"Hi?" ', 280), ("well,", 120), ("so —", 120), ("and then", 30)],
)
def test_the_pause_fits_the_mark(text: str, pause_ms: float):
    assert pause_after_ms(text) == pause_ms


def test_leaves_20_ms_before_and_the_pause_after_and_moves_the_times():
    samples = np.concatenate([quiet(200), tone(300), quiet(500)])
    sound, phonemes = reframe(
        samples, RATE_HZ, [Timed("a", 200, 400), Timed("b", 400, 500), Timed(".", 500, 900)], 280
    )
    assert len(sound) / 16 == pytest.approx(20 + 300 + 280, abs=11)
    assert phonemes[0] == Timed("a", 20, 220)
    assert phonemes[1] == Timed("b", 220, 320)
    assert phonemes[2].end_ms <= len(sound) / 16


def test_a_soft_first_phoneme_is_kept():
    samples = np.concatenate([quiet(100), 0.001 * tone(80), tone(300)])
    sound, phonemes = reframe(samples, RATE_HZ, [Timed("h", 100, 180), Timed("a", 180, 480)], 120)
    assert phonemes[0].start_ms == pytest.approx(20)
    assert np.abs(sound[int(30 * 16) : int(90 * 16)]).max() > 0


def test_begins_and_ends_without_a_click():
    sound, _ = reframe(tone(400), RATE_HZ, [Timed("a", 0, 400)], 120)
    assert abs(sound[0]) < 0.01
    assert np.abs(np.diff(sound)).max() < 0.2  # the tone's own steepest step is 0.15
    assert sound[-1] == 0


def test_silence_stays_as_it_is():
    sound, phonemes = reframe(quiet(100), RATE_HZ, [], 120)
    assert len(sound) == 1600 and phonemes == []
