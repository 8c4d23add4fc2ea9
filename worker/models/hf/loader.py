"""Models of transformers: ``hf:<id or path>``."""

from __future__ import annotations

import copy
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.peft_utils import find_adapter_config_file

from worker.errors import RecipeError
from worker.files import replace_all
from worker.models.base import Adapter, Fresh, Loaded
from worker.models.cut import LayerSelection, check_keep
from worker.models.folders import join_names, no_weights_error, resolve_path, weight_files
from worker.models.hf.adapters import find_adapter
from worker.models.hf.inputs import HfInputs
from worker.models.paths import layer_names
from worker.models.weights import check_names, load_weights, read_weights

log = logging.getLogger(__name__)

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""Names of the weight files that transformers loads, in its order; a variant's name goes before the last dot."""
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
"""Files of a model's preprocessing; a student that is cut from it needs the same."""


@dataclass(frozen=True)
class HfModel(Loaded):
    """A model of transformers.

    Attributes:
        place: The model's directory or its id on the hub; for a student, the teacher's.
        within: Its place in a repository on the hub: ``revision`` and ``subfolder``, if any.
    """

    model: nn.Module
    adapter: Adapter
    place: str
    within: Mapping[str, str]
    weights: str

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> HfModel:
        """Cut a student from this model."""
        model: Any = self.model
        layers = layer_names(model, adapter)
        check_keep(keep, {module: len(names) for module, names in layers.items()}, type(model).__name__)
        selection = LayerSelection(layers, keep)
        config = copy.deepcopy(model.config)
        for stack, numbers in selection.origins.items():
            _shorten(config, stack, len(model.get_submodule(stack)), numbers)
        student = _build(type(model), config)
        tensors = model.state_dict()
        state = {
            name: tensors[source].detach().cpu().float()
            for name in student.state_dict()
            if (source := selection.source(name, tensors)) in tensors
        }
        load_weights(student, state, "the part cut from the teacher")
        # The student's adapter declares its modules by these sizes, unless the recipe defines the modules.
        sizes = [keep.get(name, len(names)) for name, names in layers.items()] if adapter is self.adapter else None
        return HfModel(student, find_adapter(student, sizes), self.place, self.within, "cut from the teacher")

    def inputs(self) -> HfInputs:
        """Return the preprocessing of this model."""
        return HfInputs(self.place, self.model.config, self.within)

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """Write the student for ``from_pretrained("DIRECTORY")``.

        Raises:
            ValueError: The tensors are not those of the model.
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


def load(
    source: str, *, checkpoint: str | None, options: Mapping[str, Any], directory: Path, fresh: Fresh = "never"
) -> HfModel:
    """Build a model and load its weights.

    Args:
        source: A directory, absolute or relative to ``directory``, or a model's id on the hub.
        checkpoint: A file of weights to load instead of the model's own.
        options: Fields of its configuration to change; and ``variant``, ``revision`` and ``subfolder``, which are
            arguments of ``from_pretrained``.
        directory: The directory that relative paths start from.
        fresh: Whether the weights may be fresh.

    Raises:
        RecipeError: There is no such model, it has no weights, or they do not fit it.
    """
    spec = f"hf:{source}"
    fields = dict(options)
    variant = fields.pop("variant", None)
    within: dict[str, Any] = {name: fields.pop(name) for name in ("revision", "subfolder") if name in fields}
    if fresh == "always" and (checkpoint or variant):
        raise RecipeError(
            f"{spec} has both weights ({checkpoint or variant}) and `weights: random`; remove one of them"
        )
    path = resolve_path(directory, source)
    folder = None
    if path.is_dir():
        folder, within = path / within.get("subfolder", ""), {}
    elif path.is_file():
        raise RecipeError(f"{spec}: {path} is a file; name its directory instead")
    place = source if folder is None else str(folder)
    own_weights = not (checkpoint is not None or fresh == "always")
    if own_weights:
        _refuse_adapters(spec, place, within)
    if folder is not None and not (folder / CONFIG_NAME).is_file():
        raise RecipeError(f"{spec}: the directory {folder} has no {CONFIG_NAME}")
    bare = folder is not None and not weight_files(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(place, **within, **fields)
        kind = _kind(config, source)
        without = f"the directory {folder} has {CONFIG_NAME} but no file of weights"
        if bare and own_weights and fresh == "never":
            raise no_weights_error(spec, without)
        with _quiet():
            if bare or not own_weights:
                model = _build(kind, config)
                weights = f"random ({'asked for by the recipe' if fresh == 'always' else without})"
            else:
                model, variant = _load_own_weights(kind, place, config, variant, within)
                weights = f"from {place}" + (f", variant {variant}" if variant else "")
    except RecipeError:
        raise
    except Exception as error:
        missing = f"the directory {path} does not exist, and as an id on the hub: " if folder is None else ""
        reason = f"{missing}{str(error).rstrip('.')}{_weights_hint(place, within)}"
        raise RecipeError(f"{spec} cannot be loaded: {reason}") from error
    if checkpoint is not None:
        file = resolve_path(directory, checkpoint)
        load_weights(model, read_weights(file), str(file))
        weights = f"from {file}"
    return HfModel(model.float().train(), find_adapter(model), place, within, weights)


def _load_own_weights(
    kind: Any, place: str, config: Any, variant: str | None, within: Mapping[str, str]
) -> tuple[Any, str | None]:
    """Load a model with the weights that transformers finds for a directory or id; return it and their variant.

    If all weights are of one variant, that one is loaded.
    """
    try:
        return _pretrained(kind, place, config, variant, within), variant
    except OSError:
        files = _files(place, within)
        variants = _variants(files)
        if variant is not None or not variants or any(name in files for name in WEIGHTS):
            raise
        if len(variants) > 1:
            raise RecipeError(
                f"{place} has weights only in several variants ({', '.join(variants)}); choose one of them: "
                f"`options: {{variant: {variants[0]}}}`"
            ) from None
        log.warning("%s has weights only in the variant %s, which is loaded", place, variants[0])
        return _pretrained(kind, place, config, variants[0], within), variants[0]


def _pretrained(kind: Any, place: str, config: Any, variant: str | None, within: Mapping[str, str]) -> Any:
    model, loading_info = kind.from_pretrained(
        place, config=config, variant=variant, dtype=torch.float32, output_loading_info=True, **within
    )
    _check_loaded(loading_info, place)
    return model


def _files(place: str, within: Mapping[str, str]) -> list[str]:
    """List the files of a directory, or of a repository on the hub, or of its cache if the hub cannot be reached."""
    folder = Path(place)
    if not folder.is_dir():
        revision, subfolder = within.get("revision"), within.get("subfolder", "")
        try:
            names = huggingface_hub.list_repo_files(place, revision=revision)
            return sorted(name.removeprefix(f"{subfolder}/") for name in names)
        except HFValidationError:
            # Neither a directory nor an id.
            return []
        except Exception:
            # The hub cannot be reached, for whatever reason.
            config = str(Path(subfolder) / CONFIG_NAME)
            cached = huggingface_hub.try_to_load_from_cache(place, config, revision=revision)
        if not isinstance(cached, str):
            return []
        folder = Path(cached).parent
    return sorted(path.name for path in folder.iterdir())


def _variants(files: Iterable[str]) -> list[str]:
    """Return the variants of weights among file names: ``fp16`` for ``model.fp16.safetensors``."""
    variants = set()
    for file in files:
        for name in WEIGHTS:
            stem, _, ending = name.rpartition(".")
            named = re.fullmatch(rf"{re.escape(stem)}\.([^.]+)\.{ending}", file)
            if named and named[1] != "index" and not re.search(r"-\d{5}-of-\d{5}$", named[1]):
                variants.add(named[1])
    return sorted(variants)


def _weights_hint(place: str, within: Mapping[str, str]) -> str:
    """Return which other weights there are, for the end of a message."""
    files = _files(place, within)
    if any(name in files for name in WEIGHTS):
        return ""
    variants = _variants(files)
    if variants:
        return f"; its variants are {', '.join(variants)}; choose one: `options: {{variant: {variants[0]}}}`"
    weights = weight_files(Path(place)) if Path(place).is_dir() else []
    return f"; it has the files {join_names(weights)}. Name one of them as `checkpoint`" if weights else ""


def _refuse_adapters(spec: str, place: str, within: Mapping[str, Any]) -> None:
    """Raise RecipeError for a peft adapter: the base model alone would be another model."""
    try:
        adapter_file = find_adapter_config_file(place, **within)
    except OSError:
        # There is no such model; loading its configuration reports that.
        return
    if adapter_file is not None:
        raise RecipeError(
            f"{spec} is a peft adapter ({adapter_file}), not a complete model; merge it into its base model with peft "
            "(merge_and_unload, then save_pretrained) and name the new directory"
        )


def _kind(config: Any, source: str) -> Any:
    """Return the model class of a configuration: the one it names, or the usual one for training its type."""
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
            f"hf:{source}: config.json names no class of transformers under `architectures`, and the type "
            f"{config.model_type} is not a language model; add the class to config.json"
        ) from None


def _build(kind: Any, config: Any) -> Any:
    return kind._from_config(config) if hasattr(kind, "_from_config") else kind(config)


def _check_loaded(loading_info: Mapping[str, Any], place: str) -> None:
    """Raise RecipeError if tensors are missing or do not fit, and log unused ones."""
    faults = [
        f"{fault.replace('_', ' ')}: {', '.join(sorted(map(str, names))[:5])}"
        for fault, names in loading_info.items()
        if names and fault in ("missing_keys", "mismatched_keys")
    ]
    if faults:
        raise RecipeError(f"the weights of {place} do not fit the model: {'; '.join(faults)}")
    unused = sorted(map(str, loading_info.get("unexpected_keys") or ()))
    if unused:
        log.warning("%s has tensors that the model does not use: %s", place, join_names(unused))


def _shorten(config: Any, stack: str, depth: int, numbers: list[int]) -> None:
    """Reduce the depth of a stack in a configuration.

    Configurations have many names for the depth of a stack; the right one is found by the stack's path and by the
    value of the field.

    Args:
        config: The configuration; it is changed.
        stack: The path of the stack.
        depth: The number of layers it has.
        numbers: The indices of the layers to keep.
    """
    side = "decoder" if "decoder" in stack else "encoder"
    section = config
    names: tuple[str, ...] = ("num_hidden_layers",)
    if stack.startswith(("vision_model.", "vision_tower.")):
        section = config.vision_config
    elif getattr(config, "text_config", None) is not None and stack.startswith(("text_decoder.", "text_model.")):
        section = config.text_config
    elif getattr(config, "is_encoder_decoder", False):
        names = (f"{side}_layers", "num_layers" if side == "encoder" else "num_decoder_layers")
    name = next((name for name in names if getattr(section, name, None) == depth), None)
    if name is None:
        raise RecipeError(
            f"student.keep: the configuration has no {' or '.join(names)} with the value {depth} for {stack}; name a "
            "configuration for the student instead: student.model"
        )
    for field in ("layer_types", "no_rope_layers"):
        values = getattr(section, field, None)
        if isinstance(values, list) and len(values) == depth:
            setattr(section, field, [values[number] for number in numbers])
    setattr(section, name, len(numbers))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and reports about what was asked for."""
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
