"""``--list-modules``: what it prints of any model, and a block that is valid as it is."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import Tensor, nn
from torchvision.models import SwinTransformer  # type: ignore[import-untyped]
from torchvision.models.resnet import BasicBlock  # type: ignore[import-untyped]

from tests.worker.models.tiny_families import CONFIGS, TEXT, directory, rows
from worker import job
from worker.cli import parse
from worker.engine.process_group import ProcessGroup
from worker.errors import RecipeError
from worker.models.base import ModuleSpec
from worker.models.generic import MODEL, NamedModule, RegroupedAdapter
from worker.models.hf.adapters import find_adapter
from worker.models.paths import parameters_of
from worker.models.stacks import find_modules
from worker.recipe.recipe import read_recipe
from worker.recipe.references import unknown_modules
from worker.setup.build import build
from worker.setup.models import load_models

WORDS: dict[str, Any] = {**TEXT}
SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWER = {**SMALL, "image_size": 8, "patch_size": 4}
HF: dict[str, transformers.PreTrainedConfig] = {
    "CLIPModel": transformers.CLIPConfig(text_config={**SMALL, **TEXT}, vision_config=TOWER, projection_dim=8),
    "AlbertForMaskedLM": transformers.AlbertConfig(**SMALL, **WORDS, embedding_size=8, max_position_embeddings=16),
    "ResNetForImageClassification": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2]),
}


def hf(name: str, where: Path) -> str:
    """A model of transformers, as a configuration without weights."""
    config = HF[name]
    config.architectures = [name]
    config.save_pretrained(where / name)
    return f"hf:{where / name}"


class Data:
    """Rows of all that the models of these tests read, and of what none of them does."""

    def __init__(self) -> None:
        self.train = self.held_out = self.questions = Items()

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        tensors = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "note"}
        text = {"input_ids": tensors["input_ids"]}
        return {
            **tensors,
            "x": tensors["pixel_values"],
            "return_loss": True,
            "notes": [item["note"] for item in items],
            "nothing": None,
            "nested": {"text": text, "sizes": [(8, 8)] * len(items)},
            # Packed: as many rows as patches, not as many as pictures.
            "patches": torch.zeros(3 * len(items) + 1, 2),
            "box": Box(torch.zeros(2, 4), "corner"),
        }

    def metrics(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        assert batch["notes"][0].startswith("row")
        return {"rows": (float(len(batch["notes"])), float(len(logits)))}


@dataclasses.dataclass
class Box:
    corners: Tensor
    kind: str


class Items:
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < 64:
            raise IndexError(index)
        row = {name: tensor[index % 4] for name, tensor in rows(index // 4).items() if name not in ("labels",)}
        return {**row, "pixel_values": row["image"], "note": f"row {index}"}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


class Embedded(Data):
    """Texts that are embedded already, which OPTIMA's adapters for language models do not read."""

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        token_ids = torch.stack([item["input_ids"] for item in items])
        return {"inputs_embeds": token_ids[..., None].expand(-1, -1, 16) / 20, "labels": token_ids}

    def metrics(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        return {"rows": (float(len(logits)), float(len(logits)))}


def data(options: Mapping[str, Any]) -> Data:
    return Data()


def embedded(options: Mapping[str, Any]) -> Data:
    return Embedded()


def swin() -> nn.Module:
    model: nn.Module = SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=5)
    return model


class Pictures(nn.Module):
    """Feature maps in stages, as a ResNet, of a width that can be chosen."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor, notes: list[str]) -> Tensor:
        assert self.gain.shape == ()
        assert len(notes) == len(x)
        logits: Tensor = self.fc(self.layer2(self.layer1(self.stem(x))).mean((-1, -2)))
        return logits * self.gain


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return the list and the block that a command prints."""
    capsys.readouterr()
    job.run(parse(arguments))
    text, _, block = capsys.readouterr().out.partition("\n\n")
    assert "modules" in yaml.safe_load(block)
    return text, block


def pasted(where: Path, teacher: str, block: str, student: str, more: str = "") -> Path:
    weights = ", weights: random" if teacher.startswith("hf") else ""
    path = where / "recipe.yaml"
    path.write_text(
        f"teacher: {{model: '{teacher}'{weights}}}\nstudent: {student}\n{block}\ntrain: active\n"
        f"data: {{name: 'tests.worker.setup.test_listing:data', batch_size: 4}}\n"
        f"probe: {{batches: 1, batch_size: 4, evaluate_every: 1, questions: 4}}\n{more}",
        encoding="utf-8",
    )
    return path


