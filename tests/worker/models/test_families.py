"""Every family, as a small model from a configuration: cut, run in each mode, trained arm by arm, exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.models.tiny_families import FAMILIES, batch, directory
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.projection import Projections
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.errors import RecipeError
from worker.recipe.recipe import read_recipe
from worker.setup.forced import with_stand_ins
from worker.setup.models import Models, load_models
from worker.setup.shape_check import compare_shapes


def assembled(name: str, where: Path, *, mode: str = "active", student: str = "", loss: str = "{}") -> Models:
    family = FAMILIES[name]
    spec = family.spec.format(directory(name, where)) if "{}" in family.spec else family.spec
    # A factory answers for its own weights.
    weights = ", weights: random" if "{}" in family.spec else ""
    keep = student or f"{{keep: {json.dumps(family.keep)}}}"
    path = where / f"{name}.yaml"
    path.write_text(
        f"teacher: {{model: '{spec}'{weights}}}\nstudent: {keep}\ndata: {{name: digits}}\ntrain: {mode}\nloss: {loss}\n"
        + family.more,
        encoding="utf-8",
    )
    torch.manual_seed(0)
    return load_models(read_recipe(path, {}))


def wrapped(made: Models, weights: LossWeights | None = None) -> tuple[Student, Teacher, Objective]:
    """The student with its losses, and the teacher; of one width."""
    objective = Objective(made.adapter, made.pairs, weights or LossWeights())
    return (
        Student(made.student, objective, Projections({}, {})),
        Teacher(made.teacher, torch.device("cpu"), torch.float32),
        objective,
    )


def planner(made: Models, mode: Any) -> Planner:
    readers = {module: made.ownership.readers(module) for module in made.ownership.owned}
    return Planner(made.adapter.modules, made.adapter.logits[0] if made.adapter.logits else None, mode, readers)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_arms_rounds_move_its_own_parameters_and_reach_every_layer(name: str, tmp_path: Path) -> None:
    made, family, data = assembled(name, tmp_path), FAMILIES[name], batch(name)
    assert [module.name for module in made.adapter.modules] == list(family.modules)
    assert {module: len(made.student.layers[module]) for module in family.keep if name != "factory"} == (
        family.keep if name != "factory" else {}
    )
    assert made.adapter.declared == family.declared
    parameters = dict(made.student.model.named_parameters())
    for mode in ("active", "all", "forced"):
        if mode == "forced" and not family.declared:
            made = with_stand_ins(made, data)
        student, teacher, objective = wrapped(made)
        widths = compare_shapes(made, data, forced=mode == "forced", objective=objective)
        assert (widths.hidden, widths.boundary) == ({}, {})
        plans = planner(made, mode)
        for module in family.modules:
            plan = plans.arm([module])
            owned = {name for module in plan.trained for name in made.ownership.owned[module]}
            for parameter_name, parameter in parameters.items():
                parameter.requires_grad_(parameter_name in owned)
                parameter.grad = None
            loss, terms, _ = student(data, teacher.run(plan.teacher, data), plan)
            loss.backward()
            assert torch.isfinite(loss), terms
            moved = {name for name, parameter in parameters.items() if parameter.grad is not None}
            assert moved <= owned
            for layer in made.student.layers[module]:
                inside = {name for name in owned if name.startswith(f"{layer}.")}
                assert not inside or inside & moved, (mode, module, layer)
            ends = module == plans.modules[-1] or mode != "forced"
            kinds = {term.partition("/")[0] for term in terms}
            assert kinds == ({"layers", "logits", "task"} if ends and made.adapter.logits else
                             {"layers"} if mode == "forced" else {"layers", "logits", "task"})  # fmt: skip


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.declared])
def test_parts_run_one_after_the_other_are_the_model(name: str, tmp_path: Path) -> None:
    """The modules compute the same as the library's own forward pass."""
    made = assembled(name, tmp_path)
    data = {key: tensor for key, tensor in batch(name).items() if key != "labels" or name in ("t5", "whisper")}
    model: Any = made.student.model.eval()
    with torch.no_grad():
        ours = made.student.run([module.name for module in made.adapter.modules], data).logits
        if "clip" in name.split("_"):
            theirs = model.get_logits(data["image"], data["input_ids"])[0]
        elif name == "blip":
            texts = {"input_ids": data["input_ids"], "attention_mask": data["attention_mask"]}
            theirs = model(pixel_values=data["image"], **texts).logits[:, :-1]
        elif name == "whisper":
            theirs = model(input_features=data["input_features"], labels=data["labels"]).logits
        else:
            read = ("input_ids", "attention_mask", "labels") if name == "t5" else ("input_ids", "attention_mask")
            theirs = model(**{key: data[key] for key in read}).logits
            theirs = theirs if name == "t5" else theirs[:, :-1]
            if name != "t5":
                bare = {"input_ids": data["input_ids"]}
                unmasked = made.student.run([module.name for module in made.adapter.modules], bare).logits
                assert unmasked is not None
                counts = data["attention_mask"][:, :-1].bool()
                assert torch.allclose(unmasked[counts], theirs[counts], atol=1e-5), "padding behind needs no mask"
    assert ours is not None
    assert torch.allclose(ours, theirs, atol=1e-5)


