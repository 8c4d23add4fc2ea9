"""Teacher and student each get the inputs that they need, or the difference is named before training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from tests.worker.data.pictures import write
from tests.worker.models.tokenizers import WORDS, save_tokenizer
from worker.data.base import Batch
from worker.data.loader import first_batches
from worker.distill.losses import logit_kl
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.teacher import Teacher
from worker.errors import RecipeError
from worker.recipe.recipe import Recipe, read_recipe
from worker.setup.models import Models, build_data, load_models
from worker.setup.shape_check import compare_shapes

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
KEEP_TEXT_OUT = "loss: {layers: {text: 0}}\narms: {image: [image]}\n"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("shards")
    noise = np.random.default_rng(0).integers(0, 255, (6, 12, 20, 3), dtype=np.uint8)
    samples = []
    for number, pixels in enumerate(noise):
        path = where / "picture.png"
        Image.fromarray(pixels).save(path)
        text = "a cat on the mat" if number % 2 else "the dog"
        samples.append({"__key__": str(number), "png": path.read_bytes(), "txt": text})
    write(where / "train.tar", samples[:4])
    write(where / "held.tar", samples[4:])
    return where


def clip(where: Path, preprocess: dict[str, Any] | None = None, *, size: int = 8, **text: Any) -> str:
    """Write the configuration of a CLIP, with a tokenizer of whole words unless ``text`` says otherwise."""
    where.mkdir(exist_ok=True)
    vision = {"image_size": size, "layers": 1, "width": 32, "head_width": 16, "patch_size": size // 2}
    tower = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1, **text}
    if "vocab_size" not in text:
        tower["hf_tokenizer_name"] = str(where)
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": tower},
        "preprocess_cfg": preprocess or {},
    }
    (where / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return f"open_clip:{where}"


def setup(where: Path, shards: Path, teacher: str, student: str, more: str = "") -> tuple[Recipe, Models]:
    weights = ", weights: random" if ":" in teacher and not teacher.startswith("tests") else ""
    path = where / "recipe.yaml"
    path.write_text(
        f"teacher: {{model: '{teacher}'{weights}}}\nstudent: {{model: '{student}'}}\n"
        f"data: {{name: webdataset, options: {{train: '{shards}/train.tar', held_out: '{shards}/held.tar', "
        f"shuffle: 0}}}}\n{more}",
        encoding="utf-8",
    )
    recipe = read_recipe(path, {})
    return recipe, load_models(recipe)


def check(recipe: Recipe, models: Models) -> Batch:
    """Check a recipe as a job does before training, and return its first batch."""
    data = build_data(recipe, models)
    rows = first_batches(data, count=1, size=4)[0]
    compare_shapes(
        models, rows, forced=recipe.train == "forced",
        objective=Objective(models.adapter, models.pairs, recipe.loss),
        vocab_size=data.vocab_size, text_difference=getattr(data, "text_difference", ""),
    )  # fmt: skip
    return rows


def seen(models: Models, batch: Batch) -> Tensor:
    teacher = Teacher(models.teacher, torch.device("cpu"), torch.float32)
    return teacher.run(["image"], batch).boundary["image"]["latent"]


def test_pictures_are_prepared_for_each_from_one_draw(tmp_path: Path, shards: Path, caplog: Any) -> None:
    save_tokenizer(tmp_path / "teacher", pad_token="<pad>")
    save_tokenizer(tmp_path / "student", pad_token="<pad>")
    theirs = clip(tmp_path / "teacher", {"mean": MEAN, "std": STD, "interpolation": "bilinear"}, size=12)
    ours = clip(tmp_path / "student")
    with caplog.at_level(logging.INFO):
        recipe, models = setup(tmp_path, shards, theirs, ours)
        batch = check(recipe, models)
    assert "the teacher gets pictures of its own: [3, 12, 12] with values from" in caplog.text
    assert batch["image"].shape == (4, 3, 8, 8)
    assert "teacher/text" not in batch
    transform = image_transform_v2(
        PreprocessCfg(size=12, mean=tuple(MEAN), std=tuple(STD), interpolation="bilinear"), is_train=False
    )
    pixels = np.random.default_rng(0).integers(0, 255, (6, 12, 20, 3), dtype=np.uint8)
    expected = torch.stack([transform(Image.fromarray(row)) for row in pixels[:4]])
    assert torch.equal(batch["teacher/image"], expected)
    model: Any = models.teacher.model
    with torch.no_grad():
        assert torch.equal(seen(models, batch), model.eval().encode_image(expected))
        student: Any = models.student.model
        boundary = models.student.run(["image"], batch).boundary
        assert torch.equal(boundary["image"]["latent"], student.encode_image(batch["image"]))
    recipe.data.options["augment"] = True
    augmented = first_batches(build_data(recipe, models), count=1, size=4)[0]
    assert not torch.equal(augmented["teacher/image"], expected)


def test_what_both_prepare_alike_is_prepared_once(tmp_path: Path, shards: Path) -> None:
    for name in ("teacher", "student"):
        save_tokenizer(tmp_path / name, pad_token="<pad>")
    theirs = clip(tmp_path / "teacher", {"mean": list(open_clip.OPENAI_DATASET_MEAN)})
    recipe, models = setup(tmp_path, shards, theirs, clip(tmp_path / "student"))
    assert not [name for name in check(recipe, models) if name.startswith("teacher/")]


def test_the_teachers_texts_are_padded_by_its_own_token(tmp_path: Path, shards: Path) -> None:
    save_tokenizer(tmp_path / "teacher", pad_token="</s>")
    save_tokenizer(tmp_path / "student", pad_token="<pad>")
    batch = check(*setup(tmp_path, shards, clip(tmp_path / "teacher"), clip(tmp_path / "student")))
    pad, end = WORDS.index("<pad>"), WORDS.index("</s>")
    mask = batch["attention_mask"].bool()
    assert (batch["text"] == pad).equal(~mask)
    assert batch["teacher/text"].equal(batch["text"].masked_fill(~mask, end))
    assert mask.sum(1).tolist() == [4, 7, 4, 7]


OTHER = tuple(reversed(WORDS))
MORE = (*WORDS, "cow", "pig")


@pytest.mark.parametrize(
    ("words", "text", "difference"),
    [
        (OTHER, {}, r"the text 'a photo of a cat' is \[9, 6, 10, 10, 6, 5, 8\] for the teacher and \[1, 4, 0, 0, 4, 5"),
        (MORE, {}, "the token 11 is 'cow' for the teacher and '' for the student"),
        (WORDS, {"context_length": 9}, "a text has 9 tokens for the teacher and 8 for the student, padding included"),
    ],
)
def test_another_tokenizer_is_refused_unless_nothing_is_compared_token_by_token(
    tmp_path: Path, shards: Path, words: tuple[str, ...], text: dict[str, Any], difference: str
) -> None:
    save_tokenizer(tmp_path / "teacher", words, pad_token="<pad>")
    save_tokenizer(tmp_path / "student", pad_token="<pad>")
    theirs, ours = clip(tmp_path / "teacher", **text), clip(tmp_path / "student")
    with pytest.raises(
        RecipeError,
        match=rf"teacher and student encode texts differently \({difference}.*\), so nothing can be compared token by "
        r"token; use a student with the teacher's tokenizer and context length, or set loss\.layers: \{text: 0\} "
        r"and arms without text$",
    ):
        check(*setup(tmp_path, shards, theirs, ours))
    recipe, models = setup(tmp_path, shards, theirs, ours, KEEP_TEXT_OUT)
    batch = check(recipe, models)
    assert batch["teacher/text"].shape == (4, text.get("context_length", 8))
    if words == OTHER:
        model: Any = models.teacher.model
        with torch.no_grad():
            latents = models.teacher.run(["text"], batch).boundary["text"]["latent"]
            assert torch.equal(latents, model.encode_text(batch["teacher/text"]))
        named = [[words[token] for token in row] for row in batch["teacher/text"].tolist()]
        assert named == [[WORDS[token] for token in row] for row in batch["text"].tolist()]


def own_clip() -> nn.Module:
    from worker.models.open_clip.files import create

    return create(json.loads(Path(FACTORY_CONFIG[0]).read_text(encoding="utf-8"))["model_cfg"])


FACTORY_CONFIG: list[str] = []
MODULES = """modules:
  image: {path: visual, layers: visual.transformer.resblocks.*}
  text: {path: transformer, layers: transformer.resblocks.*}
