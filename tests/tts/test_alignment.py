"""Which phonemes belong to which word, by table: as espeak writes them."""

import pytest

from services.tts.alignment import time_words
from services.tts.backend import Timed

STEP_MS = 10.0


def heard(ipa: str) -> list[Timed]:
    """Each symbol lasts 10 ms."""
    return [Timed(char, i * STEP_MS, (i + 1) * STEP_MS) for i, char in enumerate(ipa)]


CASES = [
    # (words and their phonemes alone, the clause's phonemes with | where each word should begin)
    ([("Well,", "wˈɛl,")], "|wˈɛl, "),
    (
        [("Hello", "həlˈoʊ"), ("there,", "ðˈɛɹ,"), ("friend.", "fɹˈɛnd.")],
        "|həlˈoʊ |ðˈɛɹ, |fɹˈɛnd.",
    ),
    # Run together.
    (
        [
            ("of", "ˈʌv"),
            ("the", "ðə"),
            ("people", "pˈiːpəl"),
            ("in", "ˈɪn"),
            ("the", "ðə"),
            ("world,", "wˈɜːld,"),
        ],
        "|ʌv|ðə |pˈiːpəl |ɪn|ðə |wˈɜːld,",
    ),
    ([("I", "ˈaɪ"), ("am", "ˈæm"), ("to", "tˈuː"), ("be", "bˈiː")], "|aɪ|ɐm |tə|bi"),
    # Several spoken words for one.
    (
        [("I", "ˈaɪ"), ("have", "hˈæv"), ("42", "fˈɔːɹɾi tˈuː"), ("cats", "kˈæts")],
        "|aɪ |hæv |fˈɔːɹɾi tˈuː |kˈæts",
    ),
    (
        [("at", "ˈæt"), ("3.5", "θɹˈiː pɔɪnt fˈaɪv"), ("20%", "twˈɛnti pɚsˈɛnt"), ("off!", "ˈɔf!")],
        "|æt |θɹˈiː pɔɪnt fˈaɪv: |twˈɛnti pɚsˈɛnt |ˈɔf!",
    ),
    (
        [("1999", "nˈaɪntiːn nˈaɪntinˈaɪn"), ("was", "wˈʌz")],
        "|nˈaɪntiːnhˈʌndɹɪd nˈaɪnti nˈaɪn |wʌz",
    ),
    # Said otherwise than alone.
    ([("a", "ˈeɪ"), ("well-known", "wˈɛlnˈoʊn"), ("fact;", "fˈækt;")], "|ɐ |wˈɛlnˈoʊn |fˈækt; "),
    # The same word twice, and a word that begins as the one before ends.
    ([("no", "nˈoʊ"), ("no", "nˈoʊ"), ("owners", "ˈoʊnɚz")], "|nˈoʊ |nˈoʊ |ˈoʊnɚz"),
]


@pytest.mark.parametrize(("words", "clause"), CASES)
def test_each_word_begins_where_it_is_said(words: list[tuple[str, str]], clause: str):
    starts = [i - n for n, i in enumerate(i for i, char in enumerate(clause) if char == "|")]
    timed = time_words([w for w, _ in words], [a for _, a in words], heard(clause.replace("|", "")))
    assert [word.text for word in timed] == [word for word, _ in words]
    assert [word.start_ms for word in timed] == [start * STEP_MS for start in starts]


@pytest.mark.parametrize(("words", "clause"), CASES)
def test_words_are_in_order_and_inside_the_sound(words: list[tuple[str, str]], clause: str):
    phonemes = heard(clause.replace("|", ""))
    timed = time_words([w for w, _ in words], [a for _, a in words], phonemes)
    edges = [edge for word in timed for edge in (word.start_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= phonemes[-1].end_ms
    assert all(word.end_ms > word.start_ms for word in timed)


def test_a_pause_belongs_to_no_word():
    first, second = time_words(["no,", "yes"], ["nˈoʊ,", "jˈɛs"], heard("nˈoʊ,  jˈɛs"))
    assert (first.end_ms, second.start_ms) == (40, 70)


def test_a_word_that_is_not_heard_gets_an_instant_between_its_neighbours():
    one, silent, two = time_words(["one", "-2-", "two"], ["wˈʌn", "", "tˈuː"], heard("wˈʌn tˈuː"))
    assert one.end_ms <= silent.start_ms == silent.end_ms <= two.start_ms


def test_without_any_phoneme_words_stand_at_zero():
    assert time_words(["hm"], [""], []) == [Timed("hm", 0, 0)]
