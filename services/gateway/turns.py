"""Turn-taking: who speaks now. Events and times in, decisions out; no I/O, no clock of its own.

    LISTENING ──speak──▶ THINKING ──first sound heard──▶ SPEAKING ──played to the end──▶ LISTENING
        ▲                    │  speech                       │ speech
        │                    ▼                               ▼
        └───stop────────── PAUSED ◀──────pause───────────────┘
                             │ it was a cough or an "mm-hm"
                             └──resume──▶ THINKING or SPEAKING, from the very sample

A turn of the user ends when he has paused, the final text is there, and either the acoustic model says that
he is done or the pause has grown long. All times are milliseconds on the caller's clock.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from pydantic import BaseModel

NEVER = float("inf")
_WORD = re.compile(r"[a-z']+")
# Said while listening; they take no turn. Spellings as speech recognisers write them.
BACKCHANNELS = frozenset(
    "mm mhm mmhm hmm hm mmhmm uh huh uhhuh um ah oh okay ok right yeah yep yes sure wow".split()  # noqa: SIM905
)


class TurnRules(BaseModel):
    """Every threshold of turn-taking."""

    # At or above this probability a pause ends the turn as soon as the text is there …
    end_of_turn_probability: float = 0.5
    # … below it, only when the pause has lasted this long.
    silence_limit_ms: float = 1_200
    # Without any judgement of the pause (the recogniser is slow or gone): this long.
    unjudged_limit_ms: float = 2_000
    # Speech over the agent pauses it; within this time it is decided what it was.
    barge_in_decision_ms: float = 500


@dataclass(frozen=True)
class Speak:
    """Open a reply to `text` as `epoch`. The user's turn is over: later speech starts a new one."""

    epoch: int
    text: str


@dataclass(frozen=True)
class Pause:
    epoch: int


@dataclass(frozen=True)
class Resume:
    epoch: int


@dataclass(frozen=True)
class Stop:
    """Cut off reply `epoch`; `next_epoch` fences whoever still writes for it."""

    epoch: int
    next_epoch: int


@dataclass(frozen=True)
class Discard:
    """What was heard since the last turn was no turn: forget it."""


Decision = Speak | Pause | Resume | Stop | Discard


class State(Enum):
    LISTENING = auto()
    THINKING = auto()
    SPEAKING = auto()
    PAUSED = auto()


