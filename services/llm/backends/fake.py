"""A mind that says back what it heard: deterministic, with set delays. A word is a token."""

import threading
from collections.abc import Callable, Sequence

from services.llm.backend import Message
from services.llm.settings import Settings


class FakeBackend:
    model = "fake"

    def __init__(self, delay_ms: float = 0, token_ms: float = 0, max_tokens: int = 120) -> None:
        self.max_tokens = max_tokens
        self.tokens_made = 0  # over all sessions: tests see by it that a stop was obeyed
        self._delay_ms = delay_ms
        self._token_ms = token_ms

    def generate(
        self,
        slot: int,
        messages: Sequence[Message],
        max_tokens: int,
        emit: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        if stop.wait(self._delay_ms / 1000):
            return
        for word in reply_to(messages).split()[:max_tokens]:
            self.tokens_made += 1
            emit(" " + word)  # a leading space, as most models begin with one
            if stop.wait(self._token_ms / 1000):
                return

    def warm(self, slot: int, messages: Sequence[Message], stop: threading.Event) -> int:
        stop.wait(self._delay_ms / 1000)
        return sum(len(message.text.split()) for message in messages)


def reply_to(messages: Sequence[Message]) -> str:
    heard = [message.text for message in messages if message.role == "user"]
    return f"You said: {heard[-1]} Tell me more." if heard else "Hello there! How are you today?"


def load(settings: Settings) -> FakeBackend:
    return FakeBackend(settings.fake_delay_ms, settings.fake_token_ms, settings.max_tokens)
