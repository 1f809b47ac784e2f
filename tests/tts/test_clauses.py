"""How a growing text is cut, and how a clause is read aloud."""

import random

import pytest

from services.tts.clauses import LIMITS, ClauseCutter, spoken

FIRST, SECOND, LATER = LIMITS


def cut(text: str, size: int = 10_000) -> list[str]:
    cutter = ClauseCutter()
    clauses = []
    for start in range(0, len(text), size):
        clauses += cutter.push(text[start : start + size])
    return clauses + cutter.end()


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Oh no, that sounds hard.", "Oh no,"),
        ("Well, I think so, and you?", "Well, I think so,"),
        ("Yes. And you?", "Yes."),
        ("Really? Tell me.", "Really?"),
        ("Sure! Go on.", "Sure!"),
        ("I see; go on.", "I see;"),
        ("One thing: be kind to them.", "One thing:"),
        ("I know—we met there.", "I know—"),
        ("I know — we met there.", "I know —"),
        ("I know - we met there.", "I know -"),
        ('He said "stop." Then he left.', 'He said "stop."'),
        ("**Good idea.** Let us go.", "**Good idea.**"),
        ("Wait... what is it?", "Wait..."),
        ("So do I. What next?", "So do I."),
        (
            "It is 1,000.5. Fine.",
            "It is 1,000.5.",
        ),
        ("Dr. Smith is here. Hello.", "Dr. Smith is here."),
        ("I like fruit e.g. apples. Do you?", "I like fruit e.g. apples."),
        ("Meet J. R. Tolkien today. He writes.", "Meet J. R. Tolkien today."),
        ("See you at 5 p.m. tomorrow. Bye.", "See you at 5 p.m. tomorrow."),
        ("1. Eat well. 2. Sleep.", "1. Eat well."),
        ("A well-known fact. Yes.", "A well-known fact."),
        ("Not yet\nbut soon", "Not yet\n"),
    ],
)
def test_the_first_clause_ends_at_its_first_mark(text: str, first: str):
    assert cut(text)[0] == first


def test_later_clauses_run_to_the_end_of_the_sentence_or_a_late_comma():
    assert cut("Hello. So. Yes, well, no, maybe so. Bye.") == [
        "Hello.",
        " So.",
        " Yes, well, no, maybe so.",
        " Bye.",
    ]


def test_a_later_clause_ends_at_a_comma_once_it_is_long():
    text = "Hello. So. When you walk along the river early, in the first light, before the city wakes, it is calm."
    assert cut(text)[2] == (
        " When you walk along the river early, in the first light, before the city wakes,"
    )


def test_a_first_clause_may_end_where_a_speaker_breathes():
    assert cut("The sky is blue during the day because of the light.")[0] == "The sky is blue "
    assert cut("I have a kind of house to live in.") == ["I have a kind of house to live in."]


def test_a_first_clause_without_marks_is_cut_between_words_at_a_joint():
    text = "I really think you want to go somewhere nice today"
    assert cut(text)[0] == "I really think you want "
    long = "I really think you should take the early train to the sea because it is empty"
    second = cut(f"As a child, {long} all day long")[1]
    assert second == " I really think you should take the early train to the sea "
    plain = " ".join(["word"] * 30)
    assert len(cut(plain)[0].split()) == FIRST.most_words


def test_a_long_text_without_marks_is_cut_between_words():
    clauses = cut("Hello. " + "word " * 200)
    assert all(len(clause) <= LATER.most_chars for clause in clauses)
    assert all(clause.strip().split()[-1] in ("word", "Hello.") for clause in clauses)
    assert all(len(clause) <= LATER.most_chars for clause in cut("x" * 1000))


PIECES = [
    *(
        "Hello",
        "there",
        "e.g.",
        "3.5",
        "Dr.",
        "well-known",
        "it's",
        "U.S.",
        "—",
        "1,000",
        "fine",
        "1.",
    ),
    *(
        ",",
        ".",
        "...",
        "?!",
        ";",
        ":",
        " ",
        "  ",
        "\n",
        "\n\n",
        '"',
        "”",
        ")",
        "**",
        "to",
        "and",
        "—",
    ),
]


@pytest.mark.parametrize("seed", range(30))
def test_streaming_equals_whole_and_every_character_comes_out_once(seed: int):
    chance = random.Random(seed)
    text = "".join(
        chance.choice(PIECES) + chance.choice(["", " ", " "]) for _ in range(chance.randint(1, 150))
    )
    whole = cut(text)
    assert "".join(whole).rstrip() == text.rstrip()
    assert all(clause.strip() for clause in whole)
    for size in (1, 2, 3, 7):
        assert cut(text, size) == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" Hello,  there ", "Hello, there"),
        ("**Really** good_ `code`", "Really good code"),
        ("# Title", "Title"),
        ("- one thing", "one thing"),
        ("* one thing", "one thing"),
        ("Great 😀👍🏽!", "Great!"),
        ("I ❤️ it ✨", "I it"),
        ("See [my page](https://a.b/c) now", "See my page now"),
        ("at https://www.example.com/x?y=1 today", "at example.com today"),
        ("Nice :)", "Nice"),
        ("salt & pepper", "salt and pepper"),
        ("R&B", "R and B"),
        ("fruit, e.g. apples", "fruit, for example apples"),
        ("Dr. Who vs. Mr. X, etc.", "Doctor Who versus Mister X, et cetera"),
        ("20% of it", "20% of it"),
        ("It is $5.20.", "It is 5 dollars and 20 cents."),
        ("It is $1.", "It is 1 dollar."),
        ("£3.50 or €1,000", "3 pounds and 50 pence or 1,000 euros"),
        ("$3.5 million!", "3.5 million dollars!"),
        ("25°C", "25°C"),
        ("café déjà vu", "café déjà vu"),
        ("🙂", ""),
    ],
)
def test_what_is_read_aloud(text: str, said: str):
    assert spoken(text) == said
