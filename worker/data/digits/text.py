"""What is said about a collage: captions, questions with answers, and statements that hold or do not.

A collage has four cells, 0 top left, 1 top right, 2 bottom left, 3 bottom right. Text is a row of token ids
``<start> … <end>`` padded with 0; beside it stands which of its positions are to be predicted.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from worker.data.counter import Words, below

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Said = tuple[Ints, Flags]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOCABULARY = (
    *("<pad>", "<start>", "<end>"),
    *DIGITS,
    *("top", "bottom", "left", "right", "beside", "above", "below"),
    *("what", "is", "there", "largest", "smallest"),
    *("?", ":", "yes", "no"),
)
WORD = {word: number for number, word in enumerate(VOCABULARY)}
CONTEXT_LENGTH = 15
TEXT_DRAWS = 5
"""How many random words ``say`` uses for each row."""

_ZERO = WORD["zero"]


def decode(row: npt.ArrayLike) -> str:
    """The words of one row of token ids, without start, end and padding."""
    return " ".join(VOCABULARY[int(token)] for token in np.asarray(row) if token > WORD["<end>"])


def say(kind: Ints, labels: Ints, words: Words) -> Said:
    """One text for each collage.

    Args:
        kind: [B] index into KINDS: what is asked for.
        labels: [B, 4] which digit is in each cell.
        words: [B, TEXT_DRAWS] random words.

    Returns:
        text [B, CONTEXT_LENGTH], answer [B, CONTEXT_LENGTH] (which positions are to be predicted).
    """
    text = np.zeros((len(kind), CONTEXT_LENGTH), dtype=np.int64)
    answer = np.zeros((len(kind), CONTEXT_LENGTH), dtype=np.bool_)
    for number, speak in enumerate(_SPEAKERS.values()):
        rows = np.flatnonzero(kind == number)
        if len(rows):
            text[rows], answer[rows] = speak(labels[rows], words[rows])
    return text, answer


def _compose(rows: int, *columns: str | Ints, answers: int) -> Said:
    """Columns are words or token ids [rows]; the last ``answers`` of them and <end> are to be predicted."""
    text = np.zeros((rows, CONTEXT_LENGTH), dtype=np.int64)
    length = len(columns) + 2
    for at, column in enumerate(("<start>", *columns, "<end>")):
        text[:, at] = WORD[column] if isinstance(column, str) else column
    answer = np.zeros((rows, CONTEXT_LENGTH), dtype=np.bool_)
    answer[:, length - 1 - answers : length] = True
    return text, answer


def _place(cell: Ints) -> tuple[Ints, Ints]:
    """The two words that name a cell."""
    return (
        np.where(cell < 2, WORD["top"], WORD["bottom"]),
        np.where(cell % 2 == 0, WORD["left"], WORD["right"]),
    )


def _at(labels: Ints, cell: Ints) -> Ints:
    return np.asarray(labels[np.arange(len(labels)), cell], dtype=np.int64)


def _choose(allowed: Flags, words: Words) -> Ints:
    """For each row of ``allowed`` [B, N] the index of one True, uniformly (0 where there is none)."""
    nth = below(words, np.maximum(allowed.sum(axis=1), 1)) + 1
    return np.asarray((allowed.cumsum(axis=1) >= nth[:, None]).argmax(axis=1), dtype=np.int64)


def _yes(truth: Flags) -> Ints:
    return np.where(truth, WORD["yes"], WORD["no"])


def _caption(labels: Ints, words: Words) -> Said:
    # The colon tells it from a statement, which may begin with the same words.
    columns: list[str | Ints] = [":"]
    for cell in range(4):
        columns += [("top", "bottom")[cell // 2], ("left", "right")[cell % 2], labels[:, cell] + _ZERO]
    return _compose(len(labels), *columns, answers=len(columns) - 1)


def _position(labels: Ints, words: Words) -> Said:
    cell = below(words[:, 0], 4)
    return _compose(len(labels), "what", "is", *_place(cell), "?", _at(labels, cell) + _ZERO, answers=1)


def _neighbour(labels: Ints, words: Words) -> Said:
    cell = below(words[:, 0], 4)
    sideways = below(words[:, 1], 2) == 0
    upright = np.where(cell < 2, WORD["below"], WORD["above"])
    relation = np.where(sideways, WORD["beside"], upright)
    digit = _at(labels, np.where(sideways, cell ^ 1, cell ^ 2)) + _ZERO
    return _compose(len(labels), "what", "is", relation, *_place(cell), "?", digit, answers=1)


def _presence(labels: Ints, words: Words) -> Said:
    truth = below(words[:, 0], 2) == 0
    absent = ~(labels[:, :, None] == np.arange(10)).any(axis=1)
    digit = np.where(truth, _at(labels, below(words[:, 1], 4)), _choose(absent, words[:, 2]))
    return _compose(len(labels), "is", "there", digit + _ZERO, "?", _yes(truth), answers=1)


def _extreme(labels: Ints, words: Words) -> Said:
    largest = below(words[:, 0], 2) == 0
    which = np.where(largest, WORD["largest"], WORD["smallest"])
    answer = np.where(largest, labels.max(axis=1), labels.min(axis=1)) + _ZERO
    return _compose(len(labels), "what", "is", which, "?", answer, answers=1)


def _entailment(labels: Ints, words: Words) -> Said:
    """A statement about one cell; a false one names another cell's digit as often as an absent one."""
    truth = below(words[:, 0], 2) == 0
    cell = below(words[:, 1], 4)
    digit = _at(labels, cell)
    elsewhere = labels != digit[:, None]
    near = _at(labels, _choose(elsewhere, words[:, 2]))
    far = (digit + 1 + below(words[:, 3], 9)) % 10
    wrong = np.where((below(words[:, 4], 2) == 0) & elsewhere.any(axis=1), near, far)
    stated = np.where(truth, digit, wrong) + _ZERO
    return _compose(len(labels), *_place(cell), "is", stated, ":", _yes(truth), answers=1)


