"""Cuts a growing text into clauses: the first short, so that sound starts soon; later ones in full breaths."""

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """When a clause that does not end a sentence is long enough to be cut, and when it must be."""

    at_mark_words: int  # a comma and the like ends a clause of so many words
    at_mark_chars: int  # … and so many characters
    most_words: int  # without a mark it ends here, before a joint if there is one
    breath_words: int = (
        0  # without a mark it may end after so many words, before a joint; 0: it may not
    )
    most_chars: int = 240


# "Well," alone sounds chopped, and is over before the next clause is there. The second must be there when the
# first, which may be short, is over; the others have time, and sound best in one piece.
LIMITS = [Limits(2, 0, 8, breath_words=3), Limits(2, 20, 16), Limits(2, 60, 100)]

_CLOSING = "[\"'”’)*_]*"
_SENTENCE_MARK = rf"[.!?…]+{_CLOSING}"
# A mark that ends a clause, followed by a space, so that "3.5", "1,000" and "a.m" hold. A dash needs none.
_BOUNDARY = re.compile(rf"(?:{_SENTENCE_MARK}|[,;:–]{_CLOSING}|(?<=\s)-)(?=\s)|—|\n")
_SENTENCE_END = re.compile(rf"{_SENTENCE_MARK}$|\n$")
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|Jr|Sr|vs|etc|approx|e\.g|i\.e|[ap]\.m|[A-HJ-Z])\.$"
)
# Where a long clause may be cut without a mark: before one of these.
_JOINTS = {
    *("and", "but", "or", "so", "because", "since", "when", "while", "if", "that", "which", "who"),
    *("where", "as", "than", "to", "with", "for", "from", "about", "in", "on", "at", "of", "like"),
    *("by", "during", "into", "after", "before", "until", "without", "through", "between"),
}
_NO_BREATH = {"to", "of", "than", "like"}  # bound to the word before: no place to breathe


class ClauseCutter:
    """Takes text deltas, gives clauses. Every character of the text comes out once, in order, in one of them.

    Only white space at the very end is dropped. Where the deltas begin and end makes no difference.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._count = 0

    def push(self, delta: str) -> list[str]:
        """Adds text; returns the clauses that are complete now, with their spaces."""
        self._rest += delta
        clauses = []
        while (end := self._clause_end()) is not None:
            clauses.append(self._rest[:end])
            self._rest = self._rest[end:]
            self._count += 1
        return clauses

    def end(self) -> list[str]:
        """The text is over: returns what is left."""
        rest, self._rest = self._rest, ""
        return [rest] if rest.strip() else []

    def _clause_end(self) -> int | None:
        limits = LIMITS[min(self._count, len(LIMITS) - 1)]
        furthest, forced_end = self._breath(limits) or self._forced_end(limits)
        for match in _BOUNDARY.finditer(self._rest):
            if match.end() > furthest:
                break
            if _is_clause(self._rest[: match.end()], limits):
                return match.end()
        return forced_end

    def _breath(self, limits: Limits) -> tuple[int, int] | None:
        """Like `_forced_end`: where a short first clause ends without a mark, if it may by now."""
        if limits.breath_words:
            words = list(re.finditer(r"\S+(?=\s)", self._rest))
            for word in words[limits.breath_words : limits.most_words]:
                if word.group().lower() in _JOINTS - _NO_BREATH:
                    return word.start(), word.start()
        return None

    def _forced_end(self, limits: Limits) -> tuple[int, int | None]:
        """How far to look for a mark; and where to cut, between words, if there is none before."""
        words = list(re.finditer(r"\S+\s+", self._rest[: limits.most_chars + 1]))
        if len(words) > limits.most_words:
            words = words[: limits.most_words]
            return words[-1].end(), _last_joint(words)
        if len(self._rest) <= limits.most_chars:
            return len(self._rest), None
        ends = [word.end() for word in words if word.end() <= limits.most_chars]
        return limits.most_chars, ends[-1] if ends else limits.most_chars


def _is_clause(head: str, limits: Limits) -> bool:
    if not any(char.isalpha() for char in head) or _ABBREVIATION.search(head):
        return False  # nothing, or the number of a list's item; or a dot that ends no sentence
    if _SENTENCE_END.search(head):
        return True
    return len(head.split()) >= limits.at_mark_words and len(head) >= limits.at_mark_chars


def _last_joint(words: list[re.Match[str]]) -> int:
    """Where the last word that opens a phrase begins, in the second half; else behind the last word."""
    for word in reversed(words[len(words) // 2 :]):
        if word.group().strip().lower() in _JOINTS:
            return word.start()
    return words[-1].end()


_SAID_AS = {
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "et cetera",
    "vs.": "versus",
    "approx.": "approximately",
    "Mr.": "Mister",
    "Mrs.": "Missus",
    "Ms.": "Ms",
    "Dr.": "Doctor",
    "Prof.": "Professor",
    "St.": "Saint",
    "Mt.": "Mount",
}
_SAID_AS_PATTERN = re.compile(
    rf"(?<!\w)({'|'.join(re.escape(short) for short in _SAID_AS)})(?=\W|$)"
)
_MONEY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_MONEY_PATTERN = re.compile(
    r"([$£€])\s?(\d[\d,]*)(?:\.(\d\d)\b|(\.\d+))?( (?:thousand|million|billion))?"
)


def spoken(text: str) -> str:
    """The clause as a voice can read it: no markdown, emoji or doubled spaces; some shorthand in words."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)  # a link's text
    text = re.sub(r"https?://(?:www\.)?([^\s/]+)\S*", r"\1", text)
    text = re.sub(r"(?m)^\s*(?:[-•*+]|#+|>)\s+", "", text)
    text = re.sub(r"(?<!\S)[:;]-?[)(DP](?!\S)", " ", text)
    text = re.sub(r"[*_`#~|<>\[\]{}\\^]+", " ", text)
    text = _MONEY_PATTERN.sub(_money, text)
    text = _SAID_AS_PATTERN.sub(lambda match: _SAID_AS[match[1]], text)
    text = "".join(" " if _is_picture(char) else char for char in text.replace("&", " and "))
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s+([.,;:!?…])", r"\1", text)


def _is_picture(char: str) -> bool:
    """Whether it is an emoji, an arrow or what modifies one."""
    is_symbol = unicodedata.category(char) == "So" and char != "°"
    return is_symbol or char in "\ufe0f\u200d\u20e3" or "🏻" <= char <= "🏿"


def _money(match: re.Match[str]) -> str:
    sign, whole, cents, decimals, many = match.groups()
    unit, part = _MONEY[sign]
    if many or decimals:
        return f"{whole}{'.' + cents if cents else decimals or ''}{many or ''} {unit}s"
    said = f"{whole} {unit}" + ("" if whole == "1" else "s")
    if cents and int(cents):
        part = {"penny": "pence"}.get(part, part + "s") if int(cents) != 1 else part
        said += f" and {int(cents)} {part}"
    return said
