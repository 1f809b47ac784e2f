"""What every renderer must do, and what the viseme renderer shows."""

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.talkinghead.backend import (
    BACKENDS,
    CLOSING_MS,
    FRAME_MS,
    Backend,
    Picture,
    load_backend,
)
from services.talkinghead.backends import viseme
from services.talkinghead.settings import Settings
from services.talkinghead.visemes import REST
from visavis.persona import persona_dir
from visavis.v1.tts_pb2 import Clause, TimedPhoneme
from visavis.worker import UnknownNameError

RATE_HZ = 16_000
PHONEME_MS = 200
FIRST_LOOP_FRAME = 100


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend[Any]:
    return load_backend(Settings(backend=request.param))


@pytest.fixture(scope="module")
def theo() -> Backend[Any]:
    return load_backend(Settings(backend="viseme"))


def clause(symbols: str, start_ms: float = 0, text: str = "words") -> Clause:
    """Phonemes of 200 ms each; a dot is silence."""
    phonemes = [
        TimedPhoneme(
            symbol=symbol,
            start_ms=start_ms + n * PHONEME_MS,
            end_ms=start_ms + (n + 1) * PHONEME_MS,
        )
        for n, symbol in enumerate(symbols)
        if symbol != "."
    ]
    end_ms = start_ms + len(symbols) * PHONEME_MS
    return Clause(text=text, start_ms=start_ms, end_ms=end_ms, phonemes=phonemes)


def hear(animation: Any, symbols: str, start_ms: float = 0, text: str = "words") -> float:
    """Pushes a clause with its sound, and returns where it ends."""
    spoken = clause(symbols, start_ms, text)
    animation.push_clause(spoken)
    pcm = bytes(int(RATE_HZ * (spoken.end_ms - start_ms) / 1000) * 2)
    animation.push_audio(pcm, RATE_HZ, start_ms)
    return spoken.end_ms


def whole_turn(backend: Backend[Any], *clauses: str, first: int = FIRST_LOOP_FRAME) -> Any:
    animation, end_ms = backend.open("theo", first), 0.0
    for symbols in clauses:
        end_ms = hear(animation, symbols, end_ms)
    animation.end(end_ms)
    return animation


def draw(backend: Backend[Any], animation: Any, indices: Sequence[int]) -> list[Picture]:
    return [backend.render([(animation, index)])[0] for index in indices]


def difference(one: Picture, other: Picture) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).sum())


def test_pictures_have_the_size_that_is_stated(backend: Backend[Any]):
    animation = whole_turn(backend, "am")
    (picture,) = backend.render([(animation, 0)])
    assert picture.shape == (animation.size_px, animation.size_px, 3)
    assert picture.dtype == np.uint8


def test_streaming_equals_offline(backend: Backend[Any]):
    """A picture drawn as soon as its look-ahead is there is the one that hindsight gives."""
    clauses = ["ma.ma", "fiu", "..", "pap"]
    offline = whole_turn(backend, *clauses)
    streaming, known_ms, drawn = backend.open("theo", FIRST_LOOP_FRAME), 0.0, []
    ahead_ms = max(streaming.look_ahead.timings_ms, streaming.look_ahead.sound_ms)
    for symbols in clauses:
        known_ms = hear(streaming, symbols, known_ms)
        while len(drawn) * FRAME_MS + ahead_ms < known_ms:
            drawn += draw(backend, streaming, [len(drawn)])
    streaming.end(known_ms)
    indices = range(int((known_ms + CLOSING_MS) / FRAME_MS) + 1)
    drawn += draw(backend, streaming, indices[len(drawn) :])
    for index, (early, late) in enumerate(zip(drawn, draw(backend, offline, indices), strict=True)):
        assert np.array_equal(early, late), f"picture {index}"