def _two_pictures(labels: Ints, words: Words) -> Said:
    """A statement about two pictures of two digits each, the one above the other: as often which of them has the
    largest digit as what is in both, where a false one names in one place a digit of the other picture, or any."""
    rows = np.arange(len(labels))
    # Two pairs of columns: the upper picture's cells and the lower one's.
    shown = labels.reshape(-1, 2, 2).copy()
    upper, lower = shown[:, 0].max(axis=1), shown[:, 1].max(axis=1)
    cell = below(words[:, 1], 4)
    named = np.stack([shown[rows, 0, cell % 2], shown[rows, 1, cell // 2]], axis=1)
    truth = below(words[:, 0], 2) == 0
    slot = below(words[:, 2], 4)
    other = named[rows, 1 - slot % 2]
    wrong = np.where(slot // 2 == 0, other, below(words[:, 3], 10))
    named[rows, slot % 2] = np.where(truth, named[rows, slot % 2], wrong)
    both = (shown == named[:, :, None]).any(axis=2).all(axis=1)
    compared = below(words[:, 4], 2) == 0
    text, answer = _compose(
        len(labels),
        *("there", "is", "top", named[:, 0] + _ZERO, "bottom", named[:, 1] + _ZERO, ":", _yes(both)),
        answers=1,
    )
    other_text, other_answer = _compose(len(labels), "largest", "is", "top", ":", _yes(upper > lower), answers=1)
    return np.where(compared[:, None], other_text, text), np.where(compared[:, None], other_answer, answer)


_SPEAKERS: dict[str, Callable[[Ints, Words], Said]] = {
    "caption": _caption,
    "position": _position,
    "neighbour": _neighbour,
    "presence": _presence,
    "extreme": _extreme,
    "entailment": _entailment,
    "two_pictures": _two_pictures,
}
KINDS = tuple(_SPEAKERS)
ASKING = KINDS[1:]
"""The kinds that ask something, as against describing everything."""
QUESTIONS = ASKING[:-1]
"""Those of one picture: what is asked where nothing else is said, and what the built-in recipe's teacher knows."""
