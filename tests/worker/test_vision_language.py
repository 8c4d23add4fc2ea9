"""A LLaVA from pretraining to the answers of its student: docs/vision-language.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Pull
from worker.data.digits.dataset import DigitsData, build_digits
from worker.data.digits.llava import Example, examples
from worker.data.digits.rows import Collages
from worker.distill.arms import JOINT
from worker.engine.process_group import ProcessGroup
from worker.pretrain.__main__ import KNOWN, main
from worker.pretrain.llava import Llava, processor
from worker.pretrain.training import evaluate
from worker.recipe.recipe import BUILT_IN, read_recipe
from worker.setup.build import build
from worker.setup.models import load_models
from worker.training.metrics import RoundRecord
from worker.training.trainer import Trainer

TEACHER = KNOWN["vlm"]
RECIPE = BUILT_IN.parent / "digits-vlm.yaml"
WORDS = {"yes", "no", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}


@pytest.fixture(scope="module")
def data() -> DigitsData:
    return build_digits({"batches": "llava"})


def ask(directory: Path, asked: Sequence[Example]) -> list[str]:
    """Return the answers that a model generates, as its user would let it: by transformers alone."""
    read: Any = transformers.AutoProcessor.from_pretrained(directory)  # type: ignore[no-untyped-call]
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(directory)
    inputs = read(
        images=[one.picture for one in asked], text=[one.prompt for one in asked], return_tensors="pt", padding=True
    )
    generated = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    answers: list[str] = read.batch_decode(generated, skip_special_tokens=True)
    return answers


def questions(rows: Collages, count: int) -> list[Example]:
    return list(examples(rows.batch(np.arange(count))))


def test_the_shipped_teacher_generates_its_recorded_accuracy(data: DigitsData) -> None:
    recorded = json.loads((TEACHER / "metrics.json").read_text())["held_out"]["accuracy"]
    assert recorded >= 0.8
    asked = questions(data.questions, 300)
    answers = ask(TEACHER, asked)
    right = sum(answer == one.answer for answer, one in zip(answers, asked, strict=True))
    teacher = Llava(transformers.LlavaForConditionalGeneration.from_pretrained(TEACHER))
    measured = evaluate(teacher, data, data.questions, most=300)["accuracy"]
    assert right / 300 == pytest.approx(measured), "greedy decoding is right where every token is, given those before"
    assert measured == pytest.approx(recorded, abs=0.04), "of 300 of the 4,000 questions"
    # A text as a person writes it, and one with an unknown word.
    picture = asked[0].picture.resize((64, 64))
    free = [Example(picture, f"<image>{text}", "") for text in ("what is top left?", "is there some three?")]
    assert set(ask(TEACHER, free)) <= WORDS


def test_the_processor_reads_pictures_and_texts_as_the_data_does(data: DigitsData) -> None:
    batch = data.train.batch(np.arange(16))
    read = processor()
    for row, one in enumerate(examples(batch)):
        inputs = read(images=one.picture, text=f"{one.prompt} {one.answer}", return_tensors="pt")
        token_ids = inputs["input_ids"][0]
        assert torch.equal(token_ids, batch["input_ids"][row, : len(token_ids)])
        assert batch["input_ids"][row, len(token_ids)] == read.tokenizer.eos_token_id
        assert torch.allclose(inputs["pixel_values"][0], batch["pixel_values"][row], atol=1e-6)


class InTurn:
    """A chooser that plays every arm once, and then joint."""

    def __init__(self, arms: Sequence[str]) -> None:
        self._arms = [*arms, JOINT]
        self.records: list[RoundRecord] = []

    def select(self, round: int) -> Pull:
        return Pull(self._arms[round], round, pb.CHOSEN_BY_POLICY)

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> None:
        self.records.append(record)


def distil(process_group: ProcessGroup, output: Path) -> tuple[InTurn, float]:
    """Distil the recipe's student with a few steps on each arm, export it, and return rounds and accuracy."""
    common = {"rounds": 5, "steps_per_round": 2, "data.batch_size": 16, "probe.batch_size": 32, "probe.questions": 128}
    recipe = read_recipe(RECIPE, common).fixed(2, probe_batches=1, evaluate_every=10**9)
    models = load_models(recipe)
    components = build(recipe, models, process_group)
    components.dry_run.check_arms(repeats=0)
    chooser = InTurn(list(models.arms))
    trainer = Trainer(
        recipe, components, components.probe(recipe.probe), components.batches(recipe.data), chooser=chooser
    )
    trainer.run()
    models.exported.export(models.student.model.state_dict(), output)
    evaluation = chooser.records[-1].evaluation
    assert evaluation is not None
    return chooser, evaluation.metrics["accuracy"]


@pytest.mark.deepspeed
def test_the_recipes_student_is_distilled_module_by_module_exported_and_answers(
    process_group: ProcessGroup, data: DigitsData, tmp_path: Path
) -> None:
    chooser, accuracy = distil(process_group, tmp_path / "out")
    assert [record.arm for record in chooser.records] == ["image", "lower", "middle", "upper", JOINT]
    assert all(record.after is not None for record in chooser.records)
    asked = questions(data.questions, 128)
    answers = ask(tmp_path / "out", asked)
    right = sum(answer == one.answer for answer, one in zip(answers, asked, strict=True))
    assert right / 128 == pytest.approx(accuracy)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["vision_config"]["num_hidden_layers"], config["text_config"]["num_hidden_layers"]) == (2, 3)
    assert not config.keys() & {"optima", "worker"}


def test_the_command_pretrains_a_llava_that_transformers_loads(tmp_path: Path) -> None:
    config = json.loads((TEACHER / "config.json").read_text())
    for section in ("vision_config", "text_config"):
        config[section]["num_hidden_layers"] = 1
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    flags = ["--model", str(tmp_path / "tiny"), "--output", str(out), "--steps", "2", "--batch", "4"]
    main(flags)
    assert json.loads((out / "metrics.json").read_text())["versions"].keys() >= {"transformers", "torch"}
    asked = questions(build_digits({"batches": "llava"}).questions, 4)
    assert len(ask(out, asked)) == 4
    with pytest.raises(SystemExit, match=r"already holds a model\.safetensors; choose another --output"):
        main(flags)
