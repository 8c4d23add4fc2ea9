"""Models of open_clip: ``open_clip:<name or path>[@<pretrained>]``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.files import replace
from worker.models.base import Adapter, Fresh, Loaded
from worker.models.folders import no_weights_error, resolve_path
from worker.models.generic import adapter_or_generic
from worker.models.hf.preparation import preparation_files
from worker.models.open_clip.clip import ClipAdapter
from worker.models.open_clip.coca import CoCaAdapter
from worker.models.open_clip.cut import cut
from worker.models.open_clip.files import (
    CONFIG_FILE,
    Config,
    create,
    local,
    read_config,
    read_preprocess,
    renamed,
    tensor_names,
    weights_of,
    where_looked,
    write_config,
)
from worker.models.open_clip.inputs import OpenClipInputs
from worker.models.weights import STUDENT_FILE, check_names, load_weights, read_weights, write_tensors
from worker.names import suggest

FAMILY = "open_clip"
PREPROCESS = [each.name for each in fields(PreprocessCfg)]


@dataclass(frozen=True)
class OpenClipModel(Loaded):
    """A CoCa or CLIP of open_clip.

    Attributes:
        config: Its ``model_cfg``.
        preprocess: Its differences from open_clip's default ``preprocess_cfg``, such as mean and std.
        folder: The directory that it was loaded from, if any: a tokenizer of transformers may be there.
    """

    model: nn.Module
    config: Config
    preprocess: Config = field(default_factory=dict)
    weights: str = "in memory"
    folder: Path | None = None
    adapter: Adapter = field(init=False)

    def __post_init__(self) -> None:
        kind = CoCaAdapter if "multimodal_cfg" in self.config else ClipAdapter
        object.__setattr__(self, "adapter", adapter_or_generic(lambda: kind(self.model)))

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> OpenClipModel:
        """Cut a student from this model."""
        student, config = cut(self.model, self.config, adapter, keep)
        return OpenClipModel(student, config, self.preprocess, "cut from the teacher", self.folder)

    def inputs(self) -> OpenClipInputs:
        """Return the preprocessing of this model."""
        place, text = self._tokenizer_place, self.config["text_cfg"]
        text = {**text, "hf_tokenizer_name": place} if place else text
        return OpenClipInputs({**self.config, "text_cfg": text}, self.preprocess)

    @property
    def _tokenizer_place(self) -> str:
        """The directory or the id on the hub of the tokenizer, if it is one of transformers.

        As in open_clip it is the model's own directory, if that has one.
        """
        name = self.config["text_cfg"].get("hf_tokenizer_name") or ""
        return str(self.folder) if name and self.folder and preparation_files(str(self.folder), {}) else name

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """Write the student for ``open_clip.create_model("local-dir:DIRECTORY")``, with its tokenizer if it has files.

        Raises:
            ValueError: The tensors are not those of the configured model.
        """
        check_names(state, tensor_names(self.config))
        if place := self._tokenizer_place:
            for name, file in preparation_files(place, {}).items():
                replace(directory / name, partial(shutil.copyfile, file))
        save(state, self.config, directory, weights=STUDENT_FILE, preprocess=self.preprocess)
        return directory / STUDENT_FILE

    def read_back(self, weights: Path) -> Mapping[str, Tensor]:
        """Load an exported model and return its tensors by name."""
        return load(f"open_clip:{weights.parent}").model.state_dict()


def save(
    state: Mapping[str, Tensor], config: Config, directory: Path, *, weights: str, preprocess: Config | None = None
) -> None:
    """Write weights and configuration in the layout of open_clip's directories."""
    replace(directory / CONFIG_FILE, lambda path: write_config(config, path, preprocess or {}))
    write_tensors(state, directory / weights)


