"""VQA accuracy: how well an answer agrees with those of ten people, by the rules of the official scorer.

The rules, and what is a contraction, were read off PythonEvaluationTools/vqaEvaluation/vqaEval.py of
github.com/GT-Vision-Lab/VQA; among them what looks like a slip there but decides on scores: "none" is 0, a full
stop goes unless a digit follows, unanimous answers are compared as they are, and "somebody'd" becomes "somebodyd".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

ENOUGH = 3
"""An answer that so many of the others gave is fully right."""
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = {"a", "an", "the"}
_DIGITS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS.split(" "))} | {"none": "0"}
CONTRACTIONS = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_BETWEEN_DIGITS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


def _misspelt() -> dict[str, str]:
    """What is meant where one apostrophe is left out."""
    found = {"somebody'd": "somebodyd"}
    for word in CONTRACTIONS.split():
        for at, sign in enumerate(word):
            if sign == "'":
                found[word[:at] + word[at + 1 :]] = word
    return found


MISSPELT = _misspelt()


def normalised(answer: str) -> str:
    """An answer without punctuation, case and articles; numbers up to ten as digits, contractions with their signs."""
    text = _one_line(answer)
    kept = text
    for sign in PUNCTUATION:
        # As a hyphen in "t-shirt" it parts words, beside a space or in "1,000" it does not.
        apart = f"{sign} " not in text and f" {sign}" not in text and not _BETWEEN_DIGITS.search(text)
        kept = kept.replace(sign, " " if apart else "")
    words = (NUMBERS.get(word, word) for word in _FULL_STOP.sub("", kept).lower().split())
    return " ".join(MISSPELT.get(word, word) for word in words if word not in ARTICLES)


def unanimous(others: Sequence[str]) -> bool:
    """Whether all people gave the same answer, to the letter."""
    return len({_one_line(other) for other in others}) == 1


def accuracy(answer: str, others: Sequence[str], spelt: Callable[[str], str] = str) -> float:
    """Between 0 and 1: the mean, over each person left out, of min(1, how many of the rest agree / 3).

    Args:
        answer: What is judged.
        others: What people answered.
        spelt: An answer as the judged one would spell it; by default just so.
    """
    if unanimous(others):
        answer, others = _one_line(answer), [spelt(_one_line(other)) for other in others]
    else:
        answer, others = normalised(answer), [normalised(spelt(normalised(other))) for other in others]
    agree = sum(other == answer for other in others)
    scores = [min(1.0, (agree - (other == answer)) / ENOUGH) for other in others]
    return sum(scores) / len(scores)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