class TurnTaking:
    """The state of one conversation. Each method takes one event and returns what to do about it, in order."""

    def __init__(self, rules: TurnRules, first_epoch: int = 0) -> None:
        self._rules = rules
        self.epoch = first_epoch  # of the reply that is on, or was last
        self.state = State.LISTENING
        self._before_pause = State.SPEAKING
        self._paused_at_ms = NEVER
        self._forget_user_turn()

    def _forget_user_turn(self) -> None:
        self._user_is_speaking = False
        self._silent_since_ms = NEVER
        self._probability: float | None = None
        self._partial = ""
        self._final: str | None = None

    # --- what the ear says ---------------------------------------------------------------------

    def speech_started(self, now_ms: float) -> list[Decision]:
        self._user_is_speaking = True
        self._silent_since_ms = NEVER
        self._probability = self._final = None
        if self.state not in (State.THINKING, State.SPEAKING):
            return []
        self._before_pause, self.state = self.state, State.PAUSED
        self._paused_at_ms = now_ms
        return [Pause(self.epoch)]

    def speech_stopped(self, now_ms: float) -> list[Decision]:
        self._user_is_speaking = False
        self._silent_since_ms = now_ms
        return self.tick(now_ms)

    def partial(self, text: str, now_ms: float) -> list[Decision]:
        self._partial = text
        return self.tick(now_ms)

    def end_of_turn(self, probability: float, now_ms: float) -> list[Decision]:
        self._probability = probability
        return self.tick(now_ms)

    def final(self, text: str, now_ms: float) -> list[Decision]:
        self._final = text
        return self.tick(now_ms)

    def typed(self, text: str, now_ms: float) -> list[Decision]:
        """Typed text is a whole turn; it takes the floor, with what was said but not answered before it."""
        spoken = self._final or self._partial
        if self.state is not State.LISTENING and is_backchannel(spoken):
            spoken = ""
        return [*self._stop_reply(), *self._speak(f"{spoken} {text}".strip())]

    def begin_reply(self) -> int:
        """The agent opens the conversation by itself; returns the epoch of what it says."""
        self.epoch += 1
        self.state = State.THINKING
        return self.epoch

    # --- what the reply says -------------------------------------------------------------------

    def heard(self, epoch: int) -> None:
        """The first sound of the reply has left the loudspeaker."""
        if epoch == self.epoch and self.state is State.THINKING:
            self.state = State.SPEAKING

    def reply_over(self, epoch: int, now_ms: float) -> list[Decision]:
        """The reply was played to its end, or failed."""
        if epoch != self.epoch or self.state is State.LISTENING:
            return []
        self.state = State.LISTENING
        self._paused_at_ms = NEVER
        return self.tick(now_ms)

    # --- time ----------------------------------------------------------------------------------

    @property
    def deadline_ms(self) -> float:
        """When `tick` must be called if nothing happens before."""
        if self.state is State.PAUSED:
            return self._paused_at_ms + self._rules.barge_in_decision_ms
        decidable = self._final is not None or self._partial
        if self.state is State.LISTENING and not self._user_is_speaking and decidable:
            return self._silent_since_ms + self._silence_needed_ms()
        return NEVER

    def tick(self, now_ms: float) -> list[Decision]:
        """Decides what the events and the time so far allow."""
        if self.state is State.LISTENING:
            return self._decide_end_of_turn(now_ms)
        if self.state is State.PAUSED:
            return self._decide_barge_in(now_ms)
        return self._decide_over_agent()

    def _decide_end_of_turn(self, now_ms: float) -> list[Decision]:
        if self._user_is_speaking or self._final is None:
            if now_ms >= self._silent_since_ms + self._rules.unjudged_limit_ms and self._partial:
                return self._speak(self._partial)
            return []
        if not self._final.strip():
            return self._discard()
        if now_ms < self._silent_since_ms + self._silence_needed_ms():
            return []
        return self._speak(self._final)

    def _silence_needed_ms(self) -> float:
        if self._final is None or self._probability is None:
            return self._rules.unjudged_limit_ms
        if self._probability >= self._rules.end_of_turn_probability:
            return 0.0
        return self._rules.silence_limit_ms

    def _decide_barge_in(self, now_ms: float) -> list[Decision]:
        """Words decide at once; without words, a sound that lasts is an interruption and a short one is not."""
        words = self._final if self._final is not None else self._partial
        if words.strip() and not is_backchannel(words):
            return [*self._stop_reply(), *self.tick(now_ms)]
        if self._final is not None:  # over, and it was nothing
            return self._resume()
        if now_ms < self._paused_at_ms + self._rules.barge_in_decision_ms:
            return []
        if self._user_is_speaking and not words.strip():
            return self._stop_reply()
        return self._resume(keep_listening=True)

    def _decide_over_agent(self) -> list[Decision]:
        """After a resume, words may still show that it was an interruption after all."""
        if self._final is None:
            interrupts = self._user_is_speaking and self._partial.strip()
            return self._stop_reply() if interrupts and not is_backchannel(self._partial) else []
        if not self._final.strip() or is_backchannel(self._final):
            return self._discard()
        return [*self._stop_reply(), *self._speak(self._final)]

    # --- decisions -----------------------------------------------------------------------------

    def _speak(self, text: str) -> list[Decision]:
        self.epoch += 1
        self.state = State.THINKING
        self._forget_user_turn()
        return [Speak(self.epoch, text)]

    def _stop_reply(self) -> list[Decision]:
        if self.state is State.LISTENING:
            return []
        stopped = self.epoch
        self.epoch += 1
        self.state = State.LISTENING
        self._paused_at_ms = NEVER
        return [Stop(stopped, self.epoch)]

    def _resume(self, keep_listening: bool = False) -> list[Decision]:
        self.state = self._before_pause
        self._paused_at_ms = NEVER
        resume: list[Decision] = [Resume(self.epoch)]
        return resume if keep_listening else [*resume, *self._discard()]

    def _discard(self) -> list[Decision]:
        self._forget_user_turn()
        return [Discard()]


def is_backchannel(text: str) -> bool:
    """Whether these words only say "I am listening". No words at all are none."""
    words = _WORD.findall(text.lower().replace("-", ""))
    return bool(words) and all(word in BACKCHANNELS for word in words)
