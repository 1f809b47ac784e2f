"""Cuts a growing text into clauses: the first short, so that sound starts soon; later ones in full breaths."""

import re
import unicodedata

FIRST_CLAUSE_WORDS = 2  # "Well," alone sounds chopped, and is over before the next clause is there
FIRST_CLAUSE_MAX_WORDS = 12
CLAUSE_CHARS = (
    60  # later clauses go on to the end of the sentence, or to a comma beyond this length
)
CLAUSE_MAX_CHARS = 240

_CLOSING = "[\"'”’)*_]*"
_SENTENCE_MARK = rf"[.!?…]+{_CLOSING}"
# A mark that ends a clause, followed by a space, so that "3.5", "1,000" and "a.m" hold. A dash needs none.
_BOUNDARY = re.compile(rf"(?:{_SENTENCE_MARK}|[,;:–]{_CLOSING}|(?<=\s)-)(?=\s)|—|\n")
_SENTENCE_END = re.compile(rf"{_SENTENCE_MARK}$|\n$")
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|Jr|Sr|vs|etc|approx|e\.g|i\.e|[ap]\.m|[A-HJ-Z])\.$"
)
# Where a long first clause may be cut without a mark: before one of these.
_JOINTS = {
    *("and", "but", "or", "so", "because", "since", "when", "while", "if", "that", "which", "who"),
    *("where", "as", "than", "to", "with", "for", "from", "about", "in", "on", "at", "of", "like"),
}
_JOINT_AFTER_WORDS = 5


class ClauseCutter:
    """Takes text deltas, gives clauses. Every character of the text comes out once, in order, in one of them.

    Only white space at the very end is dropped. Where the deltas begin and end makes no difference.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._is_first = True

    def push(self, delta: str) -> list[str]:
        """Adds text; returns the clauses that are complete now, with their spaces."""
        self._rest += delta
        clauses = []
        while (end := self._clause_end()) is not None:
            clauses.append(self._rest[:end])
            self._rest = self._rest[end:]
            self._is_first = False
        return clauses

    def end(self) -> list[str]:
        """The text is over: returns what is left."""
        rest, self._rest = self._rest, ""
        return [rest] if rest.strip() else []

    def _clause_end(self) -> int | None:
        limit, forced_end = self._forced_end()
        for match in _BOUNDARY.finditer(self._rest):
            if match.end() > limit:
                break
            if self._is_clause(self._rest[: match.end()]):
                return match.end()
        return forced_end

    def _is_clause(self, head: str) -> bool:
        if not any(char.isalpha() for char in head) or _ABBREVIATION.search(head):
            return False  # nothing, or the number of a list's item; or a dot that ends no sentence
        if _SENTENCE_END.search(head):
            return True
        if self._is_first:
            return len(head.split()) >= FIRST_CLAUSE_WORDS
        return len(head) >= CLAUSE_CHARS

    def _forced_end(self) -> tuple[int, int | None]:
        """How far to look for a mark; and where to cut, between words, if there is none before."""
        words = list(re.finditer(r"\S+\s+", self._rest[: CLAUSE_MAX_CHARS + 1]))
        if self._is_first and len(words) > FIRST_CLAUSE_MAX_WORDS:
            words = words[:FIRST_CLAUSE_MAX_WORDS]
            return words[-1].end(), self._joint([word.group().strip() for word in words], words)
        if len(self._rest) <= CLAUSE_MAX_CHARS:
            return len(self._rest), None
        ends = [word.end() for word in words if word.end() <= CLAUSE_MAX_CHARS]
        return CLAUSE_MAX_CHARS, ends[-1] if ends else CLAUSE_MAX_CHARS

    @staticmethod
    def _joint(texts: list[str], words: list[re.Match[str]]) -> int:
        for index in range(len(words) - 1, _JOINT_AFTER_WORDS - 1, -1):
            if texts[index].lower() in _JOINTS:
                return words[index].start()
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
