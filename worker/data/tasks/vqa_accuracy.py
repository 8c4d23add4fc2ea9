"""VQA accuracy: the agreement of an answer with those of ten people, by the rules of the official scorer.

The rules and the list of contractions are those of PythonEvaluationTools/vqaEvaluation/vqaEval.py in
github.com/GT-Vision-Lab/VQA, including some that look like mistakes there but affect scores: "none" is 0, a full
stop is removed unless a digit follows, unanimous answers are compared unchanged, and "somebody'd" becomes "somebodyd".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

ENOUGH = 3
"""An answer scores 1 if this many of the other people gave it."""
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


def _misspellings() -> dict[str, str]:
    """Return each contraction by its spelling with one apostrophe missing."""
    contractions = {"somebody'd": "somebodyd"}
    for word in CONTRACTIONS.split():
        for at, sign in enumerate(word):
            if sign == "'":
                contractions[word[:at] + word[at + 1 :]] = word
    return contractions


MISSPELLED = _misspellings()


def normalised(answer: str) -> str:
    """Remove punctuation, case and articles; write numbers up to ten as digits and contractions with apostrophes."""
    text = _one_line(answer)
    cleaned = text
    for sign in PUNCTUATION:
        # Like the hyphen in "t-shirt" it separates words, unless it is next to a space or as in "1,000".
        separates = f"{sign} " not in text and f" {sign}" not in text and not _BETWEEN_DIGITS.search(text)
        cleaned = cleaned.replace(sign, " " if separates else "")
    words = (NUMBERS.get(word, word) for word in _FULL_STOP.sub("", cleaned).lower().split())
    return " ".join(MISSPELLED.get(word, word) for word in words if word not in ARTICLES)


def unanimous(others: Sequence[str]) -> bool:
    """Return whether all people gave exactly the same answer."""
    return len({_one_line(other) for other in others}) == 1


def accuracy(answer: str, others: Sequence[str], respell: Callable[[str], str] = str) -> float:
    """Return the VQA accuracy, in [0, 1]: the mean over the people of min(1, others who agree / 3).

    Each person is left out once; "others who agree" are those among the rest who gave this answer.

    Args:
        answer: The answer to judge.
        others: The people's answers.
        respell: Spells an answer as the model's tokenizer does; by default it is left unchanged.
    """
    if unanimous(others):
        answer, others = _one_line(answer), [respell(_one_line(other)) for other in others]
    else:
        answer, others = normalised(answer), [normalised(respell(normalised(other))) for other in others]
    agree = sum(other == answer for other in others)
    scores = [min(1.0, (agree - (other == answer)) / ENOUGH) for other in others]
    return sum(scores) / len(scores)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
