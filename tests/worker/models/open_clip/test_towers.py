"""Models of open_clip with towers of other kinds: listed, run in every mode, cut, exported and loaded by open_clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from tests.worker.models.open_clip.families import batch, configs
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.errors import RecipeError
from worker.models.open_clip.files import CONFIG_FILE, create
from worker.models.open_clip.loader import OpenClipModel, load
from worker.recipe.recipe import read_recipe
from worker.setup.models import Models, load_models
from worker.setup.shape_check import compare_shapes

LAYERS = {
    "siglip": (["visual.trunk.blocks.*"], "text.transformer.resblocks.*"),
    "convnext": (["visual.trunk.stages.*"], "text.transformer.resblocks.*"),
    "resnet of timm": ([f"visual.trunk.layer{i}" for i in (1, 2, 3, 4)], "text.transformer.resblocks.*"),
    "resnet": ([f"visual.layer{i}" for i in (1, 2, 3, 4)], "transformer.resblocks.*"),
    "text tower of transformers": (["visual.transformer.resblocks.*"], "text.transformer.encoder.layer.*"),
}
KEEP: dict[str, dict[str, int]] = {
    "siglip": {"image": 3, "text": 1},
    "convnext": {"image": 5, "text": 2},
    "resnet of timm": {"image": 4, "text": 1},
    "resnet": {"image": 5, "text": 1},
    "text tower of transformers": {"image": 1, "text": 2},
}


def loaded(name: str, where: Path) -> OpenClipModel:
    config = configs(where)[name]
    torch.manual_seed(0)
    return OpenClipModel(create(config), config)


def from_recipe(name: str, where: Path) -> Models:
    config = configs(where)[name]
    (where / "teacher").mkdir()
    (where / "teacher" / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))
    path = where / "recipe.yaml"
    path.write_text(
        "teacher: {model: 'open_clip:teacher', weights: random}\n"
        f"student: {{keep: {json.dumps(KEEP[name])}}}\ndata: {{name: digits}}\n"
    )
    return load_models(read_recipe(path, {}))


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "resnet of timm"])
def test_every_arm_trains_its_layers_and_joint_rounds_have_all_terms(name: str, tmp_path: Path) -> None:
    made = from_recipe(name, tmp_path)
    data = batch(made.exported.config)  # type: ignore[attr-defined]
    assert [list(module.layers) for module in made.adapter.modules] == [LAYERS[name][0], [LAYERS[name][1]]]
    objective = Objective(made.adapter, made.pairs, LossWeights())
    widths = compare_shapes(made, data, forced=True, objective=objective)
    assert (widths.hidden, widths.boundary) == ({}, {})
    student = Student(made.student, objective)
    teacher = Teacher(made.teacher, torch.device("cpu"), torch.float32)
    planner = Planner(made.adapter.modules, None, "forced")
    parameters = dict(made.student.model.named_parameters())
    for modules in (["image"], ["text"], ["image", "text"]):
        plan = planner.joint() if len(modules) == 2 else planner.arm(modules)
        owned = {name for module in modules for name in made.ownership.owned[module]}
        for parameter_name, parameter in parameters.items():
            parameter.requires_grad_(parameter_name in owned)
            parameter.grad = None
        loss, terms, _ = student(data, teacher.run(plan.teacher, data), plan)
        loss.backward()
        own = {"logits/affinity", "task/contrastive"} if len(modules) == 2 else set()
        assert set(terms) == {f"layers/{module}" for module in modules} | own
        assert all(torch.isfinite(term) for term in terms.values())
        moved = {name for name, parameter in parameters.items() if parameter.grad is not None}
        assert moved <= owned
        for module in modules:
            for layer in made.student.layers[module]:
                assert any(name.startswith(f"{layer}.") for name in moved), layer


@pytest.mark.parametrize("name", LAYERS)
def test_a_student_is_cut_exported_and_loaded_by_open_clip(name: str, tmp_path: Path) -> None:
    teacher = loaded(name, tmp_path)
    student = teacher.cut(KEEP[name], teacher.adapter)
    state, theirs = student.model.state_dict(), teacher.model.state_dict()
    assert len(state) < len(theirs)
    values = [value for value in theirs.values() if value.is_floating_point()]
    for value in state.values():
        assert not value.is_floating_point() or any(torch.equal(value, other) for other in values)
    student.check_export()
    out = tmp_path / "out"
    student.export(state, out)
    rows = batch(student.config)
    outputs = []
    for model in (open_clip.create_model(f"local-dir:{out}"), student.model):
        with torch.no_grad():
            outputs.append(model.eval()(rows["image"], rows["text"])[:2])
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))
    # A directory that was moved, and a student as the next teacher.
    moved = Path(shutil.move(out, tmp_path / "moved"))
    shutil.rmtree(tmp_path / "roberta")
    if name == "text tower of transformers":
        assert load(f"open_clip:{moved}").cut({"text": 1}, teacher.adapter).config["vision_cfg"]["layers"] == 1
    else:
        again = load(f"open_clip:{moved}")
        assert all(torch.equal(value, state[key]) for key, value in again.model.state_dict().items())
        again.cut({"text": 1}, again.adapter).check_export()


def test_stages_keep_their_share_and_their_first_block(tmp_path: Path) -> None:
    teacher = loaded("resnet", tmp_path)
    student = teacher.cut({"image": 6}, teacher.adapter)
    assert student.config["vision_cfg"]["layers"] == [2, 2, 1, 1]
    ours, theirs = student.model.state_dict(), teacher.model.state_dict()
    for here, there in (("1.0", "1.0"), ("1.1", "1.1"), ("2.0", "2.0"), ("2.1", "2.2"), ("3.0", "3.0")):
        names = [f"visual.layer{block}.conv2.weight" for block in (here, there)]
        assert torch.equal(ours[names[0]], theirs[names[1]])


@pytest.mark.parametrize(
    ("name", "keep", "message"),
    [
        ("resnet", {"image": 3}, "keep asks for 3 blocks of image; expected at least one in each of 4 stages"),
        ("resnet", {"image": 9}, "keep asks for 9 layers of image; expected 1 to 8"),
        ("mobilenet", {"image": 8}, r"timm cannot build a mobilenetv3_small_050 with .*; keep all layers of the image"),
    ],
)
def test_a_tower_that_no_configuration_describes_is_refused(
    name: str, keep: dict[str, int], message: str, tmp_path: Path
) -> None:
    teacher = loaded(name, tmp_path)
    with pytest.raises(RecipeError, match=message):
        teacher.cut(keep, teacher.adapter)


def test_padding_counts_where_a_tower_reads_it(tmp_path: Path) -> None:
    """SigLIP attends to padding and reads its output there; other towers mask it."""
    masks: dict[str, Any] = {}
    for name in ("siglip", "convnext", "text tower of transformers"):
        made = loaded(name, tmp_path)
        masks[name] = made.adapter.mask("text", "hidden", batch(made.config))
    assert masks["siglip"] is None
    assert masks["convnext"].all(), "its padding is 0"
    assert masks["text tower of transformers"][0].tolist() == [True] * 4 + [False] * 2


def test_activation_checkpointing_is_refused_where_there_is_none(tmp_path: Path) -> None:
    for name in ("siglip", "text tower of transformers"):
        made = loaded(name, tmp_path)
        made.adapter.checkpoint_activations(made.model)
        rows = batch(made.config)
        made.model(rows["image"], rows["text"])[0].sum().backward()
    made = loaded("resnet", tmp_path)
    with pytest.raises(RecipeError, match=r"student\.checkpointing: the image tower, a ModifiedResNet, does not offer"):
        made.adapter.checkpoint_activations(made.model)


def test_a_tokenizer_of_transformers_goes_along(tmp_path: Path) -> None:
    """From the model's own directory, as in open_clip, and not from the hub."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "teacher"
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2, "cat": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    options: dict[str, Any] = {"tokenizer_object": words, "unk_token": "[UNK]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(**options).save_pretrained(folder)  # type: ignore[no-untyped-call]
    config = configs(tmp_path)["siglip"]
    config["text_cfg"] = {**config["text_cfg"], "hf_tokenizer_name": "nobody/has-this"}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))
    teacher = load(f"open_clip:{folder}", fresh="always")
    student = teacher.cut({"image": 2, "text": 1}, teacher.adapter)
    student.export(student.model.state_dict(), tmp_path / "out")
    expected = [[2, 3, 1, 1, 1, 1]]
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["a cat"]).tolist() == expected
    assert student.inputs().tokenizer()(["a cat"]).tolist() == expected
