"""What a face must be able to do, and how one is chosen."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from services.talkinghead.settings import Settings
from visavis.v1.tts_pb2 import Clause

# A backend is one file with a `load(settings)`; it is imported only when chosen, because model libraries
# are heavy and may be absent.
BACKENDS = {
    "fake": "services.talkinghead.backends.fake",
    "viseme": "services.talkinghead.backends.viseme",
}

FPS = 25
FRAME_MS = 1000 / FPS
CLOSING_MS = 200  # the mouth is at rest this long after the last sound, at most

Picture = NDArray[np.uint8]  # [height, width, 3], BGR


@dataclass(frozen=True)
class LookAhead:
    """What a picture depends on beyond its own time."""

    timings_ms: float = 0  # phonemes that come after it
    sound_ms: float = 0  # samples that come after it


class Animation(Protocol):
    """The face of one turn. Picture n shows the time n * FRAME_MS; picture 0 the first loop frame.

    Input is pushed on the event loop while pictures are rendered in a thread. Once a picture's look-ahead
    has been pushed, no later input changes it.
    """

    look_ahead: LookAhead
    size_px: int  # pictures are square

    def loop_frame(self, index: int) -> int:
        """The frame of the persona's idle loop that picture `index` is drawn on."""

    def push_clause(self, clause: Clause) -> None:
        """Takes the timings of one clause, before its sound. Must not block."""

    def push_audio(self, pcm: bytes, sample_rate_hz: int, pts_ms: float) -> None:
        """Takes the sound that follows. Must not block."""

    def end(self, duration_ms: float) -> float:
        """The speech is over and the mouth closes. Returns from when on it is at rest.

        That is within CLOSING_MS of the duration; pictures of later times are the bare idle loop.
        """


A = TypeVar("A", bound=Animation)


class Backend(Protocol[A]):
    """A loaded renderer with the faces of its personas. Shared by all sessions; holds nothing of any turn."""

    batch_size: int  # pictures that one call of `render` takes at most

    def open(self, persona_id: str, first_loop_frame: int) -> A:
        """Makes the animation of one turn. Blocks, long if the persona must be loaded first.

        Called from any thread.

        Raises:
            UnknownNameError: there is no such persona.
        """

    def render(self, due: Sequence[tuple[A, int]]) -> list[Picture]:
        """Renders one picture of each animation: (animation, index of the picture in its turn).

        Blocks; called from one thread. The pictures are the caller's.
        """


def load_backend(settings: Settings) -> Backend[Any]:  # each renders its own kind of animation
    """Imports, loads and warms the backend that the settings name.

    Raises:
        ValueError: there is no such backend.
    """
    if settings.backend not in BACKENDS:
        raise ValueError(
            f"TALKINGHEAD_BACKEND={settings.backend}: choose one of {', '.join(BACKENDS)}."
        )
    module = importlib.import_module(BACKENDS[settings.backend])
    return cast(Backend[Any], module.load(settings))
