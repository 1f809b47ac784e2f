"""What an ear must be able to do, and how one is chosen."""

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from services.asr.settings import Settings
from visavis.audio import Samples

# A backend is one file with a `load(settings)`; it is imported only when chosen, because model libraries
# are heavy and may be absent.
BACKENDS = {
    "fake": "services.asr.backends.fake",
    "embedded": "services.asr.backends.embedded",
}

FRAME_SAMPLES = 512  # what one judgement of speech looks at: 32 ms


class Recognizer(Protocol):
    """One session's ear. All sound is 16 kHz mono, float32 in [-1, 1]."""

    def speech_probability(self, frame: Samples) -> float:
        """How likely the next FRAME_SAMPLES of the session hold speech. Quick: called on the event loop."""

    def partial_text(self, samples: Samples) -> str:
        """A fast guess at a few seconds of speech, possibly cut in the middle of a word.

        Blocks; called from a worker thread, from one at a time in the process.
        """

    def final_text(self, samples: Samples) -> str:
        """The best text for up to half a minute of sound; "" when it holds no words.

        Blocks; called from a worker thread, from one at a time in the process.
        """

    def end_of_turn_probability(self, samples: Samples) -> float:
        """How likely the speaker, who has just paused, has finished. Looks at the last seconds.

        Blocks; called from a worker thread, from one at a time in the process.
        """


class Backend(Protocol):
    """Loaded models. Shared by all sessions; holds nothing of any of them."""

    languages: Sequence[str]  # BCP 47 primary tags; the first is the default

    def open(self, language: str) -> Recognizer:
        """Makes the ear of one session."""


def load_backend(settings: Settings) -> Backend:
    """Imports, loads and warms the backend that the settings name.

    Raises:
        ValueError: there is no such backend.
        visavis.models.ModelMissing: its weights are not in the store.
    """
    if settings.backend not in BACKENDS:
        raise ValueError(f"ASR_BACKEND={settings.backend}: choose one of {', '.join(BACKENDS)}.")
    module = importlib.import_module(BACKENDS[settings.backend])
    return cast(Backend, module.load(settings))
