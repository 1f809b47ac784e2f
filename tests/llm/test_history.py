"""What is left of a conversation that is too long."""

import pytest

from services.llm.backend import Message
from services.llm.history import fit

S = Message("system", "be kind")
U1, A1 = Message("user", "one"), Message("agent", "first")
U2, A2 = Message("user", "two"), Message("agent", "second")
U3 = Message("user", "three")
CHAT = [S, U1, A1, U2, A2, U3]


def ten(_: Message) -> int:
    return 10


@pytest.mark.parametrize(
    ("messages", "budget", "kept"),
    [
        (CHAT, 60, CHAT),
        (CHAT, 59, [S, U2, A2, U3]),
        (CHAT, 49, [S, U2, A2, U3]),
        (CHAT, 39, [S, U3]),
        (CHAT, 20, [S, U3]),
        ([A1, U1, A2, U2], 40, [A1, U1, A2, U2]),  # the agent may open
        ([A1, U1, A2, U2], 39, [U1, A2, U2]),
        ([S, A1], 20, [S, A1]),
        ([S, U1, A1], 20, [S, A1]),
        ([S], 10, [S]),
        ([U1], 10, [U1]),
    ],
)
def test_the_oldest_turns_go_first(messages: list[Message], budget: int, kept: list[Message]):
    assert fit(messages, budget, ten) == kept


def test_what_cannot_fit_is_an_error_that_says_by_how_much():
    with pytest.raises(ValueError, match="5 tokens too long"):
        fit(CHAT, 15, ten)
    with pytest.raises(ValueError, match="5 tokens too long"):
        fit([S], 5, ten)
