"""VQA accuracy by the official scorer's rules (vqaEval.py of GT-Vision-Lab/VQA), worked out by hand."""

from __future__ import annotations

import pytest

from worker.data.tasks.vqa_accuracy import MISSPELLED, accuracy, normalised


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Dog", "dog"),
        ("a cat and an owl", "cat and owl"),
        ("a", ""),
        ("Two", "2"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("yall'll", "y'all'll"),
        ("Im", "im"),
        ("somebody'd", "somebodyd"),
        ("men's", "men's"),
        # A sign parts words, unless a space is beside it anywhere in the answer …
        ("t-shirt", "t shirt"),
        ("t-shirt -", "tshirt"),
        ("black/white", "black white"),
        ("yes, no", "yes no"),
        ("red,green", "red green"),
        # … or a comma stands between digits, which joins all.
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        # A full stop goes unless a digit follows.
        ("2.5", "2.5"),
        (".5", ".5"),
        ("st.", "st"),
        ("u.s.", "us"),
        ("10:30", "10:30"),
        ("  yes\tsir\n", "yes sir"),
    ],
)
def test_an_answer_is_normalised_as_officially(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


def test_every_contraction_is_found_without_any_one_of_its_signs() -> None:
    assert len(MISSPELLED) == 73 + 2 * 17 + 2 * 3 + 1
    assert all(len(meant) == len(given) + 1 for given, meant in MISSPELLED.items() if given != "somebody'd")


@pytest.mark.parametrize(
    ("agree", "expected"),
    # Of ten people n agree. Leaving out one of those, n - 1 of the others do, else n; in thirds, 1 at most:
    # n = 1: 9 × 1/3; n = 2: 2 × 1/3 + 8 × 2/3; n = 3: 3 × 2/3 + 7 × 1; each over 10.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)],
)
def test_agreement_is_the_mean_over_each_person_left_out(agree: int, expected: float) -> None:
    others = ["brown"] * agree + [f"color {number}" for number in range(10 - agree)]
    assert accuracy("Brown.", others) == pytest.approx(expected)


def test_answers_are_normalised_on_both_sides_unless_all_are_the_same() -> None:
    assert accuracy("two", ["2"] * 9 + ["3"]) == 1.0
    assert accuracy("the dog", ["A dog"] * 5 + ["cat"] * 5) == 1.0
    # As the official scorer does, of unanimous answers.
    assert accuracy("two", ["2"] * 10) == 0.0
    assert accuracy(" 2\n", ["2"] * 10) == 1.0
