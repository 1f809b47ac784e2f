"""One user's turn: its sound, bounded, the text already settled, and where the sound may be cut.

      begin                 last gap                 end of sound
settled │  not yet settled     │                         │
────────┼──────────────────────┼─────────────────────────┼──▶ positions in samples
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from services.asr.partials import PartialText
from visavis.audio import MIC_SAMPLE_RATE_HZ, Samples

QUIETEST_OF_SECONDS = 5
_BLOCK = MIC_SAMPLE_RATE_HZ // 50  # 20 ms
_QUIET_BLOCKS = 5


class Sound:
    """The newest part of a microphone's sound, addressed by position in samples from its start."""

    def __init__(self) -> None:
        self.begin = 0
        self.end = 0
        self._chunks: deque[Samples] = deque()

    def append(self, samples: Samples) -> None:
        self._chunks.append(samples)
        self.end += len(samples)

    def drop_before(self, position: int) -> None:
        position = min(position, self.end)
        while self._chunks and self.begin + len(self._chunks[0]) <= position:
            self.begin += len(self._chunks.popleft())
        if self._chunks and position > self.begin:
            self._chunks[0] = self._chunks[0][position - self.begin :]
            self.begin = position

    def between(self, begin: int, end: int) -> Samples:
        """A copy; what has been dropped or has not come yet is left out."""
        whole = np.concatenate([np.zeros(0, np.float32), *self._chunks])
        return whole[max(0, begin - self.begin) : max(0, end - self.begin)].copy()


@dataclass(eq=False)
class Turn:
    """What the user has said since the turn before was taken."""

    start: int  # where its speech begins
    begin: int  # its sound starts here; of what lies before, only the text is left
    partial: PartialText
    settled: str = ""
    has_speech: bool = False
    gaps: deque[int] = field(default_factory=lambda: deque(maxlen=1))  # the newest gap's middle
    pause_texts: dict[int, str] = field(default_factory=dict)

    @classmethod
    def starting(cls, begin: int, has_speech: bool) -> "Turn":
        return cls(begin, begin, PartialText(begin), has_speech=has_speech)

    def settle(self, text: str, begin: int) -> None:
        """The sound before `begin` is done with: `text` is all that was said in it, and before it."""
        self.settled = text
        self.begin = begin
        if self.partial.begin < begin:
            self.partial.settle(text, begin)

    def cut(self, sound: Samples) -> int:
        """Where to cut the turn's sound: in the newest gap if it is late enough, else where it is quiet."""
        if self.gaps and self.begin + len(sound) // 2 < self.gaps[-1] < self.begin + len(sound):
            return self.gaps[-1]
        return self.begin + quietest_moment(sound, QUIETEST_OF_SECONDS)


def quietest_moment(samples: Samples, last_seconds: float) -> int:
    """The middle of the quietest 100 ms of the last seconds, as an index into `samples`."""
    offset = max(0, len(samples) - int(last_seconds * MIC_SAMPLE_RATE_HZ))
    count = (len(samples) - offset) // _BLOCK
    energy = np.square(samples[offset : offset + count * _BLOCK]).reshape(count, _BLOCK).sum(axis=1)
    if count < _QUIET_BLOCKS:
        return len(samples)
    around = np.convolve(energy, np.ones(_QUIET_BLOCKS), "valid")
    return offset + int(np.argmin(around)) * _BLOCK + _QUIET_BLOCKS * _BLOCK // 2
