"""SNLI-VE: whether a picture entails a sentence, contradicts it, or neither (Xie et al. 2019, arXiv 1901.06706).

    data: {name: snli_ve, options: {folder: DATASETS}}

The files are ``snli_ve/snli_ve_{train,dev,test}.jsonl``, as written by vet/tools/snli_ve_generator.py of
github.com/necla-ml/SNLI-VE: one line per pair with ``Flickr30K_ID`` (the picture's name without ``.jpg``),
``sentence2`` (the hypothesis) and ``gold_label``. ``sentence1``, a caption of the picture, is not read: the picture is
the premise. The pictures are Flickr30k's, in ``flickr30k/flickr30k-images`` or, as in AllenNLP's archive,
``flickr30k/flickr30k_images``.

The model reads "<hypothesis> : " and chooses the likeliest of yes, maybe and no, as for the statements of the digits
data. ``accuracy`` is the fraction of correct answers.
"""

from __future__ import annotations

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

LABELS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}


class SnliVeOptions(TaskOptions):
    """Options of SNLI-VE."""

    questions: Literal["dev", "test"] = "dev"
    """The split for the accuracy; the probe is always on dev."""


def build_snli_ve(options: Mapping[str, Any], context: Context) -> TaskData:
    """Build the data module of SNLI-VE.

    Raises:
        ValueError: An option is wrong, or a file is missing or not as published.
    """
    parsed = parse_options(SnliVeOptions, options, "snli_ve")
    return build_statement_task(
        parsed, context, read_split=split, questions=parsed.questions, answers=tuple(LABELS.values()), judge=_judge
    )


def split(folder: Path, name: str) -> list[Example]:
    """Read the examples of one split. Pairs without a gold label ("-") are left out, as in the published files."""
    path = folder / "snli_ve" / f"snli_ve_{name}.jsonl"
    pictures = f"flickr30k/{first_existing(folder / 'flickr30k', 'flickr30k-images', 'flickr30k_images')}"

    def make(line: Any) -> Example | None:
        picture = str(line["Flickr30K_ID"]).removesuffix(".jpg")
        if line["gold_label"] == "-":
            return None
        return Example(
            (f"{pictures}/{picture}.jpg",), f"{line['sentence2'].strip()} : ", (LABELS[line["gold_label"]],), picture
        )

    return parse_records(path, partial(read_lines, path), make)


def _judge(questions: Sequence[Example], codec: TextCodec) -> Judge:
    answers = answers_by_first_token(codec, tuple(LABELS.values()))

    def judge(examples: Sequence[Example], written: Sequence[str]) -> dict[str, float]:
        return {"accuracy": fraction([answers.get(t) == e.answers[0] for e, t in zip(examples, written, strict=True)])}

    return judge
