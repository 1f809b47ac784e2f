"""The mouth as a function of time, tested with bare numbers."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from services.talkinghead.visemes import (
    CLOSING_MS,
    LOOKAHEAD_MS,
    REST,
    MouthShape,
    MouthTrack,
    visemes_of,
)


@dataclass(frozen=True)
class Phoneme:
    symbol: str
    start_ms: float
    end_ms: float


def say(symbols: Sequence[str], each_ms: float = 80.0, start_ms: float = 0.0) -> list[Phoneme]:
    """Phonemes of equal length, one after the other."""
    return [
        Phoneme(symbol, start_ms + i * each_ms, start_ms + (i + 1) * each_ms)
        for i, symbol in enumerate(symbols)
    ]


def track_of(phonemes: Sequence[Phoneme]) -> MouthTrack:
    track = MouthTrack()
    track.add(phonemes)
    return track


def frames(track: MouthTrack, end_ms: float, step_ms: float = 40.0) -> list[MouthShape]:
    return [track.at(i * step_ms) for i in range(int(end_ms / step_ms))]


@pytest.mark.parametrize("symbol", ["p", "b", "m"])
@pytest.mark.parametrize("phase_ms", [0, 10, 20, 30])
def test_lips_close_on_bilabials_between_open_vowels_in_some_frame(
    symbol: str, phase_ms: int
) -> None:
    """Whatever the phase of the frames, one of them shows closed lips, even in fast speech."""
    track = track_of(say(["ɑ", symbol, "ɑ"], each_ms=60))
    shapes = [track.at(phase_ms + 40 * i) for i in range(5)]
    closest = max(shapes, key=lambda shape: shape.press)
    assert closest.press > 0.8
    assert closest.jaw < 0.15
    assert max(shape.jaw for shape in shapes) > 0.45


@pytest.mark.parametrize("symbol", ["f", "v"])
def test_teeth_touch_the_lip_on_labiodentals(symbol: str) -> None:
    track = track_of(say(["æ", symbol, "æ"]))
    shape = track.at(120 - 30)
    assert shape.lip_teeth > 0.9
    assert shape.jaw < 0.2
    assert shape.press == 0


@pytest.mark.parametrize("symbol", ["u", "w", "ʊ", "o"])
def test_rounded_sounds_round_the_lips(symbol: str) -> None:
    assert track_of(say([symbol], 120)).at(30).width < -0.5


def test_spread_vowel_spreads_the_lips() -> None:
    assert track_of(say(["i"], 120)).at(30).width > 0.5


def test_open_vowels_open_wider_than_close_ones() -> None:
    jaws = [track_of(say([vowel], 150)).at(45).jaw for vowel in ("i", "ɪ", "ɛ", "æ", "ɑ")]
    assert jaws == sorted(jaws)
    assert jaws[-1] > 0.7


def test_mouth_opens_smoothly_and_monotonically_before_the_first_vowel() -> None:
    track = track_of(say(["ɑ"], 200, start_ms=300))
    jaws = [round(track.at(t).jaw, 9) for t in range(150, 360, 5)]
    assert jaws[0] == 0
    assert jaws == sorted(jaws)
    assert max(b - a for a, b in zip(jaws, jaws[1:], strict=False)) < 0.10


def test_lips_lead_the_sound() -> None:
    """The jaw is under way when the vowel is heard for the first time."""
    assert track_of(say(["ɑ"], 200, start_ms=300)).at(290).jaw > 0.4


def test_mouth_closes_in_a_long_silence_and_not_in_a_short_one() -> None:
    def least_open(gap_ms: float) -> float:
        track = track_of([Phoneme("ɑ", 0, 200), Phoneme("ɑ", 200 + gap_ms, 400 + gap_ms)])
        return min(track.at(170.0 + ms).jaw for ms in range(0, int(gap_ms), 5))

    assert least_open(60) > 0.5
    assert least_open(260) == 0


def test_mouth_is_exactly_at_rest_before_after_and_without_speech() -> None:
    track = track_of(say(["ɑ", "m", "ɑ"], start_ms=500))
    assert track.at(0) is REST
    assert track.at(track.rest_from_ms) is REST
    assert MouthTrack().at(123) is REST
    assert MouthTrack().rest_from_ms == 0


def test_streaming_equals_offline() -> None:
    """A value does not change once the phonemes up to LOOKAHEAD_MS later are known."""
    rng = random.Random(1)
    symbols = ["h", "ə", "l", "o", "ʊ", "p", "f", "ː", "ˈ", " ", "ʃ", "A", ",", "m", "u", "æ"]
    phonemes: list[Phoneme] = []
    clock_ms = 0.0
    for _ in range(200):
        length_ms = rng.choice([12.0, 35.0, 60.0, 110.0, 300.0])
        phonemes.append(Phoneme(rng.choice(symbols), clock_ms, clock_ms + length_ms))
        clock_ms += length_ms + rng.choice([0.0, 0.0, 0.0, 130.0, 400.0])
    offline = track_of(phonemes)
    streamed = MouthTrack()
    pending = list(phonemes)
    for time_ms in range(0, int(clock_ms), 10):
        while pending and pending[0].start_ms < time_ms + LOOKAHEAD_MS:
            streamed.add([pending.pop(0)])
        assert streamed.at(time_ms) == offline.at(time_ms)


def test_shapes_stay_in_range_and_change_without_jumps() -> None:
    track = track_of(say(list("ðə kwˈɪk bɹˈaʊn fˈɑks dʒˈʌmps ˌoʊvɚ"), 55))
    shapes = frames(track, 2200, step_ms=5)
    for shape in shapes:
        assert 0 <= shape.jaw <= 1 and -1 <= shape.width <= 1
        assert 0 <= shape.press <= 1 and 0 <= shape.lip_teeth <= 1
    steps = zip(shapes, shapes[1:], strict=False)
    assert max(abs(b.jaw - a.jaw) for a, b in steps) < 0.16


def test_stop_keeps_the_past_and_closes_the_mouth_in_time() -> None:
    track = track_of(say(["ɑ", "ɑ", "ɑ", "ɑ"], 100))
    before = [track.at(t) for t in range(0, 150, 10)]
    track.stop(150)
    track.add([Phoneme("i", 500, 700)])
    assert [track.at(t) for t in range(0, 150, 10)] == before
    jaws = [track.at(t).jaw for t in range(150, 300, 10)]
    assert jaws == sorted(jaws, reverse=True)
    assert jaws[0] > 0.6
    assert track.at(150 + CLOSING_MS) is REST
    assert track.at(600) is REST
    assert track.rest_from_ms == 150 + CLOSING_MS


def test_phonemes_out_of_order_are_refused() -> None:
    track = track_of(say(["a", "b"]))
    with pytest.raises(ValueError, match="before"):
        track.add([Phoneme("a", 10, 20)])


def test_compound_and_unknown_symbols() -> None:
    assert visemes_of("I") == visemes_of("aɪ") == visemes_of("a") + visemes_of("ɪ")
    assert visemes_of("ʤ") == visemes_of("d") + visemes_of("ʒ")
    assert visemes_of("iː") == visemes_of("i") * 2
    assert visemes_of("ː", previous=visemes_of("u")[0]) == visemes_of("u")
    for silent in (" ", "?", "—", "_", "^", "$", "", "ː", "\u0361"):
        assert visemes_of(silent) == []
    assert len(visemes_of("ж")) == 1


def test_one_call_is_cheap() -> None:
    """Under 0.1 ms on the target; the bound here is loose, for busy test machines."""
    track = track_of(say(list("həlˈoʊ wˈɜːld ") * 100, 60))
    started = time.perf_counter()
    for i in range(1000):
        track.at(i * 40.0)
    assert (time.perf_counter() - started) / 1000 < 1e-3