def load(
    spec: str, *, checkpoint: str | Path | None = None, directory: Path = Path(), fresh: Fresh = "never"
) -> OpenClipModel:
    """Build a model and load its weights.

    Args:
        spec: ``open_clip:`` and the name of one of its configurations, the path of a JSON file or directory (optionally
            with the prefix ``local-dir:``), or ``hf-hub:`` and an id on the hub; after an ``@`` the tag of pretrained
            weights, which open_clip downloads, or a file of weights.
        checkpoint: A file of weights to load, which must fit exactly. By default those that open_clip loads for the
            directory or id in ``spec``.
        directory: The directory that relative paths start from.
        fresh: Whether the weights may be fresh.

    Raises:
        RecipeError: The spec names no model, there are no weights, or they do not fit the model.
    """
    source, tag = _split_tag(_source(spec), directory)
    named = tag or checkpoint
    if tag and checkpoint is not None:
        raise RecipeError(f"{spec} already names its weights after the @; remove the checkpoint {checkpoint}")
    if named and fresh == "always":
        raise RecipeError(f"{spec} has both weights ({named}) and `weights: random`; remove one of them")
    config = read_config(source, directory)
    preprocess = read_preprocess(source, directory)
    folder = local(source, directory) if local(source, directory).is_dir() else None
    if tag and (open_clip.is_pretrained_cfg(source, tag) or not resolve_path(directory, tag).is_file()):
        return _pretrained(source, tag, config)
    weights = None
    if named:
        weights = resolve_path(directory, named)
    elif fresh != "always":
        weights = weights_of(source, directory)
    if weights is not None:
        model = create(config)
        load_weights(model, renamed(model, read_weights(weights)), str(weights))
        return OpenClipModel(model.train(), config, preprocess, f"from {weights}", folder)
    if fresh == "never":
        raise no_weights_error(spec, where_looked(source, directory))
    model = create(config, base_towers=fresh == "if_bare").train()
    why = "asked for by the recipe" if fresh == "always" else where_looked(source, directory)
    return OpenClipModel(model, config, preprocess, f"random ({why})", folder)


def outline(spec: str, directory: Path) -> OpenClipModel:
    """Build a model without memory, for its structure; arguments as for `load`."""
    config = read_config(_split_tag(_source(spec), directory)[0], directory)
    with torch.device("meta"):
        return OpenClipModel(create(config, device="meta"), config)


def _split_tag(source: str, directory: Path) -> tuple[str, str]:
    """Split a source into the model and the tag after ``@``, if any; a path may contain ``@`` itself."""
    ends = [len(source), *(place for place in reversed(range(1, len(source))) if source[place] == "@")]
    for end in ends:
        name = source[:end]
        if name in open_clip.list_models() or local(name, directory).exists():
            return name, source[end + 1 :]
    name, _, tag = source.partition("@")
    return name, tag


def _source(spec: str) -> str:
    family, _, source = spec.partition(":")
    if family != FAMILY or not source:
        raise RecipeError(f"{spec!r} does not name a model of open_clip; expected {FAMILY}:<name or path>")
    return source


def _pretrained(name: str, tag: str, config: Config) -> OpenClipModel:
    """Load a model with weights that open_clip knows; they are downloaded if they are not in the cache."""
    if not open_clip.is_pretrained_cfg(name, tag):
        tags = open_clip.list_pretrained_tags_by_model(name)
        hint = suggest(tag, tags, "pretrained weights", most=3)
        raise RecipeError(f"open_clip has no pretrained weights {tag!r} for {name!r}, and there is no such file{hint}")
    known = open_clip.get_pretrained_cfg(name, tag)
    if known.get("quick_gelu"):
        # These weights were trained with it; open_clip switches to it as well.
        config = {**config, "quick_gelu": True}
    model = create(config)
    try:
        loaded = open_clip.create_model(name, pretrained=tag)
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"the weights {tag} of {name} cannot be downloaded: {error}") from error
    load_weights(model, loaded.state_dict(), f"{name}@{tag}")
    preprocess = {key: value for key, value in known.items() if key in PREPROCESS}
    return OpenClipModel(model.train(), config, preprocess, f"open_clip's {name}@{tag}")
