"""COCO Captions in Karpathy's split (Chen et al. 2015, arXiv 1504.00325; Karpathy and Fei-Fei 2015, arXiv 1412.2306).

    data: {name: coco_captions, options: {folder: DATASETS}}

The file is ``coco/dataset_coco.json``. Its ``images`` have ``filepath`` (train2014 or val2014), ``filename``,
``split`` (train, restval, val, test) and ``sentences`` with a ``raw`` text each; the pictures are in
``coco/train2014`` and ``coco/val2014``. Training uses train and restval together, as is usual, and one caption of each
picture per epoch.

The model generates captions by beam search, and those of the whole split are judged by ``cider`` and ``bleu_4``
(``pycocoevalcap``, as COCO's own evaluation; 1.0 is what papers call 100).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from worker.data.base import Context, Writing
from worker.data.examples import Example
from worker.data.options import parse_options
from worker.data.tasks import caption_scores
from worker.data.tasks.base import TaskData, TaskOptions, dataset_folder, published_answer
from worker.data.tasks.published import parse_records, read_json
from worker.data.tokens import TextCodec

FILE = Path("coco") / "dataset_coco.json"
SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


class CocoOptions(TaskOptions):
    """Options of COCO Captions."""

    questions: Literal["val", "test"] = "val"
    """The split for the task metrics; the probe is always on val."""
    beams: int = Field(default=3, ge=1, le=32)
    """Width of the beam search."""
    most: int = Field(default=30, ge=2)
    """Maximum number of tokens of a generated caption."""


def build_coco_captions(options: Mapping[str, Any], context: Context) -> TaskData:
    """Build the data module of COCO Captions.

    Raises:
        ValueError: An option is wrong, a file is missing or not as published, or pycocoevalcap or Java is missing.
    """
    parsed = parse_options(CocoOptions, options, "coco_captions")
    caption_scores.check()
    splits = read(dataset_folder(parsed, context))
    return TaskData(
        parsed,
        context,
        kinds=("caption",),
        train=splits["train"],
        held_out=splits["val"],
        questions=splits[parsed.questions],
        answer_text=published_answer,
        judge=lambda codec: _judge,
        writing=lambda codec: _writing(parsed, codec),
    )


def read(folder: Path) -> dict[str, list[Example]]:
    """Read the examples of train, val and test: one per picture, with all of its captions."""
    path = folder / FILE

    def make(image: Any) -> tuple[str, Example]:
        captions = tuple(" ".join(sentence["raw"].split()) for sentence in image["sentences"])
        picture = f"{image['filepath']}/{image['filename']}"
        return SPLITS[image["split"]], Example((f"coco/{picture}",), "", captions, picture)

    splits: dict[str, list[Example]] = {name: [] for name in SPLITS.values()}
    for name, example in parse_records(path, lambda: read_json(path)["images"], make):
        splits[name].append(example)
    empty = [name for name, examples in splits.items() if not examples]
    if empty:
        raise ValueError(f"{path} has no picture in the split {empty[0]}")
    return splits


def _writing(options: CocoOptions, codec: TextCodec) -> Writing:
    return Writing(end=codec.end, most=options.most, beams=options.beams)


def _judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
    return caption_scores.scores(written, [example.answers for example in examples])
