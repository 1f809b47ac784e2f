"""The record of a conversation: only what was heard."""

from services.gateway.history import HeardWord, History, Turn, heard_text
from visavis.persona import load_persona
from visavis.v1.llm_pb2 import ChatMessage

WORDS = [HeardWord("I", 0, 100), HeardWord("like", 100, 300), HeardWord("tea.", 300, 700)]


def test_only_words_that_were_heard_count():
    assert heard_text(WORDS, 0) == ""
    assert heard_text(WORDS, 60) == "I"
    assert heard_text(WORDS, 450) == "I like"
    assert heard_text(WORDS, 700) == "I like tea."


def test_an_unheard_reply_leaves_one_user_turn():
    history = History(
        [Turn("user", "Tell me a joke"), Turn("agent", ""), Turn("user", "about cats")]
    )
    assert history.turns == (Turn("user", "Tell me a joke about cats"),)


def test_the_prompt_begins_with_the_persona_and_ends_with_the_user():
    history = History([Turn("user", "Hi"), Turn("agent", "Hello!")])
    messages = history.messages(load_persona("theo"), "How are you?")
    assert [m.role for m in messages] == [
        ChatMessage.ROLE_SYSTEM,
        ChatMessage.ROLE_USER,
        ChatMessage.ROLE_AGENT,
        ChatMessage.ROLE_USER,
    ]
    assert "Theo" in messages[0].text and messages[-1].text == "How are you?"
    assert len(history.turns) == 2  # asking changed nothing