HERE = "tests.worker.setup.test_listing"


@pytest.mark.parametrize(
    ("model", "names", "keep"),
    [
        ("CLIPModel", ["image", "text"], {"text": 2}),
        ("AlbertForMaskedLM", [], {}),
        ("ResNetForImageClassification", ["lower", "middle", "upper"], {"upper": 1}),
        ("gpt2", ["lower", "middle", "upper"], {"lower": 1, "upper": 1}),
        (f"{HERE}:swin", ["features_1", "features_3"], {"features_1": 1}),
        (f"{HERE}:Pictures", ["layer1", "layer2"], {"layer2": 1}),
        ("tests.worker.models.tiny_families:Towers", ["below"], {"below": 3}),
    ],
)
def test_the_block_is_valid_in_a_recipe_as_it_is(
    process_group: ProcessGroup,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    names: list[str],
    keep: dict[str, int],
) -> None:
    spec = model if ":" in model else f"hf:{directory(model, tmp_path)}" if model in CONFIGS else hf(model, tmp_path)
    _, block = printed(["--list-modules", spec], capsys)
    modules = yaml.safe_load(block)["modules"]
    assert [name for name in names if name not in modules] == []
    made = load_models(read_recipe(pasted(tmp_path, spec, block, json.dumps({"keep": keep})), {}))
    assert made.ownership.unowned == ()
    shapes = {name: value.shape for name, value in made.student.model.state_dict().items()}
    components = build(read_recipe(tmp_path / "recipe.yaml", {}), made, process_group)
    checks = components.dry_run.check_arms(repeats=0)
    assert [check.arm for check in checks] == [*modules, "joint"]
    probe = components.probe(read_recipe(tmp_path / "recipe.yaml", {}).probe)
    assert torch.isfinite(torch.tensor(probe.evaluate().total_loss))
    # Whatever DeepSpeed makes of it, the exported student has the shapes of its library.
    state = components.engine.state_dict()
    assert {name: value.shape for name, value in state.items()} == shapes


def test_stacks_are_one_line_and_what_is_inside_is_listed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = printed(["--list-modules", f"open_clip:{directory('clip', tmp_path)}"], capsys)
    lines = [re.sub(r" {2,}", "  ", line.strip()) for line in text.splitlines()]
    assert "visual.transformer.resblocks.0 … 2  3 × ResidualAttentionBlock  12,704 each" in lines
    assert "visual.transformer.resblocks.*.mlp.c_fc  Linear  4,224" in lines
    assert "visual.class_embedding  Parameter [32]  32" in lines
    assert [line for line in lines if line.startswith("visual.transformer.resblocks.1")] == []
    # Layers that are built unlike the others have lines of their own.
    text, _ = printed(["--list-modules", f"hf:{directory('t5', tmp_path)}"], capsys)
    assert re.search(r"^encoder\.block\.0 +T5Block +2,144$", text, re.MULTILINE)
    assert re.search(r"^encoder\.block\.1 … 2 +2 × T5Block +2,080 each$", text, re.MULTILINE)
    assert re.search(r"^ +encoder\.block\.1\.layer\.0\.SelfAttention\.q ", text, re.MULTILINE)


