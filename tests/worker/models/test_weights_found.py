"""Weights are loaded wherever the model's own library loads them, and are fresh only where that was asked for."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip import factory
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.launch import ROOT
from tests.worker.models.tiny_families import CONFIGS, Towers, directory
from worker.errors import RecipeError
from worker.models.base import Fresh
from worker.models.open_clip.files import CONFIG_FILE, PREFERRED, create, weights_of
from worker.models.sources import load
from worker.models.weights import load_weights
from worker.recipe.recipe import read_recipe
from worker.setup.models import Models, load_models

State = dict[str, Tensor]
MEAN = [0.1, 0.2, 0.3]


@pytest.fixture(scope="module")
def clip() -> State:
    """Weights of the small CLIP."""
    torch.manual_seed(7)
    return dict(create(CONFIGS["clip"]).state_dict())


@pytest.fixture(scope="module")
def gpt2() -> Any:
    """A small GPT-2."""
    torch.manual_seed(1)
    return _new_gpt2()


def _new_gpt2() -> Any:
    fields = dict(CONFIGS["gpt2"])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    return transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


def clip_folder(place: Path) -> Path:
    """A directory in open_clip's layout, with a preprocessing of its own and no weights."""
    place.mkdir(parents=True, exist_ok=True)
    layout = {"model_cfg": CONFIGS["clip"], "preprocess_cfg": {"mean": MEAN}}
    (place / CONFIG_FILE).write_text(json.dumps(layout), encoding="utf-8")
    return place


