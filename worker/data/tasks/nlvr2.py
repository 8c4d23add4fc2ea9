"""NLVR2: whether a sentence is true of two photographs (Suhr et al. 2019, arXiv 1811.00491).

    data: {name: nlvr2, options: {folder: DATASETS}}

The files are ``nlvr2/{train,dev,test1}.json``, one JSON object per line with ``identifier`` (split-set-pair-sentence),
``sentence`` and ``label``: as in nlvr2/data of github.com/lil-lab/nlvr. The pictures of "split-set-pair-sentence" are
"split-set-pair-img0.png", the left one, and "…-img1.png", in ``nlvr2/images/train`` (with or without
subdirectories numbered by the line's ``directory``), ``nlvr2/images/dev`` or ``nlvr2/dev``, and
``nlvr2/images/test1`` or ``nlvr2/test1``.

The two pictures are put on one canvas, the left above the right (see worker/data/pictures.py): the decoder attends to
image tokens without knowing their order, so after two passes of the image tower it could not tell left from right. The
model reads "<sentence> : " and chooses the likelier of true and false. ``accuracy`` is the fraction of correct answers.
``consistency`` is the fraction of sentences answered correctly for all of their pairs (nlvr2/eval/metrics.py in that
repository), among the sentences all of whose pairs were measured.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from worker.data.base import Context
from worker.data.examples import Example
from worker.data.options import parse_options
from worker.data.tasks.base import Judge, TaskData, TaskOptions, answers_by_first_token, build_statement_task, fraction
from worker.data.tasks.published import first_existing, parse_records, read_lines
from worker.data.tokens import TextCodec

LABELS = ("true", "false")


class Nlvr2Options(TaskOptions):
    """Options of NLVR2."""

    questions: Literal["dev", "test1"] = "dev"
    """The split for the task metrics; the probe is always on dev."""


def build_nlvr2(options: Mapping[str, Any], context: Context) -> TaskData:
    """Build the data module of NLVR2.

    Raises:
        ValueError: An option is wrong, or a file is missing or not as published.
    """
    parsed = parse_options(Nlvr2Options, options, "nlvr2")
    return build_statement_task(
        parsed, context, read_split=split, questions=parsed.questions, answers=LABELS, judge=_judge
    )


def split(folder: Path, name: str) -> list[Example]:
    """Read the examples of one split; those of one sentence share a key."""
    path = folder / "nlvr2" / f"{name}.json"
    images = f"nlvr2/{first_existing(folder / 'nlvr2', f'images/{name}', name)}"
    numbered = name == "train" and any(folder.joinpath(images).glob("[0-9]*/"))

    def make(line: Any) -> Example:
        part, group, pair, sentence = line["identifier"].split("-")
        place = f"{images}/{line['directory']}" if numbered else images
        return Example(
            tuple(f"{place}/{part}-{group}-{pair}-img{side}.png" for side in (0, 1)),
            f"{line['sentence'].strip()} : ",
            (str(line["label"]).lower(),),
            f"{part}-{group}-{sentence}",
        )

    return parse_records(path, partial(read_lines, path), make)


def _judge(questions: Sequence[Example], codec: TextCodec) -> Judge:
    answers = answers_by_first_token(codec, LABELS)
    pairs = Counter(example.key for example in questions)

    def judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
        by_sentence: dict[str, list[bool]] = defaultdict(list)
        for example, text in zip(examples, written, strict=True):
            by_sentence[example.key].append(answers.get(text) == example.answers[0])
        metrics = {"accuracy": fraction([correct for each in by_sentence.values() for correct in each])}
        complete = [all(each) for key, each in by_sentence.items() if len(each) == pairs[key]]
        return metrics | ({"consistency": fraction(complete)} if complete else {})

    return judge
