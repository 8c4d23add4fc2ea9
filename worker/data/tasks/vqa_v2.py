"""VQA v2: an open question about a photograph, answered in a word or two (Goyal et al. 2017, arXiv 1612.00837).

    data: {name: vqa_v2, options: {folder: DATASETS}}

Reads ``vqa_v2/v2_OpenEnded_mscoco_{train2014,val2014}_questions.json`` (``questions``: ``question_id``, ``image_id``,
``question``) and ``vqa_v2/v2_mscoco_{train2014,val2014}_annotations.json`` (``annotations``: ``question_id``,
``multiple_choice_answer``, ``answer_type``, ten ``answers`` with their ``answer``), as published on visualqa.org; the
pictures are COCO's, ``coco/train2014/COCO_train2014_%012d.jpg`` and so on. The answers of the test split are not
published: the accuracy is taken on val2014.

The model reads "<question> " and writes the answer greedily, any words it likes. Training shows it in each epoch one of
the ten people's answers, as the scorer compares them. ``accuracy`` is the VQA accuracy (vqa_accuracy.py), over all
and by answer type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from worker.data.base import Context, Writing
from worker.data.examples import Example
from worker.data.options import checked
from worker.data.tasks.base import Judge, TaskData, TaskOptions, folder_of
from worker.data.tasks.published import made, read_json
from worker.data.tasks.vqa_accuracy import accuracy, normalised, unanimous
from worker.data.tokens import Speech

KINDS = {"yes/no": "yes_no", "number": "number", "other": "other"}
"""Names of metrics by ``answer_type``."""
MOST = 10
"""Tokens of an answer, at most; of the published ones hardly any has more."""


class VqaOptions(TaskOptions):
    """Options of VQA v2."""


def build_vqa_v2(options: Mapping[str, Any], context: Context) -> TaskData:
    """VQA v2. Raises ValueError, in one sentence, on wrong options and on files that are not as published."""
    given = checked(VqaOptions, options, "vqa_v2")
    folder = folder_of(given, context)
    val = split(folder, "val2014")
    return TaskData(
        given,
        context,
        kinds=tuple(KINDS.values()),
        train=split(folder, "train2014"),
        held_out=val,
        questions=val,
        said=said,
        judge=_judge,
        writing=lambda speech: Writing(end=speech.end, most=MOST),
    )


def split(folder: Path, name: str) -> list[Example]:
    """The examples of one split. The commonest answer stands first among the ten; those of one picture share a key."""
    asked = folder / "vqa_v2" / f"v2_OpenEnded_mscoco_{name}_questions.json"
    answered = folder / "vqa_v2" / f"v2_mscoco_{name}_annotations.json"
    annotations = dict(
        made(answered, lambda: read_json(answered)["annotations"], lambda one: (one["question_id"], _answers(one)))
    )

    def make(question: Any) -> Example | None:
        if question["question_id"] not in annotations:
            return None
        answers, kind = annotations[question["question_id"]]
        picture = f"coco/{name}/COCO_{name}_{question['image_id']:012d}.jpg"
        return Example((picture,), f"{question['question'].strip()} ", answers, str(question["image_id"]), kind)

    return made(asked, lambda: read_json(asked)["questions"], make)


def said(example: Example, answer: int) -> str:
    """What the model is to say, as the scorer will compare it; where nothing is left ("a"), the answer itself."""
    given = example.answers[answer]
    return given if unanimous(example.answers) else normalised(given) or given


def _answers(annotation: Any) -> tuple[tuple[str, ...], int]:
    ten = [one["answer"] for one in annotation["answers"]]
    commonest = annotation["multiple_choice_answer"]
    return tuple(sorted(ten, key=lambda answer: answer != commonest)), list(KINDS).index(annotation["answer_type"])


def _judge(speech: Speech) -> Judge:
    @cache
    def spelt(answer: str) -> str:
        """As the model's tokens spell an answer: of CLIP's, "2.5" comes back as "2 . 5"."""
        return speech.spoken(speech.tokens(answer))

    def judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
        of: dict[str, list[float]] = {"accuracy": [], **{f"accuracy/{kind}": [] for kind in KINDS.values()}}
        for example, text in zip(examples, written, strict=True):
            score = accuracy(text, example.answers, spelt)
            of["accuracy"].append(score)
            of[f"accuracy/{list(KINDS.values())[example.kind]}"].append(score)
        return {name: sum(scores) / len(scores) for name, scores in of.items() if scores}

    return judge
