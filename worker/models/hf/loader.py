"""Models of transformers, by what a recipe calls them: ``hf:<id or path>``."""

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
from worker.models.base import Adapter, Fresh, Loaded, patterns
from worker.models.cut import LayerSelection, check_keep
from worker.models.folders import join_names, no_weights_error, resolve_path, weight_files
from worker.models.hf.adapters import find_adapter
from worker.models.hf.inputs import HfInputs
from worker.models.paths import matching_modules
from worker.models.weights import check_names, load_weights, read_weights

log = logging.getLogger(__name__)

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""Names of the files of weights that transformers loads, in its order; a variant's name comes before the last dot."""
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
        within: Where it is in a repository on the hub: ``revision`` and ``subfolder``, if given.
    """

    model: nn.Module
    adapter: Adapter
    place: str
    within: Mapping[str, str]
    weights: str

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> HfModel:
        model: Any = self.model
        layers = {
            module.name: [name for glob in patterns(module.layers) for name in matching_modules(model, glob)]
            for module in adapter.modules
        }
        check_keep(keep, {module: len(names) for module, names in layers.items()}, type(model).__name__)
        thinning = LayerSelection(layers, keep)
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
        # Layers by which the student's own modules are told apart; where a recipe names others, that does not matter.
        sizes = [keep.get(name, len(of)) for name, of in layers.items()] if adapter is self.adapter else None
        return HfModel(student, find_adapter(student, sizes), self.place, self.within, "cut from the teacher")

    def inputs(self) -> HfInputs:
        return HfInputs(self.place, self.model.config, self.within)

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


def load(
    source: str, *, checkpoint: str | None, options: Mapping[str, Any], directory: Path, fresh: Fresh = "never"
) -> HfModel:
    """Build a model and load its weights.

    Args:
        source: A directory, absolute or relative to ``directory``, or a model's id on the hub.
        checkpoint: A file of weights to load instead of those that come with the model.
        options: Fields of its configuration to change; and ``variant``, ``revision`` and ``subfolder``, which are
            ``from_pretrained``'s own.
        directory: Where relative paths start.
        fresh: Whether the weights may be fresh.

    Raises:
        RecipeError: There is no such model, there are no weights, or they do not fit it.
    """
    spec = f"hf:{source}"
    fields = dict(options)
    variant = fields.pop("variant", None)
    within: dict[str, Any] = {name: fields.pop(name) for name in ("revision", "subfolder") if name in fields}
    if fresh == "always" and (checkpoint or variant):
        raise RecipeError(
            f"{spec} is given weights, {checkpoint or variant}; leave out either those or `weights: random`"
        )
    path = resolve_path(directory, source)
    folder = None
    if path.is_dir():
        folder, within = path / within.get("subfolder", ""), {}
    elif path.is_file():
        raise RecipeError(f"{spec}: {path} is a file; name the directory that it is in")
    place = source if folder is None else str(folder)
    given = checkpoint is not None or fresh == "always"
    if not given:
        _refuse_adapters(spec, place, within)
    if folder is not None and not (folder / CONFIG_NAME).is_file():
        raise RecipeError(f"{spec}: the directory {folder} holds no {CONFIG_NAME}")
    bare = folder is not None and not weight_files(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(place, **within, **fields)
        kind = _kind(config, source)
        without = f"the directory {folder} holds {CONFIG_NAME} and no file of weights"
        if bare and not given and fresh == "never":
            raise no_weights_error(spec, without)
        with _quiet():
            if given or bare:
                model = _build(kind, config)
                weights = f"fresh ({'asked for by the recipe' if fresh == 'always' else without})"
            else:
                model, variant = _with_its_weights(kind, place, config, variant, within)
                weights = f"from {place}" + (f", variant {variant}" if variant else "")
    except RecipeError:
        raise
    except Exception as error:
        missing = f"there is no directory {path}, and as an id on the hub: " if folder is None else ""
        raise RecipeError(f"{spec} cannot be loaded: {missing}{error}{_there(place, within)}") from error
    if checkpoint is not None:
        file = resolve_path(directory, checkpoint)
        load_weights(model, read_weights(file), str(file))
        weights = f"from {file}"
    return HfModel(model.float().train().requires_grad_(True), find_adapter(model), place, within, weights)


def _with_its_weights(
    kind: Any, place: str, config: Any, variant: str | None, within: Mapping[str, str]
) -> tuple[Any, str | None]:
    """A model with the weights that transformers loads for a directory or id, and which variant they are.

    Where there are none without a variant, and those of one variant alone, these are meant.
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
                f"{place} holds weights in several variants, {', '.join(variants)}, and none without; choose one: "
                f"`options: {{variant: {variants[0]}}}`"
            ) from None
        log.warning("%s holds weights in one variant alone, %s: these are loaded", place, variants[0])
        return _pretrained(kind, place, config, variants[0], within), variants[0]


