"""COCO Captions in Karpathy's split (Chen et al. 2015, arXiv 1504.00325; Karpathy and Fei-Fei 2015, arXiv 1412.2306).

    data: {name: coco_captions, options: {folder: DATASETS}}

Reads ``coco/dataset_coco.json``, whose ``images`` have ``filepath`` (train2014 or val2014), ``filename``, ``split``
(train, restval, val, test) and ``sentences`` with their ``raw`` texts; the pictures are in ``coco/train2014`` and
``coco/val2014``. Training takes train and restval together, as is usual, and in each epoch one caption of each picture.

The model writes a caption by beam search, and the whole split's captions are judged by ``cider`` and ``bleu_4``
(``pycocoevalcap``, as COCO's own evaluation; 1.0 is what papers call 100).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from worker.data.base import Context, Writing
from worker.data.examples import Example
from worker.data.options import checked
from worker.data.tasks import caption_scores
from worker.data.tasks.base import TaskData, TaskOptions, folder_of, unchanged
from worker.data.tasks.published import made, read_json
from worker.data.tokens import Speech

FILE = Path("coco") / "dataset_coco.json"
SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


class CocoOptions(TaskOptions):
    """Options of COCO Captions."""

    questions: Literal["val", "test"] = "val"
    """The split that captions are judged on; the probe is always on val."""
    beams: int = Field(default=3, ge=1, le=32)
    """Captions that are followed at a time while one is written."""
    most: int = Field(default=30, ge=2)
    """Tokens of a caption that is written, at most."""


def build_coco_captions(options: Mapping[str, Any], context: Context) -> TaskData:
    """COCO Captions. Raises ValueError, in one sentence, on wrong options, on a file that is not as published, and
    where captions cannot be judged."""
    given = checked(CocoOptions, options, "coco_captions")
    caption_scores.check()
    splits = read(folder_of(given, context))
    return TaskData(
        given,
        context,
        kinds=("caption",),
        train=splits["train"],
        held_out=splits["val"],
        questions=splits[given.questions],
        said=unchanged,
        judge=lambda speech: _judge,
        writing=lambda speech: _writing(given, speech),
    )


def read(folder: Path) -> dict[str, list[Example]]:
    """The examples of train, val and test: one for each picture, with all of its captions."""
    path = folder / FILE

    def make(image: Any) -> tuple[str, Example]:
        captions = tuple(" ".join(sentence["raw"].split()) for sentence in image["sentences"])
        picture = f"{image['filepath']}/{image['filename']}"
        return SPLITS[image["split"]], Example((f"coco/{picture}",), "", captions, picture)

    splits: dict[str, list[Example]] = {name: [] for name in SPLITS.values()}
    for name, example in made(path, lambda: read_json(path)["images"], make):
        splits[name].append(example)
    empty = [name for name, examples in splits.items() if not examples]
    if empty:
        raise ValueError(f"{path} has no picture in the split {empty[0]}")
    return splits


def _writing(given: CocoOptions, speech: Speech) -> Writing:
    return Writing(end=speech.end, most=given.most, beams=given.beams)


def _judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
    return caption_scores.scores(written, [example.answers for example in examples])