STRANGER = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import open_clip, transformers
from safetensors.torch import load_file
here = Path(sys.argv[1])
for name, kind in json.loads(sys.argv[2]).items():
    place = here / name
    if kind == "open_clip":
        model = open_clip.create_model(f"local-dir:{place}")
    else:
        model, found = getattr(transformers, kind).from_pretrained(place, output_loading_info=True)
        assert not any(found.values()), found
    state = torch.load(here / f"{name}.pt", weights_only=True)
    assert set(state) == set(model.state_dict()), (name, set(state) ^ set(model.state_dict()))
    for key, value in model.state_dict().items():
        assert torch.equal(value.reshape(state[key].shape), state[key]), (name, key)
assert not any(name.split(".")[0] in ("worker", "protos", "bandit_server") for name in sys.modules)
print("all of them")
"""


def test_what_comes_out_loads_back_into_where_it_came_from(tmp_path: Path) -> None:
    """In a process that imports nothing of the worker; bit for bit."""
    kinds = {"clip": "open_clip", "custom_clip": "open_clip", "blip": "BlipForConditionalGeneration",
             "t5": "AutoModelForSeq2SeqLM", "whisper": "AutoModelForSpeechSeq2Seq", "gpt2": "AutoModelForCausalLM",
             "llama": "AutoModelForCausalLM", "opt": "AutoModelForCausalLM"}  # fmt: skip
    out = tmp_path / "out"
    for name in kinds:
        made = assembled(name, tmp_path)
        state = made.student.model.state_dict()
        weights = made.exported.export(state, out / name)
        assert weights.is_file()
        torch.save(state, out / f"{name}.pt")
        again = assembled(name, tmp_path, student=f"{{model: '{FAMILIES[name].spec.format(out / name)}'}}")
        assert all(torch.equal(value, state[key]) for key, value in again.student.model.state_dict().items())
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(out), json.dumps(kinds)],
        capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all of them"
    assert not json.loads((out / "gpt2" / "config.json").read_text()).keys() & {"optima", "worker"}


def test_a_factorys_student_loads_into_what_the_factory_builds(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tests.worker.models.tiny_families import Towers

    made = assembled("factory", tmp_path)
    state = made.student.model.state_dict()
    file = made.exported.export(state, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["student.safetensors"]
    again = Towers()
    again.below = torch.nn.ModuleList(list(again.below)[:2])
    again.load_state_dict(load_file(file), strict=True)
    teacher_state = made.teacher.model.state_dict()
    assert torch.equal(state["below.0.0.weight"], teacher_state["below.1.0.weight"])
    assert torch.equal(state["below.1.0.weight"], teacher_state["below.3.0.weight"])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "factory"])
def test_a_cut_students_layers_are_the_teachers_it_is_matched_with(name: str, tmp_path: Path) -> None:
    made = assembled(name, tmp_path)
    ours, theirs = made.student.model.state_dict(), made.teacher.model.state_dict()
    for pairs in made.pairs.values():
        for student, teacher in pairs:
            inside = [key for key in theirs if key.startswith(f"{teacher}.")]
            for key in inside:
                mine = f"{student}.{key.removeprefix(f'{teacher}.')}"
                assert mine not in ours or torch.equal(ours[mine], theirs[key])
    assert len(ours) < len(theirs)


def test_what_two_modules_share_is_measured_with_both(tmp_path: Path) -> None:
    made = assembled("gpt2", tmp_path, mode="forced")
    assert made.ownership.tied == {"transformer.wte.weight": ("upper",)}
    plans = planner(made, "forced")
    assert plans.arm(["lower"]).student == ("lower",)
    assert plans.measured(["lower"]).student == ("lower", "upper")
    assert plans.measured(["upper"]).student == ("upper",)


def test_all_wrong_names_are_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        assembled(
            "factory",
            tmp_path,
            mode="forced",
            student="{keep: {below: 2}, layer_map: {belo: [1]}}",
            loss="{layer_loss: {above: mze}, logit_loss: 'tests.worker.models.tiny_families:hlf', layers: {abov: 2.0}}",
        )
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "  line 2: student.layer_map.belo: there is no module 'belo'; did you mean 'below'?",
        "  line 5: loss.layers.abov: there is no module 'abov'; did you mean 'above'?",
        "  line 5: loss.logit_loss: the module tests.worker.models.tiny_families "
        f"({Path(__file__).parent / 'tiny_families.py'}) has no function 'hlf'; did you mean 'half'?",
        "  line 5: loss.layer_loss.above: 'mze' is neither a layer loss nor the import path of one "
        "(package.module:function); did you mean 'mse'?",
    ]


def test_losses_of_a_users_own_weigh_what_the_recipe_says(tmp_path: Path) -> None:
    own = "tests.worker.models.tiny_families"
    loss = (
        f"{{task: {{loss: 0.5, '{own}:sharpness': 2.0}}, layer_loss: {{below: '{own}:half', above: cosine}}, "
        "layers: {above: 0.25}}"
    )
    made = assembled("factory", tmp_path, loss=loss)
    weights = read_recipe(tmp_path / "factory.yaml", {}).loss
    student, teacher, _ = wrapped(made, weights)
    plan, data = planner(made, "active").joint(), batch("factory")
    total, terms, _ = student(data, teacher.run(plan.teacher, data), plan)
    assert set(terms) == {"layers/below", "layers/above", "logits/kl", "task/loss", "task/sharpness"}
    expected = (
        terms["layers/below"] + 0.25 * terms["layers/above"] + terms["logits/kl"]
        + 0.5 * terms["task/loss"] + 2 * terms["task/sharpness"]
    )  # fmt: skip
    assert torch.allclose(total, expected)
    wrong = Objective(made.adapter, made.pairs, LossWeights(task={"los": 1.0}))
    with pytest.raises(
        RecipeError, match=r"loss\.task names 'los', which the model does not compute; did you mean 'loss'"
    ):
        compare_shapes(made, data, forced=False, objective=wrong)


def test_a_mask_keeps_padding_out_of_layers_and_logits(tmp_path: Path) -> None:
    made = assembled("factory", tmp_path)
    data = dict(batch("factory"))
    mask = made.adapter.mask("below", "hidden", data)
    assert mask is not None
    assert torch.equal(mask, data["attention_mask"].bool())
    assert made.adapter.mask("above", "hidden", data) is None
    assert torch.equal(made.adapter.logits_mask(data), data["attention_mask"].bool())  # type: ignore[arg-type]
