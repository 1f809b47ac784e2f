"""What a voice must be able to do, and how one is chosen."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from services.tts.settings import Settings

# A backend is one file with a `load(settings)`; it is imported only when chosen, because model libraries
# are heavy and may be absent.
BACKENDS = {
    "fake": "services.tts.backends.fake",
    "piper": "services.tts.backends.piper",
    "kokoro": "services.tts.backends.kokoro",
}


@dataclass(frozen=True)
class Timed:
    """A word or an IPA phoneme and when it sounds, from the first sample of its clause."""

    text: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Utterance:
    """One clause as sound: PCM16 mono at the backend's rate."""

    pcm: bytes
    words: Sequence[Timed]
    phonemes: Sequence[Timed]


class Backend(Protocol):
    """A loaded voice model. Shared by all sessions; holds nothing of any of them."""

    sample_rate_hz: int
    voices: Sequence[str]  # the first is the default

    def synthesize(self, text: str, voice: str) -> Utterance:
        """Speaks one clause. Blocks; called from a worker thread, from one at a time."""


def load_backend(settings: Settings) -> Backend:
    """Imports, loads and warms the backend that the settings name.

    Raises:
        ValueError: there is no such backend.
        visavis.models.ModelMissing: its weights are not in the store.
    """
    if settings.backend not in BACKENDS:
        raise ValueError(f"TTS_BACKEND={settings.backend}: choose one of {', '.join(BACKENDS)}.")
    module = importlib.import_module(BACKENDS[settings.backend])
    return cast(Backend, module.load(settings))
