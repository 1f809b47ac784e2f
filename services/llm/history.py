"""How much of a conversation fits into the model's context."""

from collections.abc import Callable, Sequence

from services.llm.backend import Message


def fit(messages: Sequence[Message], budget: int, count: Callable[[Message], int]) -> list[Message]:
    """The system messages and the newest turns that fit `budget` tokens; the oldest turns go first.

    What is left begins with a user's message where it can, so that no answer stands without its question.

    Raises:
        ValueError: the system messages and the newest message alone do not fit.
    """
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    budget -= sum(count(message) for message in system)
    costs = [count(message) for message in turns]
    if budget < 0 or (costs and costs[-1] > budget):
        raise ValueError(
            f"messages: the system message and the newest one are {-min(0, budget - sum(costs[-1:]))} "
            "tokens too long for the model's context."
        )
    first = 0
    while sum(costs[first:]) > budget:
        first += 1
    if first:  # not in a conversation that the agent opened
        while first < len(turns) - 1 and turns[first].role == "agent":
            first += 1
    return system + turns[first:]