def _pretrained(kind: Any, place: str, config: Any, variant: str | None, within: Mapping[str, str]) -> Any:
    model, found = kind.from_pretrained(
        place, config=config, variant=variant, dtype=torch.float32, output_loading_info=True, **within
    )
    _check_found(found, place)
    return model


def _files(place: str, within: Mapping[str, str]) -> list[str]:
    """The files of a directory, or of a repository on the hub, where it can be reached, or else in its cache."""
    folder = Path(place)
    if not folder.is_dir():
        revision, subfolder = within.get("revision"), within.get("subfolder", "")
        try:
            there = huggingface_hub.list_repo_files(place, revision=revision)
            return sorted(name.removeprefix(f"{subfolder}/") for name in there)
        except HFValidationError:
            # Neither a directory nor an id.
            return []
        except Exception:
            # It cannot be reached, for whatever reason.
            config = str(Path(subfolder) / CONFIG_NAME)
            cached = huggingface_hub.try_to_load_from_cache(place, config, revision=revision)
        if not isinstance(cached, str):
            return []
        folder = Path(cached).parent
    return sorted(path.name for path in folder.iterdir())


def _variants(files: Iterable[str]) -> list[str]:
    """The variants of which there are weights, from the names of files: ``fp16`` of ``model.fp16.safetensors``."""
    found = set()
    for file in files:
        for name in WEIGHTS:
            stem, _, ending = name.rpartition(".")
            named = re.fullmatch(rf"{re.escape(stem)}\.([^.]+)\.{ending}", file)
            if named and named[1] != "index" and not re.search(r"-\d{5}-of-\d{5}$", named[1]):
                found.add(named[1])
    return sorted(found)


def _there(place: str, within: Mapping[str, str]) -> str:
    """What there is instead of the weights that were looked for, for the end of a sentence."""
    files = _files(place, within)
    if any(name in files for name in WEIGHTS):
        return ""
    variants = _variants(files)
    if variants:
        return f"; there are weights in the variants {', '.join(variants)}: `options: {{variant: {variants[0]}}}`"
    weights = weight_files(Path(place)) if Path(place).is_dir() else []
    return f"; it holds {join_names(weights)}. Name a file of weights as `checkpoint`" if weights else ""


def _refuse_adapters(spec: str, place: str, within: Mapping[str, Any]) -> None:
    """Raise RecipeError for an adapter of peft's: a model without it is another one."""
    try:
        found = find_adapter_config_file(place, **within)
    except OSError:
        # That there is no such place is told by what looks for a configuration there.
        return
    if found is not None:
        raise RecipeError(
            f"{spec} holds an adapter ({found}), not a whole model; merge it into its base with peft "
            "(merge_and_unload, then save_pretrained), and name the directory that comes out"
        )


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


def _check_found(found: Mapping[str, Any], place: str) -> None:
    """Weights load whole or not at all; what there is beside them is said."""
    faults = [f"{fault.replace('_', ' ')}: {', '.join(sorted(map(str, names))[:5])}"
              for fault, names in found.items() if names and fault in ("missing_keys", "mismatched_keys")]  # fmt: skip
    if faults:
        raise RecipeError(f"the weights of {place} do not fit the model: {'; '.join(faults)}")
    unused = sorted(map(str, found.get("unexpected_keys") or ()))
    if unused:
        log.warning("%s holds tensors that the model has no place for: %s", place, join_names(unused))


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
        join_names = getattr(where, each_layer, None)
        if isinstance(join_names, list) and len(join_names) == depth:
            setattr(where, each_layer, [join_names[number] for number in numbers])
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
