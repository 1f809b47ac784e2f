"""Turn-taking on bare numbers: no clock, no I/O."""

import pytest

from services.gateway.turns import (
    NEVER,
    Discard,
    Pause,
    Resume,
    Speak,
    State,
    Stop,
    TurnRules,
    TurnTaking,
    is_backchannel,
)

RULES = TurnRules()


@pytest.fixture
def turns() -> TurnTaking:
    return TurnTaking(RULES, first_epoch=10)


def speaking(turns: TurnTaking) -> TurnTaking:
    """The agent is in the middle of reply 11."""
    turns.speech_started(0)
    turns.speech_stopped(900)
    turns.end_of_turn(0.9, 960)
    assert turns.final("what is the capital of france", 1000) == [
        Speak(11, "what is the capital of france")
    ]
    turns.heard(11)
    assert turns.state is State.SPEAKING
    return turns


def test_a_sure_end_of_turn_is_answered_as_soon_as_the_text_is_there(turns: TurnTaking):
    assert turns.speech_started(0) == []
    assert turns.partial("how are", 500) == []
    assert turns.speech_stopped(900) == []
    assert turns.end_of_turn(0.9, 960) == []
    assert turns.final("How are you?", 1000) == [Speak(11, "How are you?")]
    assert turns.state is State.THINKING


def test_the_judgement_may_come_after_the_text(turns: TurnTaking):
    turns.speech_started(0)
    turns.speech_stopped(900)
    assert turns.final("How are you?", 950) == []
    assert turns.end_of_turn(0.8, 1000) == [Speak(11, "How are you?")]


def test_an_unfinished_sentence_waits_for_the_silence_limit(turns: TurnTaking):
    turns.speech_started(0)
    turns.speech_stopped(900)
    turns.end_of_turn(0.1, 960)
    assert turns.final("I went to the", 1000) == []
    assert turns.deadline_ms == 900 + RULES.silence_limit_ms
    assert turns.tick(turns.deadline_ms - 1) == []
    assert turns.tick(turns.deadline_ms) == [Speak(11, "I went to the")]


def test_a_pause_in_mid_sentence_is_no_end(turns: TurnTaking):
    """Going on before the limit cancels the decision; the later text replaces the earlier."""
    turns.speech_started(0)
    turns.speech_stopped(900)
    turns.end_of_turn(0.1, 960)
    turns.final("I went to the", 1000)
    assert turns.speech_started(1500) == []
    assert turns.tick(5000) == []
    turns.speech_stopped(5200)
    turns.end_of_turn(0.95, 5260)
    assert turns.final("I went to the shop.", 5300) == [Speak(11, "I went to the shop.")]


def test_without_a_final_text_the_partial_is_answered_in_the_end(turns: TurnTaking):
    turns.speech_started(0)
    turns.partial("hello there", 500)
    turns.speech_stopped(900)
    assert turns.deadline_ms == 900 + RULES.unjudged_limit_ms
    assert turns.tick(turns.deadline_ms) == [Speak(11, "hello there")]


def test_noise_is_no_turn(turns: TurnTaking):
    turns.speech_started(0)
    turns.speech_stopped(200)
    assert turns.final("", 400) == [Discard()]
    assert turns.deadline_ms == NEVER


def test_speech_over_the_agent_pauses_it_at_once(turns: TurnTaking):
    assert speaking(turns).speech_started(2000) == [Pause(11)]
    assert turns.state is State.PAUSED


def test_words_over_the_agent_stop_it(turns: TurnTaking):
    speaking(turns).speech_started(2000)
    assert turns.partial("no wait", 2200) == [Stop(11, 12)]
    assert turns.state is State.LISTENING
    turns.speech_stopped(2600)
    turns.end_of_turn(0.9, 2660)
    assert turns.final("No, wait.", 2700) == [Speak(13, "No, wait.")]


def test_a_long_sound_over_the_agent_stops_it_even_without_words(turns: TurnTaking):
    speaking(turns).speech_started(2000)
    assert turns.tick(2000 + RULES.barge_in_decision_ms - 1) == []
    assert turns.tick(2000 + RULES.barge_in_decision_ms) == [Stop(11, 12)]


