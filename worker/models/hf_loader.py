"""Models of transformers, by what a recipe calls them: ``hf:<id or path>``."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.export import check_names
from worker.files import replace_all
from worker.models.base import Adapter, Loaded, patterns
from worker.models.cut import Thinning, check_keep
from worker.models.hf_adapters import adapter_of
from worker.models.hf_inputs import HfInputs
from worker.models.paths import matching_modules
from worker.models.weights import load_weights, read_weights

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PREPARATION = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "normalizer.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Files beside a model that say how its inputs are made; a student cut from it needs them as it did."""


@dataclass(frozen=True)
class HfModel(Loaded):
    """A model of transformers.

    Attributes:
        place: Its directory, or its id on the hub; what it was cut from has the same.
    """

    model: nn.Module
    adapter: Adapter
    place: str

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> HfModel:
        model: Any = self.model
        layers = {
            part.name: [name for glob in patterns(part.layers) for name in matching_modules(model, glob)]
            for part in adapter.parts
        }
        check_keep(keep, {part: len(names) for part, names in layers.items()}, type(model).__name__)
        thinning = Thinning(layers, keep)
        config = copy.deepcopy(model.config)
        for stack, numbers in thinning.origins.items():
            _shorten(config, stack, len(model.get_submodule(stack)), numbers)
        student = _build(type(model), config)
        theirs = model.state_dict()
        state = {
            name: theirs[source].detach().cpu().float()
            for name in student.state_dict()
            if (source := thinning.source(name, theirs)) in theirs
        }
        load_weights(student, state, "what was cut from the teacher")
        # Layers by which the student's own parts are told apart; where a recipe names others, that does not matter.
        sizes = [keep.get(name, len(of)) for name, of in layers.items()] if adapter is self.adapter else None
        return HfModel(student, adapter_of(student, sizes), self.place)

    def inputs(self) -> HfInputs:
        return HfInputs(self.place, self.model.config)

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """``from_pretrained("DIRECTORY")`` gives the student back.

        Raises:
            ValueError: The names are not those of the model.
        """
        model: Any = self.model
        with torch.device("meta"):
            fresh: Any = _build(type(model), copy.deepcopy(model.config))
        check_names(state, fresh.state_dict())
        fresh.load_state_dict(dict(state), strict=True, assign=True)
        fresh.tie_weights()
        if fresh.can_generate():
            fresh.generation_config = model.generation_config

        def write(path: Path) -> None:
            with _quiet():
                fresh.save_pretrained(path)
            for name in PREPARATION:
                if (Path(self.place) / name).is_file():
                    shutil.copyfile(Path(self.place) / name, path / name)

        replace_all(directory, write)
        return next(directory / name for name in WEIGHTS if (directory / name).exists())


def load(source: str, *, checkpoint: str | None, options: Mapping[str, Any], directory: Path) -> HfModel:
    """Build a model and load its weights.

    Args:
        source: A directory, absolute or relative to ``directory``, or a model's id on the hub. A directory that holds
            nothing but ``config.json`` gives fresh weights, from torch's global random state.
        checkpoint: A file of weights to load instead of those that come with the model.
        options: Fields of its configuration to change.
        directory: Where relative paths start.

    Raises:
        RecipeError: There is no such model, or the weights do not fit it.
    """
    local = directory / source
    origin = local if local.is_dir() else None
    if origin is not None and not (origin / "config.json").is_file():
        raise RecipeError(f"hf:{source}: the directory {origin} holds no config.json")
    place = source if origin is None else str(origin)
    try:
        config = transformers.AutoConfig.from_pretrained(place, **options)
        kind = _kind(config, source)
        bare = origin is not None and not any((origin / name).exists() for name in WEIGHTS)
        with _quiet():
            if checkpoint is not None or bare:
                model = _build(kind, config)
            else:
                model, found = kind.from_pretrained(place, config=config, dtype=torch.float32, output_loading_info=True)
                _check_found(found, source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        where = f"there is no directory {local}, and as an id on the hub: " if origin is None else ""
        raise RecipeError(f"hf:{source} cannot be loaded: {where}{error}") from error
    if checkpoint is not None:
        load_weights(model, read_weights(directory / checkpoint), str(directory / checkpoint))
    return HfModel(model.float().train().requires_grad_(True), adapter_of(model), place)


def _kind(config: Any, source: str) -> Any:
    """The class that a configuration is of: the one it names, or what its type is usually trained as."""
    for name in getattr(config, "architectures", None) or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    usual = {"blip": "BlipForConditionalGeneration", "whisper": "WhisperForConditionalGeneration"}
    if config.model_type in usual:
        return getattr(transformers, usual[config.model_type])
    encodes = getattr(config, "is_encoder_decoder", False)
    auto = transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM
    try:
        return auto._model_mapping[type(config)]
    except KeyError:
        raise RecipeError(
            f"hf:{source}: config.json names no class of transformers under `architectures`, and a {config.model_type} "
            "is no language model; add the class"
        ) from None


def _build(kind: Any, config: Any) -> Any:
    return kind._from_config(config) if hasattr(kind, "_from_config") else kind(config)


def _check_found(found: Mapping[str, Any], source: str) -> None:
    """Weights load whole or not at all."""
    faults = [f"{fault.replace('_', ' ')}: {', '.join(sorted(map(str, names))[:5])}"
              for fault, names in found.items() if names and fault in ("missing_keys", "mismatched_keys")]  # fmt: skip
    if faults:
        raise RecipeError(f"the weights of hf:{source} do not fit the model: {'; '.join(faults)}")


def _shorten(config: Any, stack: str, depth: int, numbers: list[int]) -> None:
    """Have a configuration describe so many layers of a stack.

    Configurations call a stack's depth by many names; which one is meant is seen from where the stack is, and from the
    depth that the field holds.
    """
    side = "decoder" if "decoder" in stack else "encoder"
    where = config
    names: tuple[str, ...] = ("num_hidden_layers",)
    if stack.startswith(("vision_model.", "vision_tower.")):
        where = config.vision_config
    elif getattr(config, "text_config", None) is not None and stack.startswith(("text_decoder.", "text_model.")):
        where = config.text_config
    elif getattr(config, "is_encoder_decoder", False):
        names = (f"{side}_layers", "num_layers" if side == "encoder" else "num_decoder_layers")
    name = next((name for name in names if getattr(where, name, None) == depth), None)
    if name is None:
        raise RecipeError(
            f"student.keep: the configuration has no {' or '.join(names)} of {depth} for {stack}; give the student a "
            "configuration of its own: student.model"
        )
    for each_layer in ("layer_types", "no_rope_layers"):
        listed = getattr(where, each_layer, None)
        if isinstance(listed, list) and len(listed) == depth:
            setattr(where, each_layer, [listed[number] for number in numbers])
    setattr(where, name, len(numbers))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back progress bars, and reports of what was asked for."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
