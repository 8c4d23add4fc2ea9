"""Models of open_clip, by what a recipe calls them: ``open_clip:<name or path>[@<pretrained>]``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import open_clip
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.export import STUDENT_FILE, check_names, write_tensors
from worker.files import replace
from worker.models.base import Adapter, Loaded
from worker.models.clip import ClipAdapter
from worker.models.coca import CoCaAdapter
from worker.models.open_clip_cut import cut
from worker.models.open_clip_files import (
    CONFIG_FILE,
    Config,
    create,
    read_config,
    read_preprocess,
    tensor_names,
    weights_beside,
    write_config,
)
from worker.models.open_clip_inputs import OpenClipInputs
from worker.models.weights import load_weights, read_weights

FAMILY = "open_clip"
PREPROCESS = [each.name for each in fields(PreprocessCfg)]


@dataclass(frozen=True)
class OpenClipModel(Loaded):
    """A CoCa or CLIP.

    Attributes:
        config: Its open_clip ``model_cfg``.
        preprocess: Its ``preprocess_cfg``: what differs from open_clip's default, such as mean and std.
    """

    model: nn.Module
    config: Config
    preprocess: Config = field(default_factory=dict)
    adapter: Adapter = field(init=False)

    def __post_init__(self) -> None:
        adapter = CoCaAdapter() if "multimodal_cfg" in self.config else ClipAdapter(self.model)
        object.__setattr__(self, "adapter", adapter)

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> OpenClipModel:
        return OpenClipModel(*cut(self.model, self.config, keep), self.preprocess)

    def inputs(self) -> OpenClipInputs:
        return OpenClipInputs(self.config, self.preprocess)

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """``open_clip.create_model("local-dir:DIRECTORY")`` gives the student back.

        Raises:
            ValueError: The names are not those of the configured model.
        """
        check_names(state, tensor_names(self.config))
        save(state, self.config, directory, weights=STUDENT_FILE, preprocess=self.preprocess)
        return directory / STUDENT_FILE


def save(
    state: Mapping[str, Tensor], config: Config, directory: Path, *, weights: str, preprocess: Config | None = None
) -> None:
    """Write weights and configuration in the layout of open_clip's directories."""
    replace(directory / CONFIG_FILE, lambda path: write_config(config, path, preprocess or {}))
    write_tensors(state, directory / weights)


def load(spec: str, *, checkpoint: str | Path | None = None, directory: Path = Path()) -> OpenClipModel:
    """Build a model and load its weights.

    Args:
        spec: ``open_clip:`` and the name of one of its configurations, or the path of a JSON file or
            directory; behind an ``@`` the name of pretrained weights, which open_clip downloads, or a file of them.
        checkpoint: Weights to load, all of them and nothing else. By default those in the directory that
            ``spec`` names; where there are none the weights are fresh, from torch's global random state.
        directory: Where relative paths start.

    Raises:
        RecipeError: The spec means nothing, or the weights do not fit the model.
    """
    source, _, tag = _source(spec).partition("@")
    if tag and checkpoint is not None:
        raise RecipeError(f"{spec} names its weights; leave out the checkpoint {checkpoint}")
    config = read_config(source, directory)
    if tag and not (directory / tag).is_file():
        return OpenClipModel(*_pretrained(source, tag, config))
    model = create(config)
    given = tag or checkpoint
    weights = directory / given if given else weights_beside(source, directory)
    if weights is not None:
        load_weights(model, read_weights(weights), str(weights))
    return OpenClipModel(model.train(), config, read_preprocess(source, directory))


def _source(spec: str) -> str:
    family, _, source = spec.partition(":")
    if family != FAMILY or not source:
        raise RecipeError(f"a model is named {FAMILY}:<name or path>; {spec!r} is not")
    return source


def _pretrained(name: str, tag: str, config: Config) -> tuple[nn.Module, Config, Config]:
    """A model of open_clip's with weights that it knows, downloaded if they are not there."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=3) or tags
        hint = f"did you mean {', '.join(near)}?" if tags else "it has none"
        raise RecipeError(
            f"open_clip has no pretrained weights {tag!r} for {name!r}, and there is no such file; {hint}"
        )
    known = open_clip.get_pretrained_cfg(name, tag)
    if known.get("quick_gelu"):
        # As they were trained; open_clip would switch to it by itself.
        config = {**config, "quick_gelu": True}
    model = create(config)
    try:
        loaded = open_clip.create_model(name, pretrained=tag)
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"the weights {tag} of {name} cannot be had: {error}") from error
    load_weights(model, loaded.state_dict(), f"{name}@{tag}")
    return model.train(), config, {key: value for key, value in known.items() if key in PREPROCESS}
