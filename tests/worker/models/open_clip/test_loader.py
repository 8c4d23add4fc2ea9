"""Models are found by name or path, and loaded completely or not at all."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worker.errors import RecipeError
from worker.models.open_clip.files import CONFIG_FILE, create, read_config
from worker.models.open_clip.loader import load

DIGITS = Path(__file__).parents[4] / "deploy" / "models" / "digits-coca"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory with the digits configuration and fresh weights, in open_clip's layout."""
    config = read_config(str(DIGITS), Path())
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(create(config).state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_weights_come_from_the_directory_or_from_a_named_checkpoint(small: Path) -> None:
    loaded = load(f"open_clip:{small.name}", directory=small.parent)
    state = load_file(small / "model.safetensors")
    torch.save({f"module.{name}": value for name, value in state.items()}, small / "wrapped.pt")
    named = load(f"open_clip:{small.name}/{CONFIG_FILE}", checkpoint=f"{small.name}/wrapped.pt", directory=small.parent)
    for name, value in state.items():
        assert torch.equal(value, loaded.model.state_dict()[name])
        assert torch.equal(value, named.model.state_dict()[name])
    assert loaded.config["vision_cfg"]["layers"] == 8


def test_logit_scale_has_a_dimension(small: Path) -> None:
    """DeepSpeed cannot partition a parameter without dimensions."""
    state = load(f"open_clip:{small}").model.state_dict()
    state["logit_scale"] = state["logit_scale"].squeeze()
    save_file(state, small / "model.safetensors")
    assert load(f"open_clip:{small}").model.logit_scale.shape == (1,)


def test_fresh_decoder_projection_is_initialised() -> None:
    config = read_config(str(DIGITS), Path())
    projections = []
    for _ in range(2):
        torch.manual_seed(0)
        projections.append(create(config).get_parameter("text_decoder.text_projection").detach())
    assert torch.equal(*projections)
    assert float(projections[0].std()) == pytest.approx(64**-0.5, rel=0.1)


def test_open_clip_registry_keeps_configurations_of_one_file_name_apart(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    config = read_config(str(small), Path())
    config["vision_cfg"]["layers"] = 1
    (other / CONFIG_FILE).write_text(json.dumps(config))
    for loaded, layers in ((load(f"open_clip:{other}", fresh="if_bare"), 1), (load(f"open_clip:{small}"), 8)):
        assert len(list(loaded.model.get_submodule("visual.transformer.resblocks").children())) == layers


def test_loading_leaves_logging_as_it_was(small: Path) -> None:
    level = logging.getLogger().level
    load(f"open_clip:{small}")
    assert logging.getLogger().level == level


def test_builtin_configurations_go_by_name() -> None:
    assert read_config("coca_ViT-B-32", Path())["vision_cfg"]["layers"] == 12


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:coca_ViT-B-31", "did you mean 'coca_ViT-B-32'"),
        ("open_clip:", "open_clip:<name or path>"),
        ("openclip:coca_ViT-B-32", "open_clip:<name or path>"),
        ("open_clip:broken.json", "cannot be read as JSON"),
        ("open_clip:list.json", "expected the keys embed_dim"),
    ],
)
def test_wrong_spec_is_named(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(RecipeError, match=message):
        load(spec, directory=tmp_path)


def test_weights_that_do_not_fit_are_named_and_load_nothing(small: Path) -> None:
    state = load(f"open_clip:{small}").model.state_dict()
    state["visual.proof"] = state.pop("visual.proj")
    state["logit_scale"] = torch.ones(2)
    save_file(state, small / "model.safetensors")
    message = r"missing: visual\.proj; unexpected: visual\.proof; of another shape: logit_scale \[2\] instead"
    with pytest.raises(RecipeError, match=message):
        load(f"open_clip:{small}")


def test_several_weights_in_a_directory_are_an_error(small: Path) -> None:
    (small / "model.safetensors").rename(small / "mine.safetensors")
    save_file({"a": torch.ones(1)}, small / "other.safetensors")
    with pytest.raises(RecipeError, match=r"found mine\.safetensors, other\.safetensors"):
        load(f"open_clip:{small}")


def test_checkpoint_that_is_not_there_or_no_tensors_is_named(small: Path) -> None:
    with pytest.raises(RecipeError, match=r"the checkpoint .* does not exist"):
        load(f"open_clip:{small}", checkpoint="gone.safetensors", directory=small)
    (small / "text.safetensors").write_text("hello")
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        load(f"open_clip:{small}", checkpoint="text.safetensors", directory=small)
    torch.save([1], small / "list.pt")
    with pytest.raises(RecipeError, match="expected tensors by name"):
        load(f"open_clip:{small}", checkpoint="list.pt", directory=small)


def test_pickled_code_in_a_checkpoint_never_runs(small: Path) -> None:
    torch.save({"state_dict": Bomb(small / "boom")}, small / "bomb.pt")
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        load(f"open_clip:{small}", checkpoint="bomb.pt", directory=small)
    assert not (small / "boom").exists()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)