def test_a_batch_gives_everyone_their_own_picture(backend: Backend[Any]):
    """The same pictures as one by one, in whatever company and order."""
    animations = [
        whole_turn(backend, symbols, first=first)
        for symbols, first in [("aaaa", 0), ("mmmm", 0), ("uuuu", 60), ("....", 130)]
    ]
    due = [(animation, 10 + position) for position, animation in enumerate(animations)]
    alone = [backend.render([pair])[0] for pair in due]
    together = backend.render(due[::-1])[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not np.array_equal(together[0], together[1])


def test_pictures_belong_to_the_caller(backend: Backend[Any]):
    animation = whole_turn(backend, "..")
    (first,) = backend.render([(animation, 0)])
    kept = first.copy()
    first[:] = 0
    (again,) = backend.render([(animation, 0)])
    assert np.array_equal(again, kept)


def test_the_loop_goes_round(backend: Backend[Any]):
    animation = backend.open("theo", FIRST_LOOP_FRAME)
    frames = [animation.loop_frame(index) for index in range(2000)]
    period = max(frames) + 1
    assert frames == [(FIRST_LOOP_FRAME + index) % period for index in range(2000)]


def test_mouth_opens_for_a_and_is_shut_for_m(backend: Backend[Any]):
    speaking, silent = whole_turn(backend, ".ama."), whole_turn(backend, ".....")
    open_at, shut_at, open_again = (int(ms / FRAME_MS) for ms in (300, 500, 700))
    moved = {
        index: difference(*draw(backend, speaking, [index]), *draw(backend, silent, [index]))
        for index in (0, open_at, shut_at, open_again)
    }
    assert moved[0] == 0
    assert moved[open_at] > 2 * moved[shut_at] and moved[open_again] > 2 * moved[shut_at]


def test_ends_on_the_bare_loop(backend: Backend[Any]):
    """From the time that `end` returns, the mouth is at rest: cut off in an open vowel, or not."""
    for symbols in ("aaa", "am", "a..."):
        speaking, silent = backend.open("theo", 0), whole_turn(backend, "....", first=0)
        duration_ms = hear(speaking, symbols)
        at_rest_ms = speaking.end(duration_ms)
        assert at_rest_ms <= duration_ms + CLOSING_MS
        index = int(np.ceil(at_rest_ms / FRAME_MS))
        for n in (index, index + 1, index + 10):
            assert np.array_equal(*draw(backend, speaking, [n]), *draw(backend, silent, [n]))


def test_first_picture_of_a_turn_is_the_loop_frame(theo: Backend[Any]):
    """Speech that begins with a breath begins without a jump."""
    animation = whole_turn(theo, "..am")
    (picture,) = theo.render([(animation, 0)])
    assert np.array_equal(picture, animation._face.compose(FIRST_LOOP_FRAME, REST))


def test_the_mouth_moves_smoothly(theo: Backend[Any]):
    """No picture differs from the one before by more than a fast jaw can do between two pictures."""
    speaking, silent = whole_turn(theo, ".amafiu.pap."), whole_turn(theo, "." * 12)
    mouths = [
        spoken.astype(int) - still.astype(int)
        for spoken, still in zip(
            draw(theo, speaking, range(60)), draw(theo, silent, range(60)), strict=True
        )
    ]
    jumps = [np.abs(after - before).sum() for before, after in itertools.pairwise(mouths)]
    widest = max(np.abs(mouth).sum() for mouth in mouths)
    assert max(jumps) < 0.8 * widest


def test_unknown_persona(backend: Backend[Any]):
    with pytest.raises(UnknownNameError, match="no persona 'nobody'"):
        backend.open("nobody", 0)


@pytest.mark.parametrize("persona_id", ["../theo", "theo/..", "/etc", "", "."])
def test_a_persona_id_is_not_a_path(theo: Backend[Any], persona_id: str):
    with pytest.raises(UnknownNameError, match="no persona"):
        theo.open(persona_id, 0)


def test_a_face_is_loaded_once_and_again_when_it_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(viseme, "persona_dir", lambda persona_id: tmp_path)
    shutil.copytree(persona_dir("theo"), tmp_path, dirs_exist_ok=True)
    backend = viseme.VisemeBackend(faces=2)
    first, second = backend.open("theo", 0), backend.open("theo", 5)
    assert first._face is second._face
    os.utime(tmp_path / "persona.json", ns=(1, 1))
    assert backend.open("theo", 0)._face is not first._face


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="TALKINGHEAD_BACKEND=gan: choose one of fake, viseme"):
        load_backend(Settings(backend="gan"))
