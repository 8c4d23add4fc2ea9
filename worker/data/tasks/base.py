"""A published task as a data module: examples for training and measuring, and a judge of the model's answers.

CoCa generates text about pictures, so every task is text: a question, a statement or nothing, followed by the answer,
as in the digits data. Nothing is added to the model (no classification head), so that a student is exported in the
format of its teacher, and the same data works for every family that generates text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from worker.data.base import Context, Writing
from worker.data.examples import AnswerText, Example, Examples, in_fixed_order
from worker.data.pairs import stack
from worker.data.pictures import ImageReader
from worker.data.preprocessing import Preprocessing, vocabulary_size
from worker.data.shuffled import Shuffled
from worker.data.tokens import TextCodec
from worker.errors import DataError

Judge = Callable[[Sequence[Example], Sequence[str]], dict[str, float]]
"""(examples, the text generated for each) -> task metrics."""


class TaskOptions(BaseModel):
    """Options that every published task has."""

    model_config = ConfigDict(extra="forbid")

    folder: str
    """The directory of the datasets, relative to the recipe; all tasks share one (docs/reproduce-the-paper.md)."""
    augment: bool = False
    """Whether training pictures are augmented by the model family's random crops."""
    seed: int = Field(default=0, ge=0)
    """Seed of all orders, crops and choices among several answers."""


class TaskData:
    """The data module of a task; its attributes are those of ``worker.data.base.DataModule`` and ``Judged``.

    Args:
        options: The task's options.
        context: The recipe's context.
        kinds: Names of the kinds of examples.
        train: Examples for training.
        held_out: Examples for the probe.
        questions: Examples for the task metrics.
        answer_text: (example, index of one of its answers) -> the text that the model should write.
        judge: Returns the judge for a model's codec.
        writing: Returns how a model with this codec generates answers.

    Raises:
        ValueError: The pictures are not where they are expected, or the model's tokenizer cannot be used.
    """

    collate = staticmethod(stack)

    def __init__(
        self,
        options: TaskOptions,
        context: Context,
        *,
        kinds: tuple[str, ...],
        train: Sequence[Example],
        held_out: Sequence[Example],
        questions: Sequence[Example],
        answer_text: AnswerText,
        judge: Callable[[TextCodec], Judge],
        writing: Callable[[TextCodec], Writing],
    ) -> None:
        preprocessing, folder = Preprocessing(context), dataset_folder(options, context)
        inputs, texts = preprocessing.student, preprocessing.texts()
        difference = texts.difference or (
            "" if texts.teacher_pad is None else f"the teacher pads with {texts.teacher_pad}, the student otherwise"
        )
        if difference:
            raise ValueError(
                f"teacher and student must have the same tokenizer for a task whose answers they generate, but "
                f"{difference}; use a student with the teacher's tokenizer"
            )
        self.kinds = kinds
        self.pad_id, self.context_length = inputs.pad_id, inputs.context_length
        self.vocab_size = vocabulary_size(texts.student, inputs.vocab_size)
        self._codec = TextCodec.from_inputs(inputs)
        self.writing, self._judge = writing(self._codec), judge(self._codec)
        plain = ImageReader(folder, preprocessing.image_transforms(augmented=False))
        augmented = ImageReader(folder, preprocessing.image_transforms(augmented=True)) if options.augment else plain

        def rows(examples: Sequence[Example], images: ImageReader) -> Examples:
            items = Examples(examples, images, self._codec, answer_text, options.seed)
            try:
                # Fail here rather than after the models were moved to their devices.
                items[0]
            except DataError as error:
                raise ValueError(str(error)) from None
            return items

        self.train = Shuffled(rows(train, augmented), options.seed)
        self.held_out = rows(in_fixed_order(held_out), plain)
        self.questions = rows(in_fixed_order(questions), plain)

    def judge(self, written: Mapping[int, Sequence[int]]) -> dict[str, float]:
        """Compute the task metrics of the generated answers."""
        rows = sorted(written)
        return self._judge(
            [self.questions.examples[row] for row in rows], [self._codec.decode(written[row]) for row in rows]
        )


def build_statement_task(
    options: TaskOptions,
    context: Context,
    *,
    read_split: Callable[[Path, str], list[Example]],
    questions: str,
    answers: Sequence[str],
    judge: Callable[[Sequence[Example], TextCodec], Judge],
) -> TaskData:
    """Build a task whose model chooses one of a few answers to a statement; the probe is always on "dev".

    Args:
        options: The task's options.
        context: The recipe's context.
        read_split: (directory of the datasets, name of a split) -> its examples.
        questions: The split for the task metrics.
        answers: The answers to choose among.
        judge: (examples of ``questions``, codec) -> the judge.
    """
    folder = dataset_folder(options, context)
    dev = read_split(folder, "dev")
    question_examples = dev if questions == "dev" else read_split(folder, questions)
    return TaskData(
        options,
        context,
        kinds=("statement",),
        train=read_split(folder, "train"),
        held_out=dev,
        questions=question_examples,
        answer_text=published_answer,
        judge=partial(judge, question_examples),
        writing=choose_among(answers),
    )


def dataset_folder(options: TaskOptions, context: Context) -> Path:
    """Return the directory of the datasets."""
    return context.directory / options.folder


def choose_among(answers: Sequence[str]) -> Callable[[TextCodec], Writing]:
    """Have a model choose the likeliest of a few answers by its first token, as a classifier does."""

    def writing(codec: TextCodec) -> Writing:
        first_tokens = [codec.encode(answer)[0] for answer in answers]
        if len(set(first_tokens)) < len(first_tokens):
            raise ValueError(f"with the model's tokenizer, two of {', '.join(answers)} begin with the same token")
        return Writing(end=codec.end, most=1, choices=tuple(first_tokens))

    return writing


def answers_by_first_token(codec: TextCodec, answers: Sequence[str]) -> dict[str, str]:
    """Return each of a few answers by the text of its first token."""
    return {codec.decode(codec.encode(answer)[:1]): answer for answer in answers}


def fraction(right: Sequence[bool]) -> float:
    """Return the fraction that is true, in [0, 1]."""
    return sum(right) / len(right)


def published_answer(example: Example, answer: int) -> str:
    """Return an answer unchanged, as it is in the files."""
    return example.answers[answer]