def test_only_the_teacher_of_a_recipe_has_to_be_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    # The weights are not there yet either.
    directory("gpt2", tmp_path)
    path.write_text("teacher: {model: 'hf:gpt2'}\nstudent: {kep: {a: 1}}\nmodules: 3\n", encoding="utf-8")
    text, block = printed(["--recipe", str(path), "--list-modules"], capsys)
    first, *rest = text.splitlines()
    assert first.startswith("# the teacher's modules; the rest of the recipe was not checked (the recipe ")
    assert "line 2: student.kep: unknown field; did you mean 'keep'?" in first
    assert any(line.startswith("transformer.h.0 … 5 ") for line in rest)
    assert list(yaml.safe_load(block)["modules"]) == ["lower", "middle", "upper"]
    for content, message in (
        ("student: {keep: {}}\n", r"the teacher of the recipe .* is not valid: teacher.model: Field required"),
        ("teacher: {modl: x}\n", "line 1: teacher.modl: Extra inputs are not permitted"),
        ("[]", "must be a mapping of fields"),
        (f"teacher: {{model: '{HERE}:swim'}}\n", "has no function 'swim'; did you mean 'swin'"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(RecipeError, match=message):
            job.run(parse(["--recipe", str(path), "--list-modules"]))


def test_the_block_of_two_models_names_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = "modules: {all: {path: layer1, teacher_path: features}}"
    path = pasted(tmp_path, f"{HERE}:swin", modules, f"{{model: '{HERE}:Pictures'}}")
    _, block = printed(["--recipe", str(path), "--list-modules"], capsys)
    assert yaml.safe_load(block)["modules"]["layer2"] == {
        "path": ["layer2", "fc"],
        "layers": "layer2.*",
        "teacher_path": ["features.3", "norm", "head"],
        "teacher_layers": "features.3.*",
    }


def test_the_modules_found_own_everything() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.place = nn.Parameter(torch.ones(3))
            self.words = nn.Embedding(3, 4)
            self.tower = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
            self.layers = nn.Sequential()
            for index in range(3):
                self.layers.add_module(f"layer_{index}", nn.TransformerEncoderLayer(4, 2, 4))
            self.between = nn.Linear(4, 4)
            self.second = nn.ModuleDict({name: nn.TransformerEncoderLayer(4, 2, 4) for name in ("a", "b")})
            self.norm = nn.LayerNorm(4)

    for model in (Plain(), swin(), Pictures(), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))):
        found = find_modules(model)
        owned = [id(parameter) for paths, _ in found.values() for parameter in parameters_of(model, paths)]
        assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    assert find_modules(Plain()) == {
        "layers": (("place", "words", "tower", "layers", "between"), ("layers.*",)),
        "second": (("scale", "second", "norm"), ("second.*",)),
    }
    assert find_modules(nn.Linear(2, 2)) == {}


BLOCKS = "modules: {blocks: {path: [transformer, lm_head], layers: transformer.h.*}}"


def test_modules_of_a_recipe_work_although_the_familys_adapter_cannot_read_the_data(
    process_group: ProcessGroup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = pasted(tmp_path, f"hf:{directory('gpt2', tmp_path)}", BLOCKS, "{keep: {blocks: 2}}")
    recipe = read_recipe(path, {"data.name": f"{HERE}:embedded"})
    components = build(recipe, load_models(recipe), process_group)
    assert [check.arm for check in components.dry_run.check_arms(repeats=0)] == ["blocks", "joint"]
    evaluation = components.probe(recipe.probe).evaluate()
    # The model's own loss, and logits of every position.
    assert set(evaluation.terms) == {"layers/blocks", "logits/kl", "task/loss"}
    assert "cannot read the batches: the data's batches have no input_ids or text" in caplog.text


def test_an_adapter_that_cannot_be_built_is_only_needed_without_modules() -> None:
    adapter = find_adapter(nn.Linear(2, 2))
    sentence = (
        r"the modules of this model are unknown \(AttributeError: 'Linear' object .*\); name them under `modules`"
    )
    assert re.match(sentence, unknown_modules(adapter))
    regrouped = RegroupedAdapter(adapter, [NamedModule(ModuleSpec("all", ("weight", "bias"), ()))])
    assert regrouped.run_whole(nn.Linear(2, 2), {"input": torch.ones(3, 2)})[MODEL]["logits"].shape == (3, 2)


def test_modules_that_name_layers_by_number_follow_them_into_a_cut_student(tmp_path: Path) -> None:
    towers = "tests.worker.models.tiny_families:Towers"
    block = (
        "modules:\n  first: {path: [words, below.0, below.1], layers: [below.0, below.1]}\n"
        "  second: {path: [below.2, below.3, above, head], layers: [below.2, below.3]}"
    )
    made = load_models(read_recipe(pasted(tmp_path, towers, block, "{keep: {first: 1, second: 2}}"), {}))
    # Of the first two the second one is kept.
    assert made.pairs == {
        "first": [("below.0", "below.1")], "second": [("below.1", "below.2"), ("below.2", "below.3")],
    }  # fmt: skip
    owned = {name.rpartition(".0.")[0] for name in made.ownership.owned["second"] if name.startswith("below")}
    assert owned == {"below.1", "below.2"}
    # Names for the teacher alone leave the student's as they are.
    theirs = "  first: {path: [words, below.0], layers: [below.0], teacher_path: below, teacher_layers: below.*}"
    made = load_models(read_recipe(pasted(tmp_path, towers, f"modules:\n{theirs}", "{keep: {first: 1}}"), {}))
    assert made.pairs == {"first": [("below.0", "below.3")]}
