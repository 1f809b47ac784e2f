"""When each word of a clause is said, from the times of its phonemes.

A front end such as espeak gives phonemes for the clause as a whole. Its spaces are no help: it runs words
together ("in the" → "ɪnðə") and makes several of one ("42" → "fˈɔːɹɾi tˈuː"). So each word is also phonemized
on its own, and the two sequences are aligned, letter by letter, at the least cost:

    words        in │ the │ 42            on their own   ɪn │ ðə │ fɔɹɾi tu
    clause       ɪnðə fɔɹɾi tu            aligned        ɪn │ ðə │ fɔɹɾi tu
"""

import unicodedata
from collections.abc import Sequence

from services.tts.backend import Timed

_GAP = 1.0
_UNLIKE = 1.2  # dearer than a gap, cheaper than two: what stands for each other stays together
_UNLIKE_VOWELS = 0.5  # "the" is ðə or ðɪ, "a" is ɐ or eɪ
_MID_WORD = 0.3  # a word that begins where the clause has no space
_VOWELS = set("aeiouyæɐɑɒɔəɚɛɜɪʊʌᵻɨɵøœAIOWY")


def time_words(
    words: Sequence[str], alone: Sequence[str], phonemes: Sequence[Timed]
) -> list[Timed]:
    """The words with their times: in order, without overlap, inside the phonemes' time.

    `alone` holds the phonemes of each word on its own, `phonemes` those of the clause as it is said, with
    spaces and marks. A word of which nothing is heard gets an instant between its neighbours.
    """
    heard = [index for index, phoneme in enumerate(phonemes) if _is_letter(phoneme.text[:1])]
    if not heard:
        return [Timed(word, 0, 0) for word in words]
    letters = [phonemes[index].text[0] for index in heard]
    begins = [
        position == 0 or any(phonemes[i].text.isspace() for i in range(heard[position - 1], index))
        for position, index in enumerate(heard)
    ]
    firsts = _first_letters([[c for c in ipa if _is_letter(c)] for ipa in alone], letters, begins)
    return _times(words, [heard[f] if f < len(heard) else len(phonemes) for f in firsts], phonemes)


def _is_letter(symbol: str) -> bool:
    """Whether it stands for a sound of its own: no stress, length or tie mark, no punctuation."""
    return unicodedata.category(symbol or " ") in ("Ll", "Lu", "Lo")


def _first_letters(
    spellings: Sequence[Sequence[str]], letters: Sequence[str], begins: Sequence[bool]
) -> list[int]:
    """For each word, the position in `letters` where it begins (that of the next word if it has none)."""
    expected = [letter for spelling in spellings for letter in spelling]
    opens = [place == 0 for spelling in spellings for place in range(len(spelling))]
    cost, came = _align(expected, opens, letters, begins)
    # Back along the cheapest path: where does each expected letter lie?
    positions = [0] * len(expected)
    i, j = len(expected), len(letters)
    while i or j:
        step = came[i][j]
        i, j = i - (step != "skip"), j - (step != "drop")
        if step != "skip":
            positions[i] = j
    firsts: list[int] = []
    at = 0
    for spelling in spellings:
        firsts.append(positions[at] if at < len(positions) else len(letters))
        at += len(spelling)
    firsts[:1] = [0]  # what stands before the first word is part of it
    return firsts


def _align(
    expected: Sequence[str], opens: Sequence[bool], letters: Sequence[str], begins: Sequence[bool]
) -> tuple[list[list[float]], list[list[str]]]:
    """Costs and steps of the least-cost alignment: "pair", "drop" (not heard) or "skip" (not expected)."""
    cost = [[j * _GAP for j in range(len(letters) + 1)]]
    came = [["skip"] * (len(letters) + 1)]
    for i, letter in enumerate(expected):
        above, row, steps = cost[-1], [cost[-1][0] + _GAP], ["drop"]
        for j, other in enumerate(letters):
            pair = above[j] + _difference(letter, other)
            if opens[i] and not begins[j]:
                pair += _MID_WORD
            drop, skip = above[j + 1] + _GAP, row[j] + _GAP
            least = min(pair, drop, skip)
            row.append(least)
            steps.append("pair" if least == pair else "drop" if least == drop else "skip")
        cost.append(row)
        came.append(steps)
    return cost, came


def _difference(a: str, b: str) -> float:
    if a == b:
        return 0
    return _UNLIKE_VOWELS if a in _VOWELS and b in _VOWELS else _UNLIKE


def _times(words: Sequence[str], firsts: Sequence[int], phonemes: Sequence[Timed]) -> list[Timed]:
    """Words from the index of each one's first letter."""
    edges: list[int] = []
    for first in firsts:
        # A stress mark stands before its vowel, and belongs to it.
        while 0 < first < len(phonemes) and phonemes[first - 1].text in ("ˈ", "ˌ"):
            first -= 1
        edges.append(max(first, edges[-1] if edges else 0))
    edges.append(len(phonemes))
    timed = []
    for word, first, after in zip(words, edges, edges[1:], strict=False):
        own = [p for p in phonemes[first:after] if not _is_silent(p.text)]
        if own:
            timed.append(Timed(word, own[0].start_ms, own[-1].end_ms))
        else:
            instant = timed[-1].end_ms if timed else phonemes[0].start_ms
            timed.append(Timed(word, instant, instant))
    return timed


def _is_silent(symbol: str) -> bool:
    """Whether it is a space or punctuation."""
    return all(unicodedata.category(char)[0] in "PSZ" for char in symbol)
