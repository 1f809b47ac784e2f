"""What was said, as far as it was heard: the record of one conversation and the prompt made of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from visavis.persona import Persona
from visavis.v1.llm_pb2 import ChatMessage

ROLES = {"user": ChatMessage.ROLE_USER, "agent": ChatMessage.ROLE_AGENT}


@dataclass(frozen=True)
class Turn:
    role: Literal["user", "agent"]
    text: str


@dataclass(frozen=True)
class HeardWord:
    text: str
    start_ms: float
    end_ms: float


def heard_text(words: Iterable[HeardWord], played_ms: float) -> str:
    """The words that had been spoken, at least by half, when the sound stopped at `played_ms`."""
    return " ".join(word.text for word in words if (word.start_ms + word.end_ms) / 2 <= played_ms)


class History:
    """Turns in order. A turn of nothing is no turn; two turns of one side in a row become one."""

    def __init__(self, turns: Iterable[Turn] = ()) -> None:
        self._turns: list[Turn] = []
        for turn in turns:
            self.add(turn)

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(self._turns)

    def add(self, turn: Turn) -> None:
        if not turn.text.strip():
            return
        if self._turns and self._turns[-1].role == turn.role:
            turn = Turn(turn.role, f"{self._turns.pop().text} {turn.text}")
        self._turns.append(turn)

    def messages(self, persona: Persona, user_text: str = "") -> list[ChatMessage]:
        """The prompt: who the persona is, what was said, and what the user says now."""
        system = ChatMessage(role=ChatMessage.ROLE_SYSTEM, text=persona.system_prompt)
        turns = History([*self._turns, Turn("user", user_text)]).turns if user_text else self.turns
        return [system, *(ChatMessage(role=ROLES[turn.role], text=turn.text) for turn in turns)]
