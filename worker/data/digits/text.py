"""Texts about collages: captions, questions with answers, and true or false statements.

A collage has four cells: 0 top left, 1 top right, 2 bottom left, 3 bottom right. A text is a row of token ids
``<start> … <end>`` padded with 0, together with the positions that are predicted.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from worker.data.counter import Words, below

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
TextRows = tuple[Ints, Flags]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOCABULARY = (
    *("<pad>", "<start>", "<end>"),
    *DIGITS,
    *("top", "bottom", "left", "right", "beside", "above", "below"),
    *("what", "is", "there", "largest", "smallest"),
    *("?", ":", "yes", "no"),
)
TOKEN_IDS = {word: number for number, word in enumerate(VOCABULARY)}
CONTEXT_LENGTH = 15
TEXT_DRAWS = 5
"""Number of random 64-bit words that ``compose_texts`` uses per row."""

_ZERO = TOKEN_IDS["zero"]


def decode(row: npt.ArrayLike) -> str:
    """Return the text of one row of token ids, without start, end and padding."""
    return " ".join(VOCABULARY[int(token)] for token in np.asarray(row) if token > TOKEN_IDS["<end>"])


def compose_texts(kind: Ints, labels: Ints, words: Words) -> TextRows:
    """Compose one text for each collage.

    Args:
        kind: [B] index into KINDS of the text to compose.
        labels: [B, 4] the digit in each cell.
        words: [B, TEXT_DRAWS] random 64-bit words.

    Returns:
        text [B, CONTEXT_LENGTH] and answer [B, CONTEXT_LENGTH], true at the positions that are predicted.
    """
    text = np.zeros((len(kind), CONTEXT_LENGTH), dtype=np.int64)
    answer = np.zeros((len(kind), CONTEXT_LENGTH), dtype=np.bool_)
    for number, generate in enumerate(_GENERATORS.values()):
        rows = np.flatnonzero(kind == number)
        if len(rows):
            text[rows], answer[rows] = generate(labels[rows], words[rows])
    return text, answer


def _compose(rows: int, *columns: str | Ints, answers: int) -> TextRows:
    """Join columns, each a word or token ids [rows]; the last ``answers`` of them and <end> are predicted."""
    text = np.zeros((rows, CONTEXT_LENGTH), dtype=np.int64)
    length = len(columns) + 2
    for at, column in enumerate(("<start>", *columns, "<end>")):
        text[:, at] = TOKEN_IDS[column] if isinstance(column, str) else column
    answer = np.zeros((rows, CONTEXT_LENGTH), dtype=np.bool_)
    answer[:, length - 1 - answers : length] = True
    return text, answer


def _place(cell: Ints) -> tuple[Ints, Ints]:
    """Return the two tokens that name a cell."""
    return (
        np.where(cell < 2, TOKEN_IDS["top"], TOKEN_IDS["bottom"]),
        np.where(cell % 2 == 0, TOKEN_IDS["left"], TOKEN_IDS["right"]),
    )


def _at(labels: Ints, cell: Ints) -> Ints:
    return np.asarray(labels[np.arange(len(labels)), cell], dtype=np.int64)


def _choose(allowed: Flags, words: Words) -> Ints:
    """Draw for each row of ``allowed`` [B, N] the index of one True, uniformly (0 if there is none)."""
    nth = below(words, np.maximum(allowed.sum(axis=1), 1)) + 1
    return np.asarray((allowed.cumsum(axis=1) >= nth[:, None]).argmax(axis=1), dtype=np.int64)


def _yes(truth: Flags) -> Ints:
    return np.where(truth, TOKEN_IDS["yes"], TOKEN_IDS["no"])


def _caption(labels: Ints, words: Words) -> TextRows:
    # The colon distinguishes it from a statement, which may begin with the same words.
    columns: list[str | Ints] = [":"]
    for cell in range(4):
        columns += [("top", "bottom")[cell // 2], ("left", "right")[cell % 2], labels[:, cell] + _ZERO]
    return _compose(len(labels), *columns, answers=len(columns) - 1)


def _position(labels: Ints, words: Words) -> TextRows:
    cell = below(words[:, 0], 4)
    return _compose(len(labels), "what", "is", *_place(cell), "?", _at(labels, cell) + _ZERO, answers=1)


def _neighbour(labels: Ints, words: Words) -> TextRows:
    cell = below(words[:, 0], 4)
    sideways = below(words[:, 1], 2) == 0
    upright = np.where(cell < 2, TOKEN_IDS["below"], TOKEN_IDS["above"])
    relation = np.where(sideways, TOKEN_IDS["beside"], upright)
    digit = _at(labels, np.where(sideways, cell ^ 1, cell ^ 2)) + _ZERO
    return _compose(len(labels), "what", "is", relation, *_place(cell), "?", digit, answers=1)


def _presence(labels: Ints, words: Words) -> TextRows:
    truth = below(words[:, 0], 2) == 0
    absent = ~(labels[:, :, None] == np.arange(10)).any(axis=1)
    digit = np.where(truth, _at(labels, below(words[:, 1], 4)), _choose(absent, words[:, 2]))
    return _compose(len(labels), "is", "there", digit + _ZERO, "?", _yes(truth), answers=1)


def _extreme(labels: Ints, words: Words) -> TextRows:
    largest = below(words[:, 0], 2) == 0
    which = np.where(largest, TOKEN_IDS["largest"], TOKEN_IDS["smallest"])
    answer = np.where(largest, labels.max(axis=1), labels.min(axis=1)) + _ZERO
    return _compose(len(labels), "what", "is", which, "?", answer, answers=1)


def _entailment(labels: Ints, words: Words) -> TextRows:
    """Compose a statement about one cell; a false one names another cell's digit as often as an absent one."""
    truth = below(words[:, 0], 2) == 0
    cell = below(words[:, 1], 4)
    digit = _at(labels, cell)
    elsewhere = labels != digit[:, None]
    near = _at(labels, _choose(elsewhere, words[:, 2]))
    far = (digit + 1 + below(words[:, 3], 9)) % 10
    wrong = np.where((below(words[:, 4], 2) == 0) & elsewhere.any(axis=1), near, far)
    stated = np.where(truth, digit, wrong) + _ZERO
    return _compose(len(labels), *_place(cell), "is", stated, ":", _yes(truth), answers=1)


def _two_pictures(labels: Ints, words: Words) -> TextRows:
    """Compose a statement about two pictures of two digits each, one above the other.

    Half of the statements say which picture has the largest digit. The others name a digit of each picture; a false
    one replaces one of the two by the digit named for the other picture, or by any digit.
    """
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


_GENERATORS: dict[str, Callable[[Ints, Words], TextRows]] = {
    "caption": _caption,
    "position": _position,
    "neighbour": _neighbour,
    "presence": _presence,
    "extreme": _extreme,
    "entailment": _entailment,
    "two_pictures": _two_pictures,
}
KINDS = tuple(_GENERATORS)
ASKING = KINDS[1:]
"""The kinds with a question or statement to answer: all but captions."""
QUESTIONS = ASKING[:-1]
"""The default questions: those about one picture, for which the built-in recipe's teacher was trained."""
