"""NLVR2: is a sentence true of two photographs? (Suhr et al. 2019, arXiv 1811.00491)

    data: {name: nlvr2, options: {folder: DATASETS}}

Reads ``nlvr2/{train,dev,test1}.json``, a JSON object a line with ``identifier`` (split-set-pair-sentence), ``sentence``
and ``label``: as in nlvr2/data of github.com/lil-lab/nlvr. The pictures of "split-set-pair-sentence" are
"split-set-pair-img0.png", the left one, and "…-img1.png", under ``nlvr2/images/train`` (there in folders numbered by
the line's ``directory``, or without), and ``nlvr2/dev`` and ``nlvr2/test1`` or those under ``nlvr2/images``.

The two pictures are put on one canvas, the left above the right (see worker/data/pictures.py): the decoder looks at
pictures without knowing their order, so with two passes of the image tower nothing would tell left from right. The
model reads "<sentence> : " and answers true or false; the likelier is its answer. ``accuracy`` is the share of right
ones, ``consistency`` that of sentences which are judged rightly of all their pairs (nlvr2/eval/metrics.py there),
among the sentences all of whose pairs were measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from worker.data.base import Context
from worker.data.examples import Example
from worker.data.options import checked
from worker.data.tasks.base import Judge, TaskData, TaskOptions, closed, first_word, folder_of, share, unchanged
from worker.data.tasks.published import first_there, made, read_lines
from worker.data.tokens import Speech

LABELS = ("true", "false")


class Nlvr2Options(TaskOptions):
    """Options of NLVR2."""

    questions: Literal["dev", "test1"] = "dev"
    """The split that the accuracy is taken on; the probe is always on dev."""


def build_nlvr2(options: Mapping[str, Any], context: Context) -> TaskData:
    """NLVR2. Raises ValueError, in one sentence, on wrong options and on files that are not as published."""
    given = checked(Nlvr2Options, options, "nlvr2")
    folder = folder_of(given, context)
    dev = split(folder, "dev")
    questions = dev if given.questions == "dev" else split(folder, given.questions)
    pairs: dict[str, int] = defaultdict(int)
    for example in questions:
        pairs[example.key] += 1
    return TaskData(
        given,
        context,
        kinds=("statement",),
        train=split(folder, "train"),
        held_out=dev,
        questions=questions,
        said=unchanged,
        judge=partial(_judge, dict(pairs)),
        writing=closed(LABELS),
    )


def split(folder: Path, name: str) -> list[Example]:
    """The examples of one split, those of one sentence under one key."""
    path = folder / "nlvr2" / f"{name}.json"
    images = f"nlvr2/{first_there(folder / 'nlvr2', f'images/{name}', name)}"
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

    return made(path, partial(read_lines, path), make)


def _judge(pairs: Mapping[str, int], speech: Speech) -> Judge:
    answers = first_word(speech, LABELS)

    def judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
        of: dict[str, list[bool]] = defaultdict(list)
        for example, text in zip(examples, written, strict=True):
            of[example.key].append(answers.get(text) == example.answers[0])
        found = {"accuracy": share([right for one in of.values() for right in one])}
        whole = [all(one) for key, one in of.items() if len(one) == pairs[key]]
        return found | ({"consistency": share(whole)} if whole else {})

    return judge