def test_a_cough_resumes_from_where_it_paused(turns: TurnTaking):
    speaking(turns).speech_started(2000)
    turns.speech_stopped(2150)
    assert turns.final("", 2300) == [Resume(11), Discard()]
    assert turns.state is State.SPEAKING


def test_a_cough_resumes_by_the_deadline_even_if_the_text_is_late(turns: TurnTaking):
    speaking(turns).speech_started(2000)
    turns.speech_stopped(2150)
    assert turns.tick(2500) == [Resume(11)]
    assert turns.final("", 2900) == [Discard()]


def test_a_backchannel_does_not_stop_the_agent(turns: TurnTaking):
    speaking(turns).speech_started(2000)
    assert turns.partial("mm-hm", 2150) == []
    turns.speech_stopped(2200)
    assert turns.final("Mm-hm.", 2400) == [Resume(11), Discard()]


def test_a_backchannel_that_grows_into_a_sentence_stops_the_agent(turns: TurnTaking):
    speaking(turns).speech_started(2000)
    turns.partial("yeah", 2300)
    assert turns.tick(2500) == [Resume(11)]
    assert turns.partial("yeah but I meant", 2900) == [Stop(11, 12)]


def test_late_words_after_a_resume_still_interrupt(turns: TurnTaking):
    speaking(turns).speech_started(2000)
    turns.speech_stopped(2300)
    turns.tick(2500)
    assert turns.final("Stop.", 2700) == [Stop(11, 12), Speak(13, "Stop.")]


def test_going_on_before_the_reply_is_heard_takes_it_back(turns: TurnTaking):
    turns.speech_started(0)
    turns.speech_stopped(900)
    turns.end_of_turn(0.9, 960)
    turns.final("Tell me a joke", 1000)
    assert turns.speech_started(1200) == [Pause(11)]
    assert turns.partial("about cats", 1500) == [Stop(11, 12)]


def test_typed_text_is_a_turn(turns: TurnTaking):
    assert turns.typed("hello", 0) == [Speak(11, "hello")]


def test_typed_text_interrupts(turns: TurnTaking):
    assert speaking(turns).typed("stop that", 2000) == [Stop(11, 12), Speak(13, "stop that")]


def test_typed_text_during_speech_takes_the_spoken_words_along(turns: TurnTaking):
    turns.speech_started(0)
    turns.partial("my name is spelled", 800)
    assert turns.typed("Siobhan", 900) == [Speak(11, "my name is spelled Siobhan")]


def test_a_stale_end_of_reply_changes_nothing(turns: TurnTaking):
    speaking(turns).typed("next", 2000)
    assert turns.reply_over(11, 2100) == []
    assert turns.state is State.THINKING


def test_after_the_reply_the_floor_is_free(turns: TurnTaking):
    speaking(turns)
    assert turns.reply_over(11, 5000) == []
    assert turns.state is State.LISTENING


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mm-hm.", True),
        ("Yeah, right.", True),
        ("uh-huh", True),
        ("yeah but no", False),
        ("stop", False),
        ("", False),
        ("…", False),
    ],
)
def test_backchannels(text: str, expected: bool):
    assert is_backchannel(text) is expected


def test_an_hour_of_events_never_leaves_a_deadline_behind(turns: TurnTaking):
    """Whatever the order of events, calling `tick` at the deadline always decides: the timer cannot spin."""
    import random

    rng = random.Random(1)
    now = 0.0
    for _ in range(20_000):
        now += rng.uniform(1, 400)
        while turns.deadline_ms <= now:
            deadline, state = turns.deadline_ms, turns.state
            decided = turns.tick(max(deadline, 0))
            assert decided or turns.deadline_ms > deadline or turns.state is not state
        match rng.randrange(8):
            case 0:
                turns.speech_started(now)
            case 1:
                turns.speech_stopped(now)
            case 2:
                turns.partial(rng.choice(["", "yeah", "I think that", "mm"]), now)
            case 3:
                turns.end_of_turn(rng.random(), now)
            case 4:
                turns.final(rng.choice(["", "Yes.", "I think that is it."]), now)
            case 5:
                turns.heard(turns.epoch)
            case 6:
                turns.reply_over(turns.epoch, now)
            case 7 if rng.random() < 0.1:
                turns.typed("typed", now)
