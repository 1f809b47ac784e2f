"""The text of a turn while it is being spoken: guesses in, what is worth showing out."""

import re
from itertools import takewhile

# A guess at sound that is cut in the middle of a word may repeat the word before it: "then, Lee, Lee, Lee".
_LOOP = re.compile(r"\b(\w+)(?:\W+\1\b){2,}\W*\w*$", re.IGNORECASE)
_OPEN_END = re.compile(r"[\s.,;:…—-]+$")


def join(*texts: str) -> str:
    return " ".join(text for text in (text.strip() for text in texts) if text)


class PartialText:
    """Grows, mostly: words that two guesses in a row agree on are not taken back by a shorter guess."""

    def __init__(self, begin: int) -> None:
        self.begin = begin  # guesses are about the sound from here on
        self.shown = ""
        self._before = ""  # the text of what lies before
        self._last: list[str] = []
        self._agreed = 0

    def settle(self, text: str, begin: int) -> None:
        """The text up to `begin` is known; guesses go on from there."""
        self.begin = begin
        self._before = text
        self._last, self._agreed = [], 0

    def settle_guess(self, guess: str, begin: int) -> None:
        """As `settle`, for a guess that is good enough to stay."""
        self.settle(join(self._before, guess), begin)

    def accept(self, guess: str) -> str | None:
        """The text to show now, or None if it is no news."""
        words = _OPEN_END.sub("", _LOOP.sub(r"\1", guess.strip())).split()
        if len(words) < self._agreed:
            return None
        pairs = zip(map(_bare, self._last), map(_bare, words), strict=False)
        self._agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._last = words
        text = join(self._before, " ".join(words))
        if not text or text == self.shown:
            return None
        self.shown = text
        return text


def _bare(word: str) -> str:
    return re.sub(r"\W", "", word).lower()
