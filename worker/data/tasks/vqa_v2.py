"""VQA v2: an open question about a photograph, answered in a word or two (Goyal et al. 2017, arXiv 1612.00837).

    data: {name: vqa_v2, options: {folder: DATASETS}}

The files are ``vqa_v2/v2_OpenEnded_mscoco_{train2014,val2014}_questions.json`` (``questions``: ``question_id``,
``image_id``, ``question``) and ``vqa_v2/v2_mscoco_{train2014,val2014}_annotations.json`` (``annotations``:
``question_id``, ``multiple_choice_answer``, ``answer_type``, ten ``answers`` with their ``answer``), as published on
visualqa.org. The pictures are COCO's, ``coco/train2014/COCO_train2014_%012d.jpg`` and so on. The answers of the test
split are not published, so the accuracy is measured on val2014.

The model reads "<question> " and generates the answer greedily, from its whole vocabulary. Each epoch of training uses
one of the ten people's answers, normalised as the scorer does. ``accuracy`` is the VQA accuracy (vqa_accuracy.py),
overall and by answer type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from worker.data.base import Context, Writing
from worker.data.examples import Example
from worker.data.options import parse_options
from worker.data.tasks.base import Judge, TaskData, TaskOptions, dataset_folder
from worker.data.tasks.published import parse_records, read_json
from worker.data.tasks.vqa_accuracy import accuracy, normalised, unanimous
from worker.data.tokens import TextCodec

KINDS = {"yes/no": "yes_no", "number": "number", "other": "other"}
"""Names of metrics by ``answer_type``."""
MOST = 10
"""Maximum number of tokens of an answer; hardly any published one has more."""


class VqaOptions(TaskOptions):
    """Options of VQA v2."""


def build_vqa_v2(options: Mapping[str, Any], context: Context) -> TaskData:
    """Build the data module of VQA v2.

    Raises:
        ValueError: An option is wrong, or a file is missing or not as published.
    """
    parsed = parse_options(VqaOptions, options, "vqa_v2")
    folder = dataset_folder(parsed, context)
    val = split(folder, "val2014")
    return TaskData(
        parsed,
        context,
        kinds=tuple(KINDS.values()),
        train=split(folder, "train2014"),
        held_out=val,
        questions=val,
        answer_text=answer_text,
        judge=_judge,
        writing=lambda codec: Writing(end=codec.end, most=MOST),
    )


def split(folder: Path, name: str) -> list[Example]:
    """Read the examples of one split. The commonest of the ten answers is first; those of one picture share a key."""
    questions = folder / "vqa_v2" / f"v2_OpenEnded_mscoco_{name}_questions.json"
    answers = folder / "vqa_v2" / f"v2_mscoco_{name}_annotations.json"
    annotations = dict(
        parse_records(
            answers, lambda: read_json(answers)["annotations"], lambda record: (record["question_id"], _answers(record))
        )
    )

    def make(question: Any) -> Example | None:
        if question["question_id"] not in annotations:
            return None
        people, kind = annotations[question["question_id"]]
        picture = f"coco/{name}/COCO_{name}_{question['image_id']:012d}.jpg"
        return Example((picture,), f"{question['question'].strip()} ", people, str(question["image_id"]), kind)

    return parse_records(questions, lambda: read_json(questions)["questions"], make)


def answer_text(example: Example, answer: int) -> str:
    """Return an answer as the scorer will compare it; if normalising leaves nothing ("a"), the answer itself."""
    text = example.answers[answer]
    return text if unanimous(example.answers) else normalised(text) or text


def _answers(annotation: Any) -> tuple[tuple[str, ...], int]:
    ten = [answer["answer"] for answer in annotation["answers"]]
    commonest = annotation["multiple_choice_answer"]
    return tuple(sorted(ten, key=lambda answer: answer != commonest)), list(KINDS).index(annotation["answer_type"])


def _judge(codec: TextCodec) -> Judge:
    @cache
    def respell(answer: str) -> str:
        """Encode and decode an answer: CLIP's tokenizer turns "2.5" into "2 . 5"."""
        return codec.decode(codec.encode(answer))

    def judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
        scores: dict[str, list[float]] = {"accuracy": [], **{f"accuracy/{kind}": [] for kind in KINDS.values()}}
        for example, text in zip(examples, written, strict=True):
            score = accuracy(text, example.answers, respell)
            scores["accuracy"].append(score)
            scores[f"accuracy/{list(KINDS.values())[example.kind]}"].append(score)
        return {name: sum(values) / len(values) for name, values in scores.items() if values}

    return judge