def write(state: State, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({name: value.clone() for name, value in state.items()}, path)
    else:
        torch.save(state, path)


def same(model: torch.nn.Module, state: State) -> bool:
    ours = model.state_dict()
    assert all(value.dtype == torch.float32 for value in ours.values() if value.is_floating_point())
    return set(ours) == set(state) and all(
        torch.equal(value, state[name].float().reshape(value.shape)) for name, value in ours.items()
    )


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


@pytest.mark.parametrize("name", [*PREFERRED, "mine.safetensors", "mine.bin", "mine.pth", "student.safetensors"])
def test_an_open_clip_folder_gives_its_weights_whatever_their_name(name: str, clip: State, tmp_path: Path) -> None:
    write(clip, clip_folder(tmp_path / "clip") / name)
    for spec in ("open_clip:clip", "open_clip:local-dir:clip", f"open_clip:local-dir:{tmp_path}/clip"):
        for fresh in ("never", "if_bare"):
            loaded: Any = load(spec, directory=tmp_path, fresh=fresh)
            assert same(loaded.model, clip)
            assert loaded.preprocess == {"mean": MEAN}
            assert loaded.weights == f"from {tmp_path / 'clip' / name}"
    theirs = open_clip.create_model(f"local-dir:{tmp_path}/clip").state_dict()
    assert all(torch.equal(value, clip[key].reshape(value.shape)) for key, value in theirs.items())


def test_of_several_weights_open_clips_own_choice_is_loaded(tmp_path: Path) -> None:
    """Of any two names that it prefers, and before any that it does not."""
    for number, names in enumerate(combinations([*PREFERRED, "a.safetensors"], 2)):
        folder = clip_folder(tmp_path / str(number))
        for name in names:
            (folder / name).touch()
        (folder / "training_args.bin").touch()
        chosen = weights_of(str(folder), Path())
        assert str(chosen) == factory._find_checkpoint_in_dir(folder), names


@pytest.mark.parametrize(
    ("change", "ending"),
    [
        (lambda state: {f"module.{name}": value for name, value in state.items()}, ".safetensors"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, ".bin"),
        (lambda state: {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, ".pth"),
        (lambda state: {name: value.half() for name, value in state.items()}, ".bin"),
        (lambda state: {**state, "logit_scale": state["logit_scale"].squeeze()}, ".bin"),
    ],
)
def test_an_open_clip_folders_weights_may_be_wrapped_or_of_another_precision(
    change: Callable[[State], Any], ending: str, clip: State, tmp_path: Path
) -> None:
    clip = {name: value.half().float() for name, value in clip.items()}
    write(change(clip), clip_folder(tmp_path) / f"open_clip_pytorch_model{ending}")
    assert same(load(f"open_clip:{tmp_path}").model, clip)


def test_older_names_of_open_clips_tensors_are_known(clip: State, tmp_path: Path) -> None:
    folder = directory("custom_clip", tmp_path)
    write(clip, folder / "open_clip_pytorch_model.bin")
    model = load(f"open_clip:{folder}").model.state_dict()
    assert torch.equal(model["text.positional_embedding"], clip["positional_embedding"])
    assert torch.equal(model["text.transformer.resblocks.0.ln_1.weight"], clip["transformer.resblocks.0.ln_1.weight"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.safetensors", "b.bin"], r"expected one file of weights in .*, found a\.safetensors, b\.bin"),
        (["flax_model.msgpack"], r"has flax_model\.msgpack; name one of them as the checkpoint"),
        (["tf_model.h5", "model.gguf"], r"has model\.gguf, tf_model\.h5"),
        (["epoch_1.pt"], r"open_clip loads only \*\.safetensors, \*\.bin, \*\.pth .* epoch_1\.pt"),
        (["checkpoints/epoch_1.pt"], r"has checkpoints/epoch_1\.pt"),
    ],
)
def test_an_open_clip_folder_whose_weights_cannot_be_used_is_never_fresh(
    files: list[str], message: str, clip: State, tmp_path: Path
) -> None:
    clip_folder(tmp_path)
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(clip, tmp_path / name)
    for fresh in ("never", "if_bare"):
        with pytest.raises(RecipeError, match=message):
            load(f"open_clip:{tmp_path}", fresh=fresh)
    assert not same(load(f"open_clip:{tmp_path}", fresh="always").model, clip)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:clip", r"the directory .*/clip has open_clip_config\.json but none of \*\.safetensors"),
        ("open_clip:local-dir:clip", r"the directory .*/clip has"),
        ("open_clip:clip/open_clip_config.json", r"open_clip_config\.json is only a configuration\."),
        ("open_clip:full/open_clip_config.json", r"to load model\.safetensors, name the directory .*full\."),
        ("open_clip:ViT-B-32", r"tags openai, .*, as in open_clip:ViT-B-32@openai"),
        ("open_clip:ViT-S-32", r"for which open_clip has no weights"),
        ("hf:gpt2", r"the directory .*/gpt2 has config\.json but no file of weights"),
    ],
)
def test_a_teacher_without_weights_is_refused_with_where_they_were_looked_for(
    spec: str, message: str, clip: State, tmp_path: Path
) -> None:
    clip_folder(tmp_path / "clip")
    write(clip, clip_folder(tmp_path / "full") / "model.safetensors")
    directory("gpt2", tmp_path)
    with pytest.raises(RecipeError, match=f"{spec} has no weights: .*{message}") as refused:
        load(spec, directory=tmp_path)
    assert "`checkpoint`" in str(refused.value)
    assert "`weights: random`" in str(refused.value)


