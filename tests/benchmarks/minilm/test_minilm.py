"""The study of the sentence encoder: its sentences, neighbours, costs and table."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.minilm.corpus import plain_text, sentences_of
from benchmarks.minilm.judge import compare
from benchmarks.minilm.run import STEPS_PER_ROUND, joint_rounds, spent
from benchmarks.minilm.study import table

DOCSTRING = """Return the size of a file in bytes.

    A link counts as what it leads to, and
    a directory as nothing. Too short a one.

    Args:
        path: The path of the file is an argument, so this line does not count.

    >>> size("a")
    3
    Nothing about an example is a sentence here.
"""
MANUAL = r"""
.TH CAT 1
.SH NAME
cat \- concatenate files
.SH DESCRIPTION
With no \fIFILE\fR, or when it is \-, the program reads
standard input until its end.
.TP
\fB\-n\fR
number all lines
.PP
Number all lines of the output from the first one on.
"""


def test_the_corpus_has_whole_sentences_and_no_code() -> None:
    assert list(sentences_of(DOCSTRING)) == [
        "Return the size of a file in bytes.",
        "A link counts as what it leads to, and a directory as nothing.",
    ]
    assert list(sentences_of(plain_text(MANUAL))) == [
        "With no FILE, or when it is -, the program reads standard input until its end.",
        "Number all lines of the output from the first one on.",
    ]


def test_neighbours_are_the_ten_nearest_and_not_the_sentence_itself() -> None:
    teacher = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert compare(teacher, teacher) == pytest.approx({"cosine": 1.0, "neighbours": 1.0})
    # Other vectors with the same angles between them have the same neighbours.
    turned = teacher.roll(1, dims=1)
    assert compare(turned, teacher)["neighbours"] == pytest.approx(1.0)
    assert compare(turned, teacher)["cosine"] < 0.5
    # Of 39 other sentences, ten at random are about a quarter of the ten nearest.
    shuffled = teacher[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    assert 0.1 < compare(shuffled, teacher)["neighbours"] < 0.4


def test_a_joint_job_has_as_many_rounds_as_cost_the_same() -> None:
    cost = {"step/upper": 0.5, "probe/upper": 0.25, "step/joint": 1.0, "probe/joint": 0.5}
    seconds = spent({"upper": 4, "joint": 2}, cost)
    assert seconds == 4 * (STEPS_PER_ROUND * 0.5 + 0.25) + 2 * (STEPS_PER_ROUND + 0.5)
    rounds = joint_rounds(seconds, cost)
    assert spent({"joint": rounds}, cost, probed=False) == pytest.approx(seconds, abs=STEPS_PER_ROUND / 2)


def test_the_table_has_a_row_for_each_student() -> None:
    run = {"pulls": {"upper": 3, "joint": 1}, "seconds": 41.2, "cosine": 0.8, "neighbours": 0.5}
    results = {"before": {"cosine": 0.5, "neighbours": 0.3}, "runs": {"default, lr 0.001, seed 1": run}}
    assert table(results).splitlines()[2:] == [
        "| before |  | 0 | 0.500 | 30.0% |",
        "| default, lr 0.001, seed 1 | joint 1, upper 3 | 41 | 0.800 | 50.0% |",
    ]
