"""SNLI-VE: does a picture entail a sentence, contradict it, or neither? (Xie et al. 2019, arXiv 1901.06706)

    data: {name: snli_ve, options: {folder: DATASETS}}

Reads ``snli_ve/snli_ve_{train,dev,test}.jsonl``, a line for each pair with ``Flickr30K_ID`` (the picture's name without
``.jpg``), ``sentence2`` (the hypothesis) and ``gold_label``: as github.com/necla-ml/SNLI-VE writes them
(vet/tools/snli_ve_generator.py). ``sentence1``, a caption of the picture, is not read: the picture is the premise. The
pictures are Flickr30k's, in ``flickr30k/flickr30k-images`` or, as AllenNLP's archive calls it, ``flickr30k_images``.

The model reads "<hypothesis> : " and answers yes, maybe or no, as in the digits' statements; of these three the
likeliest is its answer. ``accuracy`` is the share of right ones.
"""

from __future__ import annotations

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

LABELS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}


class SnliVeOptions(TaskOptions):
    """Options of SNLI-VE."""

    questions: Literal["dev", "test"] = "dev"
    """The split that the accuracy is taken on; the probe is always on dev."""


def build_snli_ve(options: Mapping[str, Any], context: Context) -> TaskData:
    """SNLI-VE. Raises ValueError, in one sentence, on wrong options and on files that are not as published."""
    given = checked(SnliVeOptions, options, "snli_ve")
    folder = folder_of(given, context)
    dev = split(folder, "dev")
    return TaskData(
        given,
        context,
        kinds=("statement",),
        train=split(folder, "train"),
        held_out=dev,
        questions=dev if given.questions == "dev" else split(folder, given.questions),
        said=unchanged,
        judge=_judge,
        writing=closed(tuple(LABELS.values())),
    )


def split(folder: Path, name: str) -> list[Example]:
    """The examples of one split. Pairs without a gold label ("-"), which the published files leave out, are too."""
    path = folder / "snli_ve" / f"snli_ve_{name}.jsonl"
    pictures = f"flickr30k/{first_there(folder / 'flickr30k', 'flickr30k-images', 'flickr30k_images')}"

    def make(line: Any) -> Example | None:
        picture = str(line["Flickr30K_ID"]).removesuffix(".jpg")
        if line["gold_label"] == "-":
            return None
        return Example(
            (f"{pictures}/{picture}.jpg",), f"{line['sentence2'].strip()} : ", (LABELS[line["gold_label"]],), picture
        )

    return made(path, partial(read_lines, path), make)


def _judge(speech: Speech) -> Judge:
    answers = first_word(speech, tuple(LABELS.values()))

    def judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
        return {"accuracy": share([answers.get(t) == e.answers[0] for e, t in zip(examples, written, strict=True)])}

    return judge