@pytest.mark.parametrize("spec", ["open_clip:clip", "open_clip:clip/open_clip_config.json", "hf:gpt2"])
def test_fresh_weights_are_given_to_what_may_have_them_and_said(spec: str, tmp_path: Path) -> None:
    clip_folder(tmp_path / "clip")
    directory("gpt2", tmp_path)
    (tmp_path / "gpt2" / "training_args.bin").touch()
    states = []
    messages: dict[Fresh, str] = {"if_bare": "random (", "always": "random (asked for by the recipe)"}
    for fresh, message in messages.items():
        torch.manual_seed(5)
        loaded = load(spec, directory=tmp_path, fresh=fresh)
        assert loaded.weights.startswith(message)
        states.append(loaded.model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_what_is_named_with_its_weights_cannot_be_asked_for_fresh(clip: State, tmp_path: Path) -> None:
    write(clip, clip_folder(tmp_path / "clip") / "w.bin")
    for spec, checkpoint in (
        ("open_clip:ViT-B-32@openai", None),
        ("open_clip:clip@clip/w.bin", None),
        ("open_clip:clip", "clip/w.bin"),
        ("hf:gpt2", "w.bin"),
    ):
        with pytest.raises(RecipeError, match=r"has both weights .* and `weights: random`; remove one of them"):
            load(spec, checkpoint=checkpoint, directory=tmp_path, fresh="always")
    with pytest.raises(RecipeError, match="is a factory, which makes its own weights"):
        load("tests.worker.models.tiny_families:Towers", fresh="always")


def test_paths_may_hold_an_at_sign_begin_at_home_or_be_absolute(
    clip: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = clip_folder(tmp_path / "models@home" / "clip@2")
    write(clip, home / "w@1.safetensors")
    bare = clip_folder(tmp_path / "bare")
    elsewhere = tmp_path / "elsewhere"
    for spec, checkpoint in (
        (f"open_clip:{home}", None),
        ("open_clip:~/models@home/clip@2", None),
        ("open_clip:local-dir:~/models@home/clip@2", None),
        (f"open_clip:{home}@{home}/w@1.safetensors", None),
        ("open_clip:~/bare@~/models@home/clip@2/w@1.safetensors", None),
        (f"open_clip:{bare}", "~/models@home/clip@2/w@1.safetensors"),
        (f"open_clip:{bare / CONFIG_FILE}", str(home / "w@1.safetensors")),
    ):
        assert same(load(spec, checkpoint=checkpoint, directory=elsewhere).model, clip), spec
    towers = Towers()
    write(dict(towers.state_dict()), tmp_path / "towers.safetensors")
    made = load("tests.worker.models.tiny_families:Towers", checkpoint="~/towers.safetensors", directory=elsewhere)
    assert same(made.model, dict(towers.state_dict()))


def test_local_dir_is_never_taken_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no file or directory .*/ViT-B-32"):
        load("open_clip:local-dir:ViT-B-32", directory=tmp_path, fresh="if_bare")


def rename_weights(place: Path, variant: str) -> None:
    """The names that the files of a model have as a variant."""
    for path in sorted(place.iterdir()):
        if path.name.startswith(("model", "pytorch_model")):
            stem, _, ending = path.name.rpartition(".")
            path.rename(path.with_name(f"{stem}.{variant}.{ending}"))


def save(model: Any, place: Path, kind: str) -> Path:
    """A model as transformers writes it, or wrote it: whole or in shards, safetensors or torch files."""
    sharded = "shards" in kind
    model.save_pretrained(place, max_shard_size="10KB" if sharded else "1GB")
    if kind.startswith("torch"):
        for path in sorted(place.glob("*.safetensors")):
            torch.save(load_file(path), path.with_name(_torch_name(path.name)))
            path.unlink()
        for path in place.glob("*.index.json"):
            index = json.loads(path.read_text())
            index["weight_map"] = {name: _torch_name(file) for name, file in index["weight_map"].items()}
            path.with_name("pytorch_model.bin.index.json").write_text(json.dumps(index))
            path.unlink()
    assert sum(path.suffix in (".bin", ".safetensors") for path in place.iterdir()) > 1 if sharded else True
    return place


def _torch_name(name: str) -> str:
    return f"pytorch_{name.removesuffix('.safetensors')}.bin"


KINDS = ["safetensors", "safetensors shards", "torch", "torch shards"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_transformers_folder_gives_its_weights_whole_or_in_shards(kind: str, gpt2: Any, tmp_path: Path) -> None:
    place = save(gpt2, tmp_path / "writer", kind)
    for fresh in ("never", "if_bare"):
        loaded = load("hf:writer", directory=tmp_path, fresh=fresh)
        assert same(loaded.model, gpt2.state_dict())
        assert loaded.weights == f"from {place}"
    assert not same(load("hf:writer", directory=tmp_path, fresh="always").model, gpt2.state_dict())


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
@pytest.mark.parametrize("options", [{}, {"variant": "fp16"}])
def test_the_only_variant_is_loaded_and_said(
    kind: str, options: dict[str, str], gpt2: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = _new_gpt2().half()
    place = save(half, tmp_path / "writer", kind)
    rename_weights(place, "fp16")
    with caplog.at_level(logging.WARNING):
        loaded = load("hf:writer", directory=tmp_path, options=options)
    assert same(loaded.model, half.state_dict())
    assert loaded.weights == f"from {place}, variant fp16"
    assert ("has weights only in the variant fp16" in caplog.text) == (not options)


def test_a_variant_in_shards_is_loaded(gpt2: Any, tmp_path: Path) -> None:
    gpt2.save_pretrained(tmp_path, max_shard_size="10KB", variant="fp16")
    assert (tmp_path / "model.safetensors.index.fp16.json").exists()
    assert same(load(f"hf:{tmp_path}").model, gpt2.state_dict())


def test_of_several_variants_one_must_be_chosen(gpt2: Any, tmp_path: Path) -> None:
    gpt2.save_pretrained(tmp_path, variant="fp16")
    (tmp_path / "model.bf16.safetensors").write_bytes((tmp_path / "model.fp16.safetensors").read_bytes())
    for fresh in ("never", "if_bare"):
        with pytest.raises(RecipeError, match=r"variants .bf16, fp16.; choose.*options: \{variant: bf16\}"):
            load(f"hf:{tmp_path}", fresh=fresh)
    assert same(load(f"hf:{tmp_path}", options={"variant": "fp16"}).model, gpt2.state_dict())
    with pytest.raises(RecipeError, match=r"its variants are bf16, fp16"):
        load(f"hf:{tmp_path}", options={"variant": "fp8"})


def test_weights_without_a_variant_come_first_even_if_they_are_broken(gpt2: Any, tmp_path: Path) -> None:
    save(gpt2, tmp_path, "torch")
    shutil.copyfile(tmp_path / "pytorch_model.bin", tmp_path / "pytorch_model.fp16.bin")
    assert load(f"hf:{tmp_path}").weights == f"from {tmp_path}"
    (tmp_path / "pytorch_model.bin").write_text("no weights")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["student.safetensors"], r"it has the files student\.safetensors\. Name one of them as `checkpoint`"),
        (["flax_model.msgpack"], r"flax_model\.msgpack"),
        (["tf_model.h5"], r"tf_model\.h5"),
        (["writer-q4.gguf"], r"writer-q4\.gguf"),
        (["checkpoint-5/model.safetensors"], r"checkpoint-5/model\.safetensors"),
        (["model.safetensors.index.json"], "cannot be loaded"),
        (["model.safetensors"], "cannot be loaded"),
    ],
)
def test_a_transformers_folder_whose_weights_cannot_be_used_is_never_fresh(
    files: list[str], message: str, tmp_path: Path
) -> None:
    place = directory("gpt2", tmp_path)
    for name in files:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("{}")
    for fresh in ("never", "if_bare"):
        with pytest.raises(RecipeError, match=message):
            load("hf:gpt2", directory=tmp_path, fresh=fresh)
    assert load("hf:gpt2", directory=tmp_path, fresh="always").weights.startswith("random")


def test_tensors_that_are_missing_are_named_and_those_beside_are_said(
    gpt2: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(gpt2, tmp_path, "safetensors")
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "stray": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        load(f"hf:{tmp_path}")
    assert "tensors that the model does not use: stray" in caplog.text
    state.pop("transformer.ln_f.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"do not fit the model: missing keys: transformer\.ln_f\.weight"):
        load(f"hf:{tmp_path}")


def test_a_model_in_a_folder_of_a_folder_and_a_file_in_its_place(gpt2: Any, tmp_path: Path) -> None:
    save(gpt2, tmp_path / "all" / "writer", "safetensors")
    loaded: Any = load("hf:all", options={"subfolder": "writer"}, directory=tmp_path)
    assert same(loaded.model, gpt2.state_dict())
    assert loaded.place == str(tmp_path / "all" / "writer")
    with pytest.raises(RecipeError, match=r"config\.json is a file; name its directory"):
        load("hf:all/writer/config.json", directory=tmp_path, fresh="if_bare")


def cached(hub: Path, name: str, files: Path) -> None:
    """Put a directory's files into the hub's cache, as a download does."""
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    shutil.copytree(files, place / "snapshots" / "0123456789abcdef0123456789abcdef01234567")


OFFLINE = """
import json, sys
import torch
from worker.errors import RecipeError
from worker.models.sources import load
from worker.models.weights import load_weights
for spec, fresh, options in json.loads(sys.argv[1]):
    try:
        loaded = load(spec, fresh=fresh, options=options)
        value = next(iter(loaded.model.parameters()))
        shown = [loaded.weights, str(value.dtype), float(sum(p.double().sum() for p in loaded.model.parameters()))]
        shown.append(getattr(loaded, "preprocess", None))
    except RecipeError as error:
        shown = ["error", str(error)]
    print("LOADED " + json.dumps(shown))
"""


def offline(hub: Path, *asked: tuple[str, Fresh, dict[str, str]], where: Path) -> list[list[Any]]:
    """Load models in a process without network; the libraries read the environment when they are imported."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps(asked)],
        capture_output=True, text=True, timeout=200, cwd=where, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    return [json.loads(line.removeprefix("LOADED ")) for line in lines]


def total(state: State, model: torch.nn.Module) -> float:
    return sum(float(state[name].double().sum()) for name, _ in model.named_parameters())


def test_what_is_in_the_hubs_cache_is_loaded_offline(clip: State, gpt2: Any, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    for name, file in (("bin", "open_clip_pytorch_model.bin"), ("safe", "open_clip_model.safetensors")):
        write(clip, clip_folder(tmp_path / name) / file)
        cached(hub, f"org/{name}", tmp_path / name)
    cached(hub, "org/bare", clip_folder(tmp_path / "bare"))
    for number, kind in enumerate(KINDS):
        cached(hub, f"org/writer{number}", save(gpt2, tmp_path / f"writer{number}", kind))
    for name, variants in (("half", ["fp16"]), ("both", ["fp16", "bf16"])):
        for variant in variants:
            gpt2.save_pretrained(tmp_path / name, variant=variant)
        cached(hub, f"org/{name}", tmp_path / name)
    cached(hub, "org/config", directory("gpt2", tmp_path))
    bin_, safe, bare, bare_student, gone, *rest = offline(
        hub,
        ("open_clip:hf-hub:org/bin", "never", {}),
        ("open_clip:hf-hub:org/safe", "if_bare", {}),
        ("open_clip:hf-hub:org/bare", "never", {}),
        ("open_clip:hf-hub:org/bare", "if_bare", {}),
        ("open_clip:hf-hub:org/gone", "if_bare", {}),
        ("open_clip:hf-hub:org/bare", "always", {}),
        *((f"hf:org/writer{number}", "if_bare", {}) for number in range(len(KINDS))),
        ("hf:org/half", "never", {}),
        ("hf:org/both", "never", {}),
        ("hf:org/both", "never", {"variant": "bf16"}),
        ("hf:org/config", "never", {}),
        ("hf:org/config", "if_bare", {}),
        ("hf:org/config", "always", {}),
        where=tmp_path,
    )
    sum_of_clip = pytest.approx(total(clip, create(CONFIGS["clip"])), abs=1e-6)
    for found, file in ((bin_, "open_clip_pytorch_model.bin"), (safe, "open_clip_model.safetensors")):
        assert found[0].startswith("from ")
        assert found[0].endswith(file)
        assert found[1:] == ["torch.float32", sum_of_clip, {"mean": MEAN}]
    for found in (bare, bare_student):
        assert found[0] == "error"
        assert "hf-hub:org/bare: its weights cannot be downloaded from the hub, nor found in its cache" in found[1]
        assert str(hub) in found[1]
    assert "hf-hub:org/gone: open_clip_config.json cannot be downloaded" in gone[1]
    forced, *writers, half, both, chosen, config, config_student, config_forced = rest
    assert forced[0] == "random (asked for by the recipe)"
    assert forced[2] != sum_of_clip
    sum_of_writer = pytest.approx(total(gpt2.state_dict(), gpt2), abs=1e-6)
    for number, found in enumerate(writers):
        assert found[:3] == [f"from org/writer{number}", "torch.float32", sum_of_writer]
    assert half[:3] == ["from org/half, variant fp16", "torch.float32", sum_of_writer]
    assert both[0] == "error"
    assert "several variants (bf16, fp16)" in both[1]
    assert chosen[:3] == ["from org/both, variant bf16", "torch.float32", sum_of_writer]
    for found in (config, config_student):
        assert found[0] == "error"
        assert "hf:org/config cannot be loaded" in found[1]
    assert config_forced[0].startswith("random")


RECIPE = "teacher: {teacher}\nstudent: {student}\ndata: {{name: digits}}\n"


def assembled(where: Path, teacher: str, student: str) -> Models:
    path = where / "recipe.yaml"
    path.write_text(RECIPE.format(teacher=teacher, student=student), encoding="utf-8")
    return load_models(read_recipe(path, {}))


def test_a_recipe_says_whose_weights_may_be_fresh(clip: State, tmp_path: Path) -> None:
    clip_folder(tmp_path / "bare")
    write(clip, clip_folder(tmp_path / "full") / "open_clip_pytorch_model.bin")
    full, bare = "{model: 'open_clip:full'}", "{model: 'open_clip:bare'}"
    with pytest.raises(RecipeError, match=r"line 1: teacher\.model: open_clip:bare has no weights"):
        assembled(tmp_path, bare, bare)
    made = assembled(tmp_path, full, bare)
    assert same(made.teacher.model, clip)
    assert not same(made.student.model, clip)
    assert made.teacher_weights.startswith("from ")
    assert made.exported.weights.startswith("random (the directory ")
    assert same(assembled(tmp_path, full, full).student.model, clip)
    assert not same(assembled(tmp_path, full, full[:-1] + ", weights: random}").student.model, clip)
    random = "{model: 'open_clip:full', weights: random}"
    first, second = assembled(tmp_path, random, bare), assembled(tmp_path, random, bare)
    assert same(first.teacher.model, dict(second.teacher.model.state_dict())), "on every rank the same"
    assert not same(first.teacher.model, clip)
    assert not same(first.student.model, dict(first.teacher.model.state_dict()))


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ("{model: m, weights: fresh}", "{keep: {}}", r"teacher\.weights: input should be 'random'"),
        ("{model: m, weights: random, checkpoint: w}", "{keep: {}}", "teacher: set either `checkpoint`"),
        ("{model: m}", "{model: m, weights: random, checkpoint: w}", "student: set either `checkpoint`"),
        ("{model: m}", "{keep: {}, weights: random}", "student: `weights` needs `model`"),
        ("{model: 'open_clip:ViT-B-32@openai', weights: random}", "{keep: {}}", "has both weights .openai. and"),
    ],
)
def test_a_recipe_asks_for_one_kind_of_weights(teacher: str, student: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        assembled(tmp_path, teacher, student)


def test_weights_that_a_wrapper_or_a_training_program_wrote_are_read(tmp_path: Path) -> None:
    towers = Towers()
    state = dict(towers.state_dict())
    deep = {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()}
    cases: list[Any] = [
        {f"module.{name}": value for name, value in state.items()},
        {f"_orig_mod.{name}": value for name, value in state.items()},
        {f"module._orig_mod.{name}": value for name, value in state.items()},
        {f"_orig_mod.module.{name}": value for name, value in state.items()},
        {f"student.network.{name}": value for name, value in state.items()},
        deep,
        {"state_dict": {f"model.{name}": value for name, value in state.items()}, "epoch": 3},
        {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        {"module": {f"module.{name}": value for name, value in state.items()}},
    ]
    for index, case in enumerate(cases):
        torch.save(case, tmp_path / f"{index}.pt")
        made = load("tests.worker.models.tiny_families:Towers", checkpoint=f"{index}.pt", directory=tmp_path)
        assert same(made.model, state), index
    first = next(iter(state))
    wrong = {**state, first: (100 * state[first]).to(torch.int8)}
    torch.save(wrong, tmp_path / "int8.pt")
    with pytest.raises(RecipeError, match=rf"of another type: {first} torch\.int8 instead of torch\.float32"):
        load("tests.worker.models.tiny_families:Towers", checkpoint="int8.pt", directory=tmp_path)


def test_weight_norm_is_read_in_both_versions() -> None:
    model = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    state = dict(model.state_dict())
    old = {"bias": state["bias"], "weight_g": state["parametrizations.weight.original0"],
           "weight_v": state["parametrizations.weight.original1"]}  # fmt: skip
    fresh = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    for version in (old, state):
        load_weights(fresh, version, "a file")
        assert torch.equal(fresh.weight, model.weight)
