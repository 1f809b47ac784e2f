"""What a language model must be able to do, and how one is chosen."""

import importlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from services.llm.settings import Settings

# A backend is one file with a `load(settings)`; it is imported only when chosen, because model libraries
# are heavy and may be absent.
BACKENDS = {
    "fake": "services.llm.backends.fake",
    "llama_cpp": "services.llm.backends.llama_cpp",
    "embedded": "services.llm.backends.llama_cpp",  # the family's name, as every stage has it
}


@dataclass(frozen=True)
class Message:
    """One message of the conversation; `text` is not blank and has no space around it."""

    role: Literal["system", "user", "agent"]
    text: str


class Backend(Protocol):
    """A loaded language model with as many cache slots as the worker. Knows slots, not sessions."""

    model: str
    max_tokens: int  # of a reply whose request sets no limit

    def generate(
        self,
        slot: int,
        messages: Sequence[Message],
        max_tokens: int,
        emit: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        """Writes the agent's next message: calls `emit` with each piece of text, at most once per token.

        Blocks; called from a worker thread, from one at a time per slot. Returns within one token of
        `stop` being set, or within one batch of the prompt. The text is whole characters, without any of
        the model's own marks.

        Raises:
            ValueError: the prompt or `max_tokens` does not fit the model's context.
        """

    def warm(self, slot: int, messages: Sequence[Message], stop: threading.Event) -> int:
        """Reads a prompt into the slot's cache; returns its length in tokens. Blocks, as `generate` does.

        Raises:
            ValueError: the prompt does not fit the model's context.
        """


def load_backend(settings: Settings) -> Backend:
    """Imports, loads and warms the backend that the settings name.

    Raises:
        ValueError: there is no such backend.
        visavis.models.ModelMissing: its weights are not in the store.
    """
    if settings.backend not in BACKENDS:
        raise ValueError(f"LLM_BACKEND={settings.backend}: choose one of {', '.join(BACKENDS)}.")
    module = importlib.import_module(BACKENDS[settings.backend])
    return cast(Backend, module.load(settings))
