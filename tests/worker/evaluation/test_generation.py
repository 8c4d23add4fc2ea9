"""Greedy decoding generates the answers a model has learned; beam search finds the most probable ones."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.jobs import tiny_coca
from worker.data.base import Writing
from worker.data.digits.dataset import build_digits
from worker.data.digits.text import TOKEN_IDS
from worker.distill.modular import ModularModel
from worker.distill.teacher import Teacher
from worker.engine.process_group import ProcessGroup
from worker.errors import RecipeError
from worker.evaluation.generation import Generator
from worker.models.open_clip.coca import CoCaAdapter
from worker.recipe.recipe import BUILT_IN, read_recipe
from worker.setup.build import build
from worker.setup.models import Models, load_models

END = TOKEN_IDS["<end>"]


@pytest.fixture(scope="module")
def digits(process_group: ProcessGroup) -> tuple[Models, Generator, Generator]:
    """Teacher and student generators; the student has all of the teacher's layers."""
    built_in = read_recipe(BUILT_IN, {"student.keep": {}, "deepspeed": {"zero_optimization": {"stage": 1}}})
    models = load_models(built_in)
    components = build(built_in, models, process_group)
    return (
        models,
        Generator.for_teacher(components.teacher, process_group),
        Generator.for_student(components.engine, components.planner, process_group),
    )


def tiny(process_group: ProcessGroup) -> Generator:
    teacher = Teacher(ModularModel(tiny_coca.coca(3), CoCaAdapter(), {}), process_group.device, torch.float32)
    return Generator.for_teacher(teacher, process_group)


def prompts(*lengths: int) -> dict[str, torch.Tensor]:
    """Return texts of eight tokens with prompts of these lengths, including the start token."""
    answer = torch.zeros(len(lengths), 8, dtype=torch.bool)
    for row, length in enumerate(lengths):
        answer[row, length:] = True
    return {name: tensor[: len(lengths)] for name, tensor in tiny_coca.batch(0).items()} | {"answer": answer}


def test_greedy_decoding_is_right_where_every_token_is_right_after_the_true_ones(
    digits: tuple[Models, Generator, Generator],
) -> None:
    data = build_digits({})
    batch = data.questions.batch(np.arange(256))
    captions = data.held_out.batch(np.arange(64))
    models, teacher, student = digits
    for rows in (batch, captions):
        with torch.no_grad():
            logits = models.teacher.model.eval()(rows["image"], rows["text"])["logits"]
        right = sum(data.metrics(logits, rows)[f"accuracy/{kind}"][0] for kind in data.kinds)
        expected = [
            [int(token) for token in text[answer] if token != END]
            for text, answer in zip(rows["text"], rows["answer"], strict=True)
        ]
        for generator in (teacher, student):
            answers = generator.generate(rows, Writing(end=END, most=15), pad=0)
            assert sum(map(operator.eq, answers, expected)) == right
    assert right > 0.8 * len(expected)


def test_rows_are_generated_independently(process_group: ProcessGroup) -> None:
    generator, batch, writing = tiny(process_group), prompts(1, 5, 3, 7), Writing(end=15, most=6, beams=2)
    together = generator.generate(batch, writing, pad=0)
    for row, tokens in enumerate(together):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        # The row's own answer is not read.
        alone["text"] = torch.where(alone["answer"], 9, alone["text"])
        assert generator.generate(alone, writing, pad=0) == [tokens]
    assert [len(tokens) for tokens in together] == [min(6, 8 - length) for length in (1, 5, 3, 7)]


def test_a_beam_as_wide_as_the_vocabulary_finds_the_most_probable_text(process_group: ProcessGroup) -> None:
    generator, batch = tiny(process_group), prompts(4, 4)
    batch = {name: tensor[:2] for name, tensor in batch.items()}
    words = list(range(1, 16))
    pairs = [pair for pair in itertools.product(words, words) if pair[0] != 15] + [(15, 0)]
    best = generator.generate(batch, Writing(end=15, most=2, beams=16), pad=0)
    for row in range(2):
        text = batch["text"][row].repeat(len(pairs), 1)
        text[:, 4:6], text[:, 6:] = torch.tensor(pairs), 0
        image = batch["image"][row : row + 1].expand(len(pairs), -1, -1, -1)
        logits = generator.run(["image", "text", "multimodal"], {"image": image, "text": text}, {}).logits
        assert logits is not None
        logits[..., 0] = float("-inf")
        log_probabilities = logits[:, 3:5].log_softmax(-1).gather(2, text[:, 4:6, None]).squeeze(2)
        mean = torch.where(text[:, 5] == 0, log_probabilities[:, 0], log_probabilities.mean(1))
        assert best[row] == [word for word in pairs[int(mean.argmax())] if word not in (0, 15)]


def test_the_most_probable_choice_is_taken(process_group: ProcessGroup) -> None:
    generator, batch = tiny(process_group), prompts(2, 3, 4)
    for choices in ((5, 9), (7,)):
        tokens = generator.generate(batch, Writing(end=15, most=1, choices=choices), pad=0)
        assert all(len(row) == 1 and row[0] in choices for row in tokens)
    assert tokens == [[7]] * 3


def test_a_text_ends_where_the_end_token_is_also_the_padding(process_group: ProcessGroup) -> None:
    generator, batch = tiny(process_group), prompts(1, 2, 3, 4)
    batch["attention_mask"] = torch.ones_like(batch["text"])
    endless = generator.generate(batch, Writing(end=-1, most=9), pad=0)
    end = endless[0][1]
    for pad in (0, end):
        expected = [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in endless]
        assert generator.generate(batch, Writing(end=end, most=9), pad=pad) == expected


def test_a_mask_of_the_batch_does_not_show_where_the_answer_ends(process_group: ProcessGroup) -> None:
    generator, batch = tiny(process_group), prompts(2, 3)
    masks: list[torch.Tensor] = []

    def run(modules: Any, inputs: Any, known: Any) -> Any:
        if modules != ["image"]:
            masks.append(inputs["attention_mask"])
            assert inputs["attention_mask"].shape == inputs["text"].shape
        return generator.run(modules, inputs, known)

    batch["attention_mask"] = torch.ones_like(batch["text"])
    Generator(run, generator.modules, process_group).generate(batch, Writing(end=-1, most=2), pad=0)
    assert [mask.sum(1).tolist() for mask in masks] == [[2, 3], [3, 4]]


def test_a_teacher_with_texts_of_its_own_generates_none(process_group: ProcessGroup) -> None:
    batch = prompts(2, 3)
    batch["teacher/text"] = batch["text"]
    with pytest.raises(RecipeError, match="text is generated by teacher and student in one tokenization"):
        tiny(process_group).generate(batch, Writing(end=-1, most=2), pad=0)


def test_the_image_tower_runs_once_for_all_tokens(process_group: ProcessGroup) -> None:
    model = tiny_coca.coca(3)
    calls: list[Any] = []
    model.visual.register_forward_hook(lambda *_: calls.append(1))
    generator = Generator.for_teacher(
        Teacher(ModularModel(model, CoCaAdapter(), {}), process_group.device, torch.float32), process_group
    )
    generator.generate(prompts(1, 2), Writing(end=-1, most=5, beams=3), pad=0)
    assert len(calls) == 1
