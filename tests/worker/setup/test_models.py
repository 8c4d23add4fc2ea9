"""Frozen parameters, and the modules that are arms by default."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.worker.models.tiny_families import Towers, directory
from worker.errors import RecipeError
from worker.output_dir import RECIPE_FILE, RUN_FILE, read_saved_recipe
from worker.recipe.recipe import Recipe, read_recipe, write_recipe
from worker.setup.models import Models, load_models

MODULES = """
modules:
  words: words
  below: {path: below, layers: below.*}
  above: {path: above, layers: above.*}
  head: head
"""
HERE = "tests.worker.setup.test_models"


def partly_frozen() -> nn.Module:
    torch.manual_seed(5)
    model = Towers()
    model.below.requires_grad_(False)
    model.above[0].weight.requires_grad_(False)
    return model


def wholly_frozen() -> nn.Module:
    return Towers().requires_grad_(False)


def read(where: Path, teacher: str, student: str, more: str = "") -> Recipe:
    path = where / "recipe.yaml"
    weights = ", weights: random" if teacher.startswith("hf") else ""
    path.write_text(
        f"teacher: {{model: '{teacher}'{weights}}}\nstudent: {student}\ndata: {{name: digits}}\n{more}",
        encoding="utf-8",
    )
    return read_recipe(path, {})


def load(where: Path, teacher: str, student: str, more: str = "") -> Models:
    return load_models(read(where, teacher, student, more))


def generic(where: Path, student: str, more: str = "train: active\n", teacher: str = "partly_frozen") -> Models:
    return load(where, f"{HERE}:{teacher}", student, MODULES + more)


def test_what_a_factory_froze_stays_frozen(tmp_path: Path) -> None:
    made = generic(tmp_path, f"{{model: '{HERE}:partly_frozen'}}")
    below = [f"below.{i}.0.{name}" for i in range(4) for name in ("weight", "bias")]
    assert list(made.ownership.frozen) == [*below, "above.0.weight"]
    assert made.ownership.owned["below"] == ()
    assert "above.0.weight" not in made.ownership.owned["above"]
    assert list(made.arms) == ["words", "above", "head"]
    (sentence,) = made.left_out
    assert sentence.startswith("no arm below: all parameters of below are frozen (see `student.freeze`)")


def test_a_student_cut_from_a_teacher_has_what_is_frozen_in_it_unless_that_is_everything(tmp_path: Path) -> None:
    kept = "{keep: {above: 2}}"
    assert "below.0.0.weight" in generic(tmp_path, kept).ownership.frozen
    assert generic(tmp_path, kept, teacher="wholly_frozen").ownership.frozen == ()
    with pytest.raises(RecipeError, match=r"the student has nothing to train: all parameters of words, .* are frozen"):
        generic(tmp_path, f"{{model: '{HERE}:wholly_frozen'}}")


def test_a_recipe_freezes_modules_and_parameters(tmp_path: Path) -> None:
    student = "{model: 'tests.worker.models.tiny_families:Towers', freeze: [above.*, head.bias, words]}"
    made = generic(tmp_path, student)
    assert list(made.ownership.frozen) == [
        "words.weight", *(f"above.{i}.{name}" for i in range(4) for name in ("weight", "bias")), "head.bias",
    ]  # fmt: skip
    assert list(made.arms) == ["below", "head"]


@pytest.mark.parametrize(
    ("glob", "message"),
    [
        (
            "abov.*",
            r"student\.freeze: 'abov\.\*' matches no module and no parameter of Towers; did you mean .*above\.0",
        ),
        ("head.wight", r"matches no module and no parameter of Towers; did you mean 'head\.weight'"),
        ("below.*.1", r"'below\.\*\.1' matches no parameter: the modules it names have none; remove it"),
    ],
)
def test_a_glob_that_freezes_nothing_is_refused(tmp_path: Path, glob: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        generic(tmp_path, f"{{keep: {{above: 2}}, freeze: ['{glob}']}}")


def test_an_arm_that_is_named_but_has_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    student = "{keep: {above: 2}, freeze: [head]}"
    with pytest.raises(RecipeError, match=r"arm 'end' has nothing to train: all parameters of head are frozen"):
        generic(tmp_path, student, "train: active\narms: {middle: [above], end: [head]}\n")


def whisper(where: Path, student: str, more: str = "") -> Models:
    return load(where, f"hf:{directory('whisper', where)}", student, more)


def test_the_sinusoids_of_whisper_are_frozen(tmp_path: Path) -> None:
    made = whisper(tmp_path, "{keep: {encoder: 2, decoder: 2}}")
    assert made.ownership.frozen == ("model.encoder.embed_positions.weight",)
    assert list(made.arms) == ["encoder", "decoder"]


def test_a_module_that_is_kept_whole_is_an_arm_only_if_it_is_named(tmp_path: Path) -> None:
    kept = "{keep: {decoder: 2}}"
    made = whisper(tmp_path, kept)
    assert list(made.arms) == ["decoder"]
    assert made.left_out == (
        "no arm encoder: it is the teacher's, so its own loss is 0 before training, and only joint rounds train it; to "
        "train it by itself all the same, name the arm under `arms`",
    )
    assert list(whisper(tmp_path, kept, "arms: {ear: [encoder], mouth: [decoder]}\n").arms) == ["ear", "mouth"]
    assert list(whisper(tmp_path, kept, "policy: {name: 'fixed:encoder'}\n").arms) == ["encoder", "decoder"]
    # On the student's own inputs there is always a loss; and a user's own loss may be anything.
    assert list(whisper(tmp_path, kept, "train: active\n").arms) == ["encoder", "decoder"]
    own = "loss: {layer_loss: 'tests.worker.models.tiny_families:half'}\n"
    assert list(whisper(tmp_path, kept, own).arms) == ["encoder", "decoder"]


def test_the_module_with_the_task_is_an_arm_even_if_it_is_kept_whole(tmp_path: Path) -> None:
    assert list(whisper(tmp_path, "{keep: {encoder: 2}}").arms) == ["encoder", "decoder"]
    assert list(whisper(tmp_path, "{keep: {encoder: 2}}", "loss: {task: {}}\n").arms) == ["encoder"]
    # Nothing is cut: then all arms stay.
    assert list(whisper(tmp_path, "{keep: {}}", "loss: {task: {}}\n").arms) == ["encoder", "decoder"]


def test_a_job_that_an_older_version_started_keeps_its_arms_and_trains_everything(tmp_path: Path) -> None:
    recipe = read(tmp_path, f"hf:{directory('whisper', tmp_path)}", "{keep: {decoder: 2}}")
    output = tmp_path / "out"
    output.mkdir()
    (output / RUN_FILE).write_text("{}", encoding="ascii")
    write_recipe(recipe, output / RECIPE_FILE)
    assert list(load_models(read_saved_recipe(output)).arms) == ["decoder"]
    text = (output / RECIPE_FILE).read_text(encoding="utf-8")
    (output / RECIPE_FILE).write_text(text.replace("  freeze: []\n", ""), encoding="utf-8")
    for _ in range(2):
        older = read_saved_recipe(output)
        made = load_models(older)
        assert (list(made.arms), made.ownership.frozen, made.left_out) == (["encoder", "decoder"], (), ())
        # Its open numbers are chosen, and it is interrupted once more.
        write_recipe(older.fixed(10, 1, 1), output / RECIPE_FILE)
