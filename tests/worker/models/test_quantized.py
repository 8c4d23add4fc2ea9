"""Quantized teachers compute as their library loads them; what is trained is dequantized, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.errors import RecipeError
from worker.models.base import Role
from worker.models.hf.peft import TunedModel
from worker.models.precision import to_dtype
from worker.models.sources import load
from worker.recipe.recipe import read_recipe
from worker.setup.models import load_models

TOKENS = torch.arange(1, 17)[None]


def new_llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=3, max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    output: Tensor = model.eval()(TOKENS).logits
    return output


def write_bitsandbytes(place: Path, bits: int) -> None:
    new_llama().save_pretrained(place.parent / "plain")
    make: Any = transformers.BitsAndBytesConfig
    settings = make(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    kind = transformers.LlamaForCausalLM
    kind.from_pretrained(
        place.parent / "plain", quantization_config=settings, device_map="cpu", dtype=torch.float32
    ).save_pretrained(place)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_teacher_computes_quantized_and_its_student_is_not(bits: int, tmp_path: Path) -> None:
    write_bitsandbytes(tmp_path / "small", bits)
    plain = logits(new_llama())
    teacher: Any = load("hf:small", directory=tmp_path)
    expected = logits(teacher.model)
    assert expected.dtype == torch.float32
    assert 0 < float((expected - plain).abs().max()) < 0.2
    codes = teacher.model.model.layers[0].mlp.up_proj.weight
    assert codes.dtype in (torch.uint8, torch.int8)
    student: Any = teacher.cut({"lower": 1, "middle": 1, "upper": 1}, teacher.adapter)
    student.check_export()
    assert {parameter.dtype for parameter in student.model.parameters()} == {torch.float32}
    # Nothing was left out, so the student computes what the teacher does, up to the teacher's rounded activations.
    assert torch.allclose(logits(student.model), expected, atol=1e-6 if bits == 4 else 0.02)
    assert teacher.model.model.layers[0].mlp.up_proj.weight.dtype == codes.dtype, "the teacher is as it was"
    student.export(student.model.state_dict(), tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    with pytest.raises(RecipeError, match=r"quantized \(bitsandbytes\).* cannot be trained; .*\{dequantize: true\}"):
        load("hf:small", directory=tmp_path, role="student")
    trained: Any = load("hf:small", directory=tmp_path, role="student", options={"dequantize": True})
    assert torch.equal(logits(trained.model), logits(student.model))
    to_dtype(teacher.model, torch.bfloat16)
    assert teacher.model.model.layers[0].mlp.up_proj.weight.dtype == codes.dtype
    assert logits(teacher.model).dtype == torch.bfloat16
    assert torch.allclose(logits(teacher.model).float(), expected, atol=0.05)


def test_an_adapter_may_be_trained_inside_of_a_quantized_base_model(tmp_path: Path) -> None:
    write_bitsandbytes(tmp_path / "small", 4)
    base = load("hf:small", directory=tmp_path).model
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(str(tmp_path / "adapter"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "small"})
    )
    student = load("hf:adapter", directory=tmp_path, role="student")
    assert isinstance(student, TunedModel)
    student.check_export()
    output: Any = student.model(TOKENS)
    output.logits.square().mean().backward()
    trained = {name for name, parameter in student.model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all(".lora_" in name for name in trained)


def test_weights_whose_kernels_need_a_gpu_are_dequantized_while_they_are_loaded(tmp_path: Path) -> None:
    model = new_llama()
    model.save_pretrained(tmp_path)
    state, expected = load_file(tmp_path / "model.safetensors"), model.state_dict()
    for name in [name for name in state if "proj" in name]:
        scale = state[name].abs().max() / 400
        state[name] = (state[name] / scale).to(torch.float8_e4m3fn)
        expected[name] = state[name].float() * scale
        state[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    roles: tuple[Role, Role] = ("teacher", "student")
    for role in roles:
        loaded: Any = load(f"hf:{tmp_path}", role=role)
        tensors = loaded.model.state_dict()
        assert tensors.keys() == expected.keys()
        for name, value in expected.items():
            assert tensors[name].dtype == torch.float32
            assert torch.allclose(tensors[name], value, rtol=1e-6, atol=0), name
        loaded.check_export()
    # With fresh weights, or others, nothing is quantized.
    fresh: Any = load(f"hf:{tmp_path}", role="student", fresh="always")
    fresh.check_export()


def test_what_cannot_be_quantized_here_says_what_to_install_or_to_write(tmp_path: Path) -> None:
    new_llama().save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    with pytest.raises(RecipeError, match=r"hf:model cannot be loaded: .*(gptq|GPTQ|optimum).*"):
        load("hf:model", directory=tmp_path)
    write_bitsandbytes(tmp_path / "small", 4)
    (tmp_path / "recipe.yaml").write_text(
        "teacher: {model: 'hf:small', placement: zero3}\nstudent: {keep: {}}\ndata: {name: digits}\n", encoding="utf-8"
    )
    with pytest.raises(
        RecipeError, match=r"teacher\.placement: quantized weights cannot be shared .* `placement: repl"
    ):
        load_models(read_recipe(tmp_path / "recipe.yaml", {}))
