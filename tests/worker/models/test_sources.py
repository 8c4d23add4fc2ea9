"""Names of models in a recipe: their forms, the messages for others, and what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.launch import ROOT
from tests.worker.models.tiny_families import CONFIGS, batch, directory
from worker.errors import RecipeError
from worker.models.sources import load

OWN = """
import torch

class Odd(torch.nn.Module):
    def __init__(self, size=2):
        super().__init__()
        if size > 9:
            raise ValueError("size is at most 9")
        self.line = torch.nn.Linear(size, size)
    def forward(self, sound):
        return {"sound": sound}

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clip", r"'clip' does not name a model; expected open_clip:.*, hf:.*, or package\.module:factory"),
        ("open_clip:ViT-B-32@laion2b_s34b_b79", r"no pretrained weights .*did you mean 'laion2b_s34b_b79k'"),
        ("open_clip:ViT-B-33", "did you mean 'ViT-B-32'"),
        ("hf:empty", r"the directory .*empty has no config\.json"),
        ("hf:vague", "add the class"),
        ("hf:no/such/place", r"the directory .*no/such/place does not exist, and as an id on the hub: "),
        ("own_models:Od", "has no function 'Od'; did you mean 'Odd'"),
        ("own_model:Odd", "cannot be imported in .*: No module named 'own_model'"),
        ("own_models:number", "returns a int; expected a torch.nn.Module"),
    ],
)
def test_what_names_no_model_gets_a_sentence(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "vague").mkdir()
    (tmp_path / "vague" / "config.json").write_text(json.dumps({"model_type": "blip_text_model"}), encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        load(spec, directory=tmp_path)


def test_a_factory_gets_its_options_and_its_refusal_is_told(tmp_path: Path) -> None:
    assert load("own_models:Odd", options={"size": 5}).model.get_parameter("line.weight").shape == (5, 5)
    with pytest.raises(RecipeError, match=r"own_models:Odd\(size=10\) failed: size is at most 9"):
        load("own_models:Odd", options={"size": 10})
    with pytest.raises(RecipeError, match=r"own_models:Odd\(sise=1\) failed: .*sise"):
        load("own_models:Odd", options={"sise": 1})
    with pytest.raises(RecipeError, match="takes no options"):
        load("open_clip:ViT-B-32", options={"size": 1})


def test_a_model_that_cannot_read_the_batch_or_says_nothing_is_told(tmp_path: Path) -> None:
    odd = load("own_models:Odd")
    with pytest.raises(RecipeError, match=r"forward pass of Odd takes sound, but the data's batches have image, "):
        odd.adapter.run_whole(odd.model, batch("gpt2"))
    with pytest.raises(RecipeError, match="returns a dict without logits, loss or losses"):
        odd.adapter.run_whole(odd.model, {"sound": torch.ones(1)})


def test_weights_are_named_behind_the_model_beside_it_or_as_a_checkpoint(tmp_path: Path) -> None:
    directory("clip", tmp_path)
    first = load("open_clip:clip", directory=tmp_path, fresh="if_bare").model.state_dict()
    save_file(first, tmp_path / "first.safetensors")
    again = load("open_clip:clip@first.safetensors", directory=tmp_path).model.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in again.items())
    directory("gpt2", tmp_path)
    writer = load("hf:gpt2", directory=tmp_path, fresh="if_bare")
    file = writer.export(writer.model.state_dict(), tmp_path / "out")
    # What is tied is written once, and found all the same.
    assert "lm_head.weight" not in load_file(file)
    named = load("hf:gpt2", checkpoint="out/model.safetensors", directory=tmp_path).model.state_dict()
    assert all(torch.equal(value, named[name]) for name, value in writer.model.state_dict().items())
    wider = load("hf:gpt2", options={"n_embd": 32}, directory=tmp_path, fresh="always").model.state_dict()
    assert wider["transformer.wte.weight"].shape == (20, 32)
    assert CONFIGS["gpt2"]["n_embd"] == 16
    with pytest.raises(RecipeError, match=r"does not fit the model: .*of another shape: transformer\.wte"):
        load("hf:gpt2", checkpoint="out/model.safetensors", options={"n_embd": 32}, directory=tmp_path)


def test_a_familys_libraries_are_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, worker.setup.models; print(sorted({'open_clip', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "[]"