train: active
"""


def test_a_teacher_whose_preprocessing_is_unknown_is_given_the_students_with_a_warning(
    tmp_path: Path, shards: Path, caplog: Any
) -> None:
    save_tokenizer(tmp_path / "student", pad_token="<pad>")
    ours = clip(tmp_path / "student")
    FACTORY_CONFIG[:] = [str(tmp_path / "student" / "open_clip_config.json")]
    recipe, models = setup(tmp_path, shards, "tests.worker.setup.test_inputs:own_clip", ours, MODULES)
    batch = first_batches(build_data(recipe, models), count=1, size=4)[0]
    assert not [name for name in batch if name.startswith("teacher/")]
    assert "the teacher is given the student's inputs: the preprocessing of a CLIP is not known" in caplog.text


def test_a_teacher_without_its_tokenizer_is_refused(tmp_path: Path, shards: Path) -> None:
    save_tokenizer(tmp_path / "student", pad_token="<pad>")
    (tmp_path / "teacher").mkdir()
    with pytest.raises(RecipeError, match=r"data: the teacher's texts: text_cfg\.hf_tokenizer_name .* cannot"):
        check(*setup(tmp_path, shards, clip(tmp_path / "teacher"), clip(tmp_path / "student")))


class Sentences:
    """Texts of 100 tokens, made by the data module itself."""

    pad_id, context_length, kinds = 0, 6, ("text",)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        rows = torch.randint(1, 100, (8, 6), generator=torch.Generator().manual_seed(0))
        self.train = self.held_out = self.questions = [{"text": row} for row in rows]
        self.collate = torch.utils.data.default_collate


def writer(where: Path, name: str, rows: int) -> str:
    config = transformers.GPT2Config(vocab_size=rows, n_embd=8, n_layer=3, n_head=2, n_positions=6, pad_token_id=0)
    config.save_pretrained(where / name)
    return f"hf:{where / name}"


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    where = tmp_path_factory.mktemp("writers")
    return where, {rows: writer(where, str(rows), rows) for rows in (100, 104)}


@pytest.mark.parametrize(("theirs", "ours"), [(100, 104), (104, 100)])
def test_logits_are_compared_by_the_classes_that_both_have(
    writers: tuple[Path, dict[int, str]], theirs: int, ours: int
) -> None:
    where, specs = writers
    recipe, models = setup(where, where, specs[theirs], specs[ours])
    objective = Objective(models.adapter, models.pairs, recipe.loss)
    batch = torch.utils.data.default_collate(Sentences(100).train)
    compare_shapes(models, batch, forced=True, objective=objective, vocab_size=100)
    terms, logits = terms_of(models, objective, batch)
    expected = logit_kl(logits[0][..., :100], logits[1][..., :100], None, 2.0)
    assert terms["logits/kl"].item() == pytest.approx(expected.item(), rel=1e-6)
    # The student's own task loss is over all of its classes.
    own = torch.nn.functional.cross_entropy(logits[0].flatten(0, 1), batch["text"][:, 1:].flatten())
    assert terms["task/tokens"].item() == pytest.approx(own.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("vocab_size", "loss", "message"),
    [
        (104, {}, r"the student's logits are \[8, 5, 104\] and the teacher's \[8, 5, 100\], and the data's vocab_size "
         r"is 104, so the classes after 100 may be more than padding; .* loss\.classes: 100, or else loss\.logits: 0$"),
        (0, {}, r"the teacher's \[8, 5, 100\], so the classes after 100 may be more"),
        (0, {"classes": 101}, r"they do not have the 101 classes of loss\.classes in common; set at most 100$"),
        (0, {"classes": 100}, ""),
        (0, {"classes": 7}, ""),
        (104, {"logits": 0.0}, ""),
    ],
)  # fmt: skip
def test_other_classes_are_refused_unless_the_recipe_says_that_they_are_padding(
    writers: tuple[Path, dict[int, str]], vocab_size: int, loss: dict[str, Any], message: str
) -> None:
    where, specs = writers
    _, models = setup(where, where, specs[100], specs[104])
    objective = Objective(models.adapter, models.pairs, LossWeights.model_validate(loss))
    batch = torch.utils.data.default_collate(Sentences(100).train)
    if message:
        with pytest.raises(RecipeError, match=message):
            compare_shapes(models, batch, forced=True, objective=objective, vocab_size=vocab_size)
        return
    compare_shapes(models, batch, forced=True, objective=objective, vocab_size=vocab_size)
    terms, logits = terms_of(models, objective, batch)
    if classes := loss.get("classes"):
        expected = logit_kl(logits[0][..., :classes], logits[1][..., :classes], None, 2.0)
        assert terms["logits/kl"].item() == pytest.approx(expected.item(), rel=1e-6)


def terms_of(models: Models, objective: Objective, batch: Batch) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Return the terms of joint training, and both models' logits."""
    planner = Planner(models.adapter.modules, "upper", "forced")
    with torch.no_grad():
        for modular, _ in models.both:
            modular.model.eval()
        ours, theirs = (modular.run(planner.modules, batch) for modular, _ in models.both)
    assert ours.logits is not None
    assert theirs.logits is not None
    terms = objective.terms(planner.joint(), models.student.model, ours, theirs, batch)
    return terms, (ours.logits, theirs.logits)
