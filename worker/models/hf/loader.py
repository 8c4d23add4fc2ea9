"""Models of transformers: ``hf:<id or path>``."""

from __future__ import annotations

import copy
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
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
from worker.models.base import WHOLE, Adapter, Fresh, Loaded, check_same, unreadable
from worker.models.cut import LayerSelection
from worker.models.folders import join_names, no_weights_error, resolve_path, weight_files
from worker.models.hf.adapters import find_adapter
from worker.models.hf.inputs import HfInputs, usable_positions
from worker.models.hf.preparation import list_files, preparation_files
from worker.models.hf.shorten import keep_every_layer, shorten
from worker.models.hf.signature import differing, signature
from worker.models.hf.structure import spread_language
from worker.models.paths import layer_names
from worker.models.weights import check_names, load_weights, read_weights

log = logging.getLogger(__name__)

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
"""Names of the weight files that transformers loads, in its order; a variant's name goes before the last dot."""


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
        keep = spread_language(keep, {name: len(names) for name, names in layer_names(model, adapter).items()})
        selection = LayerSelection(model, adapter, keep)

        def build(config: Any) -> Any:
            return _build(type(model), config)

        with _quiet():
            student = build(shorten(model, selection, build)).float()
        tensors = model.state_dict()
        state = {name: tensors[selection.source(name, tensors)].detach().cpu().float() for name in student.state_dict()}
        load_weights(student, state, "the part cut from the teacher")
        if student.can_generate() and getattr(model, "generation_config", None) is not None:
            student.generation_config = _generation(model.generation_config, selection)
        # The student's adapter declares its modules by these sizes, unless the recipe defines the modules.
        layers = selection.layers
        sizes = (
            {name: keep.get(name, len(names)) for name, names in layers.items()} if adapter is self.adapter else None
        )
        return HfModel(student, find_adapter(student, sizes), self.place, self.within, "cut from the teacher")

    def inputs(self) -> HfInputs:
        """Return the preprocessing of this model."""
        return HfInputs(self.place, self.model.config, self.within, usable_positions(self.model))

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
            for name, file in preparation_files(self.place, self.within).items():
                shutil.copyfile(file, path / name)

        replace_all(directory, write)
        return next(directory / name for name in WEIGHTS if (directory / name).exists())

    def check_export(self) -> None:
        """Raise RecipeError unless the model can be exported, and loaded back as the same.

        The tensors are compared bit for bit. Of a model with more than `WHOLE` bytes of weights only the configuration
        is written, and the names and shapes of the tensors are compared with those of a model built from it without
        memory.
        """
        model: Any = self.model
        state = model.state_dict()
        large = sum(tensor.nbytes for tensor in state.values()) > WHOLE
        with tempfile.TemporaryDirectory(prefix="optima-export-") as name, _quiet():
            try:
                if large:
                    preparation_files(self.place, self.within)
                    copy.deepcopy(model.config).save_pretrained(name)
                    with torch.device("meta"):
                        loaded = _build(type(model), type(model.config).from_pretrained(name))
                else:
                    self.export(state, Path(name))
                    loaded, loading_info = type(model).from_pretrained(name, output_loading_info=True)
                    _check_loaded(loading_info, "the exported student")
            except Exception as error:
                raise unreadable(model, error) from error
        check_same(model, state, loaded.state_dict(), values=not large)
        faults = list(differing(signature(loaded), signature(model)))
        if faults:
            raise RecipeError(
                f"the student, a {type(model).__name__}, is built otherwise after it was exported and loaded back: "
                f"{join_names(faults)}"
            )


def _generation(config: Any, selection: LayerSelection) -> Any:
    """Return the teacher's generation configuration for a student; heads of layers that are left out are removed."""
    config = copy.deepcopy(config)
    heads = getattr(config, "alignment_heads", None)
    decoders = [numbers for stack, numbers in selection.origins.items() if "decoder" in stack]
    if heads and len(decoders) == 1:
        numbers = decoders[0]
        remaining = [[numbers.index(layer), head] for layer, head in heads if layer in numbers]
        if remaining:
            config.alignment_heads = remaining
        else:
            del config.alignment_heads
        if len(remaining) < len(heads):
            log.warning(
                "%d of the %d alignment_heads, which give the times of single words, are in layers that are left out%s",
                len(heads) - len(remaining),
                len(heads),
                "" if remaining else "; the student has none",
            )
    return config


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
        keep_every_layer(config)
        kind = _kind(config, source)
        without = f"the directory {folder} has {CONFIG_NAME} but no file of weights"
        if bare and own_weights and fresh == "never":
            raise no_weights_error(spec, without)
        with _quiet():
            if bare or not own_weights:
                model = _build(kind, config)
                _load_generation(model, place, within)
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


def _load_generation(model: Any, place: str, within: Mapping[str, Any]) -> None:
    """Give a model that is built from a configuration the settings of generation that come with it, if any."""
    if model.can_generate():
        with suppress(OSError):
            model.generation_config = transformers.GenerationConfig.from_pretrained(place, **within)


def _load_own_weights(
    kind: Any, place: str, config: Any, variant: str | None, within: Mapping[str, str]
) -> tuple[Any, str | None]:
    """Load a model with the weights that transformers finds for a directory or id; return it and their variant.

    If all weights are of one variant, that one is loaded.
    """
    try:
        return _pretrained(kind, place, config, variant, within), variant
    except OSError:
        files = list_files(place, within)
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
    files = list_files(place, within)
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
    encodes, decodes = getattr(config, "is_encoder_decoder", False), getattr(config, "is_decoder", False)
    for auto in USUAL:
        # Many encoders can be used as decoders too, which their configuration then says.
        other = auto is transformers.AutoModelForCausalLM and not decodes and not encodes
        if other and type(config) in transformers.AutoModelForMaskedLM._model_mapping:
            continue
        if type(config) in auto._model_mapping:
            kind = auto._model_mapping[type(config)]
            return kind[0] if isinstance(kind, tuple) else kind
    raise RecipeError(
        f"hf:{source}: config.json names no class of transformers under `architectures`, and there is no usual one for "
        f"the type {config.model_type}; add the class to config.json"
    )


USUAL = (
    transformers.AutoModelForMultimodalLM,
    transformers.AutoModelForSpeechSeq2Seq,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForCausalLM,
    transformers.AutoModelForMaskedLM,
    transformers.AutoModelForObjectDetection,
    transformers.AutoModel,
)
"""The tasks for which a model is trained whose configuration does not say so; the first that it has."""


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
