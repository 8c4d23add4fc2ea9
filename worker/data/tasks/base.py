"""A published task as data: examples to train on, to measure on, and a judge of what a model answers.

CoCa is a model of texts about pictures, so every task is text: a question, a statement or nothing, and behind it the
answer, as in the digits. Nothing is added to the model (no head of classes), so that a student is exported as what it
was cut from, and one way in serves every family that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from worker.data.base import Context, Writing
from worker.data.examples import Example, Examples, Said, ordered
from worker.data.pairs import stack
from worker.data.pictures import Eye
from worker.data.shuffled import Shuffled
from worker.data.tokens import Speech
from worker.errors import DataError

Judge = Callable[[Sequence[Example], Sequence[str]], dict[str, float]]
"""(examples, what was written of each) -> task metrics."""


class TaskOptions(BaseModel):
    """Options of every published task."""

    model_config = ConfigDict(extra="forbid")

    folder: str
    """Where the datasets are, relative to the recipe; one folder serves all tasks (docs/reproduce-the-paper.md)."""
    augment: bool = False
    """Whether training pictures go through the model family's random crops."""
    seed: int = Field(default=0, ge=0)
    """Of all orders, crops and choices among several answers."""


class TaskData:
    """The data module; see ``worker.data.base.DataModule`` and ``Judged`` for what its fields mean.

    Args:
        options: The task's.
        context: The recipe's.
        kinds: Kinds of examples.
        train: Examples to train on.
        held_out: Examples for the probe.
        questions: Examples for the task metrics.
        said: (example, which of its answers) -> what the model is to say.
        judge: Takes the task metrics.
        writing: How the model writes, by its tokens.

    Raises:
        ValueError: The pictures are not where they are expected, or the model's tokenizer does not serve.
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
        said: Said,
        judge: Callable[[Speech], Judge],
        writing: Callable[[Speech], Writing],
    ) -> None:
        inputs, folder = context.inputs(), folder_of(options, context)
        self.kinds = kinds
        self.pad_id, self.vocab_size, self.context_length = inputs.pad_id, inputs.vocab_size, inputs.context_length
        self._speech = Speech.of(inputs)
        self.writing, self._judge = writing(self._speech), judge(self._speech)
        plain = Eye(folder, inputs.picture(augmented=False))
        eye = Eye(folder, inputs.picture(augmented=True)) if options.augment else plain

        def rows(examples: Sequence[Example], eye: Eye) -> Examples:
            found = Examples(examples, eye, self._speech, said, options.seed)
            try:
                # Better now than when the models are on their devices.
                found[0]
            except DataError as error:
                raise ValueError(str(error)) from None
            return found

        self.train = Shuffled(rows(train, eye), options.seed)
        self.held_out = rows(ordered(held_out), plain)
        self.questions = rows(ordered(questions), plain)

    def judge(self, written: Mapping[int, Sequence[int]]) -> dict[str, float]:
        rows = sorted(written)
        return self._judge(
            [self.questions.examples[row] for row in rows], [self._speech.spoken(written[r]) for r in rows]
        )


def folder_of(options: TaskOptions, context: Context) -> Path:
    """Where the datasets are."""
    return context.directory / options.folder


def closed(answers: Sequence[str]) -> Callable[[Speech], Writing]:
    """Of a few answers the likeliest is taken, by its first word: what a classifier does."""

    def writing(speech: Speech) -> Writing:
        firsts = [speech.tokens(answer)[0] for answer in answers]
        if len(set(firsts)) < len(firsts):
            raise ValueError(f"the model's tokenizer cannot tell {', '.join(answers)} apart by their first tokens")
        return Writing(end=speech.end, most=1, choices=tuple(firsts))

    return writing


def first_word(speech: Speech, answers: Sequence[str]) -> dict[str, str]:
    """Each of a few answers by what is spoken of its first token."""
    return {speech.spoken(speech.tokens(answer)[:1]): answer for answer in answers}


def share(right: Sequence[bool]) -> float:
    """How many are true, in [0, 1]."""
    return sum(right) / len(right)


def unchanged(example: Example, answer: int) -> str:
    """For answers that are said as the files have them."""
    return example.answers[answer]
