"""A flat colour instead of a face: deterministic, with a set delay.

The colour tells whose picture it is (it comes from the persona and the first words), two rows of squares
tell which one (its number in the turn and its loop frame, binary), and a white mouth opens while a vowel sounds.
"""

import time
import zlib
from collections.abc import Sequence

import numpy as np

from services.talkinghead.backend import FRAME_MS, LookAhead, Picture
from services.talkinghead.settings import Settings
from visavis.v1.tts_pb2 import Clause
from visavis.worker import UnknownNameError

LOOP_FRAMES = 250
SIZE_PX = 512
COUNTER_BITS = 16
VOWELS = set("aeiouyæɐɑɒɔəɛɜɪʊʌ")
NOBODY = "nobody"  # the one persona that does not exist; every other name is welcome

_CELL_PX = SIZE_PX // COUNTER_BITS


class FakeAnimation:
    look_ahead = LookAhead()
    size_px = SIZE_PX

    def __init__(self, persona_id: str, first_loop_frame: int) -> None:
        self.colour = _colour(persona_id)
        self._persona_id = persona_id
        self._first_loop_frame = first_loop_frame
        self._vowels: list[tuple[float, float]] = []
        self._has_words = False

    def loop_frame(self, index: int) -> int:
        return (self._first_loop_frame + index) % LOOP_FRAMES

    def push_clause(self, clause: Clause) -> None:
        if not self._has_words:
            self.colour = _colour(self._persona_id + clause.text)
            self._has_words = True
        self._vowels += [
            (p.start_ms, p.end_ms) for p in clause.phonemes if VOWELS.intersection(p.symbol)
        ]

    def push_audio(self, pcm: bytes, sample_rate_hz: int, pts_ms: float) -> None:
        pass

    def end(self, duration_ms: float) -> float:
        return duration_ms

    def draw(self, index: int) -> Picture:
        picture = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
        picture[:] = self.colour
        for row, number in enumerate((index, self.loop_frame(index))):
            for bit in range(COUNTER_BITS):
                picture[_cell(row, bit)] = 255 if number >> bit & 1 else 0
        if any(start <= index * FRAME_MS < end for start, end in self._vowels):
            picture[320:400, 176:336] = 255
        return picture


class FakeBackend:
    batch_size = 8

    def __init__(self, delay_ms: float) -> None:
        self._delay_ms = delay_ms

    def open(self, persona_id: str, first_loop_frame: int) -> FakeAnimation:
        if persona_id == NOBODY:
            raise UnknownNameError("There is no persona 'nobody' here; every other name will do.")
        return FakeAnimation(persona_id, first_loop_frame)

    def render(self, due: Sequence[tuple[FakeAnimation, int]]) -> list[Picture]:
        time.sleep(self._delay_ms / 1000)
        return [animation.draw(index) for animation, index in due]


def read_counters(picture: Picture) -> tuple[int, int]:
    """The number and the loop frame that a picture of the fake carries, at any size and after any codec."""
    scale = picture.shape[0] / SIZE_PX
    rows = []
    for row in range(2):
        middles = [(int((bit + 0.5) * _CELL_PX * scale)) for bit in range(COUNTER_BITS)]
        y = int((row + 0.5) * _CELL_PX * scale)
        rows.append(sum(1 << bit for bit, x in enumerate(middles) if picture[y, x].mean() > 127))
    return rows[0], rows[1]


def _cell(row: int, bit: int) -> tuple[slice, slice]:
    return (
        slice(row * _CELL_PX, (row + 1) * _CELL_PX),
        slice(bit * _CELL_PX, (bit + 1) * _CELL_PX),
    )


def _colour(name: str) -> tuple[int, int, int]:
    """Between 40 and 215, so that it is told from the squares and the mouth."""
    code = zlib.crc32(name.encode())
    blue, green, red = (40 + (code >> shift & 0xFF) * 175 // 255 for shift in (0, 8, 16))
    return blue, green, red


def load(settings: Settings) -> FakeBackend:
    return FakeBackend(settings.fake_delay_ms)
