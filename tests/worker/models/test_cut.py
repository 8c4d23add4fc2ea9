"""A student cut from its teacher keeps the right layers, bit for bit."""

import copy

import pytest
import torch
from torch import nn

from worker.errors import RecipeError
from worker.models.cut import layers_to_keep
from worker.models.open_clip.files import Config, create
from worker.models.open_clip.loader import OpenClipModel

CONFIG: Config = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 8,
        "patch_size": 4,
        "layers": 8,
        "width": 32,
        "head_width": 16,
        "attentional_pool": True,
        "attn_pooler_queries": 3,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 6,
        "vocab_size": 12,
        "width": 32,
        "heads": 2,
        "layers": 4,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 6, "vocab_size": 12, "width": 32, "heads": 2, "layers": 4},
    "custom_text": True,
}
"""Another CoCa than the digits one: with attentional pooling."""


def cut(teacher: OpenClipModel, keep: dict[str, int]) -> tuple[nn.Module, Config]:
    student = teacher.cut(keep, teacher.adapter)
    return student.model, student.config


@pytest.fixture(scope="module")
def teacher() -> OpenClipModel:
    torch.manual_seed(3)
    config = copy.deepcopy(CONFIG)
    config["multimodal_cfg"]["width"] = 16
    config["text_cfg"]["width"] = 16
    return OpenClipModel(create(config), config)


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "layers"),
    [
        (8, 2, [3, 7]),
        (4, 4, [0, 1, 2, 3]),
        (4, 1, [3]),
        (24, 12, list(range(1, 24, 2))),
        (12, 5, [1, 3, 6, 8, 11]),
    ],
)
def test_kept_layers_are_spaced_uniformly_and_end_with_the_last(
    teacher_layers: int, student_layers: int, layers: list[int]
) -> None:
    assert layers_to_keep(teacher_layers, student_layers) == layers


def test_cut_keeps_the_right_layers_bit_for_bit(teacher: OpenClipModel) -> None:
    student, _ = cut(teacher, {"image": 2, "text": 4, "multimodal": 1})
    theirs = teacher.model.state_dict()
    stacks = {
        "visual.transformer.resblocks": [3, 7],
        "text.transformer.resblocks": [0, 1, 2, 3],
        "text_decoder.resblocks": [3],
        "text_decoder.cross_attn": [3],
    }
    seen = set()
    for name, value in student.state_dict().items():
        origin = name
        for stack, layers in stacks.items():
            if name.startswith(f"{stack}."):
                layer, rest = name.removeprefix(f"{stack}.").split(".", 1)
                origin = f"{stack}.{layers[int(layer)]}.{rest}"
                seen.add((stack, int(layer)))
        assert torch.equal(value, theirs[origin]), name
    assert seen == {(stack, layer) for stack, layers in stacks.items() for layer in range(len(layers))}


def test_cut_student_computes_and_shares_nothing_with_its_teacher(teacher: OpenClipModel) -> None:
    before = copy.deepcopy(teacher.model.state_dict())
    student, config = cut(teacher, {"image": 2})
    assert config["vision_cfg"]["layers"] == 2
    assert config["multimodal_cfg"]["layers"] == 4
    assert teacher.config["vision_cfg"]["layers"] == 8
    out = student(torch.zeros(2, 3, 8, 8), torch.ones(2, 6, dtype=torch.int64))
    assert out["logits"].shape == (2, 5, 12)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())


def test_keeping_everything_gives_the_teacher_back(teacher: OpenClipModel) -> None:
    student, config = cut(teacher, {})
    assert config == teacher.config
    assert all(torch.equal(v, teacher.model.state_dict()[k]) for k, v in student.state_dict().items())


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"images": 2}, "'images'.*image, text, multimodal"),
        ({"image": 0}, "0 layers of image; expected 1 to 8"),
        ({"text": 5}, "5 layers of text; expected 1 to 4"),
    ],
)
def test_impossible_cuts_are_named(teacher: OpenClipModel, keep: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        cut(teacher, keep)
