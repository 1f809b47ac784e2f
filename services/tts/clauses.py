"""Cuts a growing text into clauses: the first short, so that sound starts soon; later ones in full breaths."""

import re

FIRST_CLAUSE_WORDS = 3  # "Well," alone sounds chopped and buys nothing
FIRST_CLAUSE_MAX_WORDS = 10
# Without a mark, the first clause ends where a speaker may take a breath: before a word that begins a phrase.
PHRASE_WORDS = 4
PHRASE_STARTS = frozenset(
    [
        "and",
        "but",
        "or",
        "because",
        "so",
        "that",
        "which",
        "who",
        "when",
        "while",
        "where",
        "if",
        "as",
        "than",
        "by",
        "with",
        "without",
        "for",
        "from",
        "into",
        "in",
        "on",
        "at",
        "about",
        "after",
        "before",
        "until",
        "through",
        "over",
        "under",
        "between",
        "during",
    ]
)
CLAUSE_CHARS = (
    60  # later clauses go on to the end of the sentence, or to a comma beyond this length
)
CLAUSE_MAX_CHARS = 240

# A mark that ends a clause, with what may close behind it; followed by a space, so that "3.5" and "a.m" hold.
_BOUNDARY = re.compile(r"[.!?…]+[\"'”’)]*(?=\s)|[,;:—–](?=\s)|\n")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)]*$|\n$")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|[A-Z])\.$")


class ClauseCutter:
    """Takes text deltas, gives clauses. Every character of the text comes out exactly once, in order."""

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
        return [clause for clause in clauses if clause.strip()]

    def end(self) -> list[str]:
        """The text is over: returns what is left."""
        rest, self._rest = self._rest, ""
        return [rest] if rest.strip() else []

    def _clause_end(self) -> int | None:
        marks = (match.end() for match in _BOUNDARY.finditer(self._rest))
        mark = next((end for end in marks if self._is_clause(self._rest[:end])), None)
        if self._is_first and (breath := self._breath()) is not None:
            return min(breath, mark or breath)
        return mark if mark is not None else self._forced_end()

    def _breath(self) -> int | None:
        """Where the first clause may end without a mark: before the first phrase after a few words."""
        words = list(re.finditer(r"\S+(?=\s)", self._rest))
        for word in words[PHRASE_WORDS:]:
            if word.group().lower() in PHRASE_STARTS:
                return word.start()
        return None

    def _is_clause(self, head: str) -> bool:
        if not head.strip() or _ABBREVIATION.search(head):
            return False
        if _SENTENCE_END.search(head):
            return True
        if self._is_first:
            return len(head.split()) >= FIRST_CLAUSE_WORDS
        return len(head) >= CLAUSE_CHARS

    def _forced_end(self) -> int | None:
        """A text without marks is cut between words."""
        words = list(re.finditer(r"\S+\s", self._rest))
        if self._is_first and len(words) > FIRST_CLAUSE_MAX_WORDS:
            return words[FIRST_CLAUSE_MAX_WORDS - 1].end()
        if len(self._rest) > CLAUSE_MAX_CHARS:
            fitting = [word.end() for word in words if word.end() <= CLAUSE_MAX_CHARS]
            return fitting[-1] if fitting else CLAUSE_MAX_CHARS
        return None


def spoken(text: str) -> str:
    """The clause without what must not be read aloud: markdown marks, emoji, doubled spaces."""
    text = re.sub(r"[*_`#~|<>\[\]{}\\]+", " ", text)
    text = re.sub(r"[\U0001F000-\U0001FAFF\u2600-\u27BF\uFE0F\u200D]+", " ", text)
    return re.sub(r"\s+", " ", text).strip()
