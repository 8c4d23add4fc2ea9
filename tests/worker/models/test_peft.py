"""Adapters of peft: merged as a teacher; as a student trained and exported as peft writes and reads them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.models.hf.peft import TunedModel
from worker.models.sources import load
from worker.recipe.recipe import read_recipe
from worker.setup.models import load_models

TOKENS = torch.arange(1, 9)[None]
KINDS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "whole modules": lambda: peft.LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"]),
    "embeddings": lambda: peft.LoraConfig(r=2, target_modules=["embed_tokens", "up_proj"]),
    "dora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, bias="lora_only"),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


def new_llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=6, max_position_embeddings=32, pad_token_id=0, attention_bias=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def move(model: nn.Module) -> None:
    """Change everything that can be trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    output: Tensor = model.eval()(TOKENS).logits
    return output


def write_adapter(place: Path, kind: str = "lora") -> None:
    """Write ``base`` and ``adapter`` as peft's users do."""
    new_llama().save_pretrained(place / "base")
    wrapper = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(place / "base"), KINDS[kind]())
    move(wrapper)
    wrapper.save_pretrained(str(place / "adapter"))


def read_by_peft(base: Path, adapter: Path) -> Any:
    return peft.PeftModel.from_pretrained(transformers.LlamaForCausalLM.from_pretrained(base), str(adapter))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
def test_an_adapter_is_merged_as_a_teacher_and_trained_and_exported_as_a_student(kind: str, tmp_path: Path) -> None:
    write_adapter(tmp_path, kind)
    expected = logits(read_by_peft(tmp_path / "base", tmp_path / "adapter"))
    teacher: Any = load("hf:adapter", directory=tmp_path)
    assert torch.allclose(logits(teacher.model), expected, atol=1e-6)
    assert not any("lora" in name or "base_layer" in name for name in teacher.model.state_dict())
    if kind == "lora":
        teacher.cut({"lower": 1, "middle": 1, "upper": 1}, teacher.adapter).check_export()
    student: Any = load("hf:adapter", directory=tmp_path, role="student")
    assert torch.equal(logits(student.model), expected)
    assert [module.name for module in student.adapter.modules] == ["lower", "middle", "upper"]
    frozen = [name for name, parameter in student.model.named_parameters() if not parameter.requires_grad]
    assert "model.layers.0.mlp.gate_proj.weight" in {name.replace(".base_layer", "") for name in frozen}
    student.check_export()
    move(student.model)
    written = student.export(student.model.state_dict(), tmp_path / "out")
    assert written == tmp_path / "out" / "adapter_model.safetensors"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", written.name}
    assert torch.equal(logits(read_by_peft(tmp_path / "base", tmp_path / "out")), logits(student.model))
    assert not torch.equal(logits(student.model), expected)


RECIPE = """
teacher: {model: 'hf:base'}
student: {keep: {lower: 1, middle: 1, upper: 1}, lora: {r: 2, lora_alpha: 4, target_modules: [q_proj, up_proj], LAYERS}}
data: {name: digits}
"""


def test_a_new_adapter_inside_of_a_cut_student_is_exported_with_its_base(tmp_path: Path) -> None:
    new_llama().save_pretrained(tmp_path / "base")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("LAYERS", "layers_to_transform: [0, 2]"), encoding="utf-8")
    models = load_models(read_recipe(tmp_path / "recipe.yaml", {}))
    again = load_models(read_recipe(tmp_path / "recipe.yaml", {}))
    student: Any = models.student.model
    assert torch.equal(logits(student), logits(again.student.model)), "on every rank the same"
    # Layer 1, the middle module, has nothing to train.
    assert list(models.arms) == ["lower", "upper"]
    assert models.left_out[0].startswith("no arm middle: all parameters of middle are frozen")
    assert {name.split(".lora_")[0] for name in models.ownership.owned["lower"]} == {
        "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj",
    }  # fmt: skip
    move(student)
    models.exported.export(student.state_dict(), tmp_path / "out")
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    assert torch.equal(logits(loaded), logits(student))
    # It may be moved, and be a teacher.
    (tmp_path / "out").rename(tmp_path / "moved")
    assert torch.allclose(logits(load("hf:moved", directory=tmp_path).model), logits(student), atol=1e-6)


def test_a_new_adapter_inside_of_a_published_student_is_exported_alone(tmp_path: Path) -> None:
    new_llama().save_pretrained(tmp_path / "base")
    student = load("hf:base", directory=tmp_path, role="student").tune({"r": 2, "target_modules": ["q_proj"]})
    student.check_export()
    move(student.model)
    student.export(student.model.state_dict(), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert torch.equal(logits(read_by_peft(tmp_path / "base", tmp_path / "out")), logits(student.model))
    assert isinstance(student, TunedModel)
    with pytest.raises(RecipeError, match=r"an adapter already; remove `student\.lora`"):
        student.tune({})


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_activation_checkpointing_gives_an_adapter_the_same_gradients(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    gradients = []
    for checkpointed in (False, True):
        student = load("hf:adapter", directory=tmp_path, role="student")
        if checkpointed:
            student.adapter.checkpoint_activations(student.model)
        student.model.train()
        student.model(TOKENS, use_cache=False).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in student.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
    assert any(bool(gradient.any()) for gradient in gradients[0].values())


def test_adapters_that_cannot_be_used_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(tmp_path)
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    prompt = peft.get_peft_model(base, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompt.save_pretrained(str(tmp_path / "prompt"))
    with pytest.raises(RecipeError, match="PROMPT_TUNING, which puts virtual tokens before the inputs"):
        load("hf:prompt", directory=tmp_path)
    small = transformers.LlamaConfig(**{**base.config.to_dict(), "num_hidden_layers": 4})
    transformers.LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    with pytest.raises(RecipeError, match=r"hf:adapter does not fit its base model"):
        load("hf:adapter", directory=tmp_path, options={"base": "small"})
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"base model of the adapter hf:adapter cannot be loaded; `options: \{base:"):
        load("hf:adapter", directory=tmp_path)
    named = load("hf:adapter", directory=tmp_path, options={"base": "elsewhere"}, role="student")
    named.check_export()
    model = load("hf:elsewhere", directory=tmp_path, role="student")
    with pytest.raises(RecipeError, match=r"peft\.LoraConfig\(rank\): .*unexpected keyword argument 'rank'"):
        model.tune({"rank": 2})
    with pytest.raises(RecipeError, match=r"Target modules .*nothing.* not found"):
        model.tune({"target_modules": ["nothing"]})
    made = load("tests.worker.models.tiny_families:Towers")
    with pytest.raises(RecipeError, match=r"student\.lora is for models of transformers"):
        made.tune({})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r"hf:adapter needs the package peft: pip install peft"):
        load("hf:adapter", directory=tmp_path)


def wrapped() -> nn.Module:
    """A factory of a model that peft has wrapped."""
    return peft.get_peft_model(new_llama(), KINDS["lora"]())  # type: ignore[no-any-return]


def test_a_factorys_model_that_peft_has_wrapped_is_exported_both_ways(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = load(f"{__name__}:wrapped")
    student.check_export()
    trained = [name for name, parameter in student.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    move(student.model)
    student.export(student.model.state_dict(), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"student.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    new_llama().save_pretrained(tmp_path / "base")
    assert torch.equal(logits(read_by_peft(tmp_path / "base", tmp_path / "out")), logits(student.model))
    shutil.rmtree(tmp_path / "out")
