"""Models of transformers: ``hf:<id or path>``."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils import CONFIG_NAME

from worker.errors import RecipeError
from worker.files import replace_all
from worker.models.base import WHOLE, Adapter, Fresh, Loaded, Role, check_same, unreadable
from worker.models.cut import LayerSelection
from worker.models.folders import join_names, no_weights_error, resolve_path, weight_files
from worker.models.hf.adapters import find_adapter
from worker.models.hf.inputs import HfInputs, usable_positions
from worker.models.hf.model_class import check_trusted, model_class
from worker.models.hf.preparation import preparation_files
from worker.models.hf.pretrained import (
    WEIGHTS,
    build,
    check_loaded,
    is_adapter,
    load_own_weights,
    quiet,
    state_dtype,
    weights_hint,
)
from worker.models.hf.quantized import (
    dequantize,
    dequantize_while_loading,
    dequantized_copy,
    forget,
    is_quantized,
    method_of,
    plain,
)
from worker.models.hf.shorten import keep_every_layer, shorten
from worker.models.hf.signature import differing, signature
from worker.models.hf.structure import spread_language
from worker.models.paths import layer_names
from worker.models.weights import check_names, load_weights, read_weights

log = logging.getLogger(__name__)


WITHIN = ("revision", "subfolder")
"""Options that are a model's place in a repository on the hub."""
CODE = ("trust_remote_code", "code_revision")
"""Options that allow a model's own code to run."""


@dataclass(frozen=True)
class HfModel(Loaded):
    """A model of transformers.

    Attributes:
        place: The directory or the id on the hub of the files that go with it; for a student, the teacher's.
        within: Its place in a repository on the hub: ``revision`` and ``subfolder``, if any.
        code: The arguments of ``from_pretrained`` that allow the model's own code to run, if any.
        complete: Whether ``place`` has exactly this model.
    """

    model: nn.Module
    adapter: Adapter
    place: str
    within: Mapping[str, str]
    weights: str
    code: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> HfModel:
        """Cut a student from this model."""
        model: Any = dequantized_copy(self.model) if is_quantized(self.model) else self.model
        keep = spread_language(keep, {name: len(names) for name, names in layer_names(model, adapter).items()})
        selection = LayerSelection(model, adapter, keep)

        with quiet():
            student = build(type(model), shorten(model, selection, partial(build, type(model))))
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
        adapter = find_adapter(student, sizes)
        return HfModel(student, adapter, self.place, self.within, "cut from the teacher", self.code)

    def tune(self, fields: Mapping[str, Any]) -> Loaded:
        """Return this model with a new LoRA adapter inside, frozen but for that."""
        from worker.models.hf.peft import add_adapter

        return add_adapter(self, fields)

    def inputs(self) -> HfInputs:
        """Return the preprocessing of this model."""
        within = {**self.within, **self.code}
        return HfInputs(self.place, self.model.config, within, usable_positions(self.model))

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """Write the student for ``from_pretrained("DIRECTORY")``.

        Raises:
            ValueError: The tensors are not those of the model.
        """
        model: Any = self.model
        with torch.device("meta"):
            fresh: Any = build(type(model), copy.deepcopy(model.config))
        check_names(state, fresh.state_dict())
        fresh.load_state_dict(dict(state), strict=True, assign=True)
        fresh.tie_weights()
        state_dtype(fresh.config)
        if fresh.can_generate():
            fresh.generation_config = model.generation_config

        def write(path: Path) -> None:
            with quiet():
                fresh.save_pretrained(path)
            self.copy_preparation(path)

        replace_all(directory, write)
        return next(directory / name for name in WEIGHTS if (directory / name).exists())

    def copy_preparation(self, directory: Path) -> None:
        """Copy the files that go with the weights."""
        for name, file in preparation_files(self.place, self.within).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, directory / name)

    def check_export(self) -> None:
        """Raise RecipeError unless the model can be exported, and loaded back as the same.

        The tensors are compared bit for bit. Of a model with more than `WHOLE` bytes of weights only the configuration
        is written, and the names and shapes of the tensors are compared with those of a model built from it without
        memory.
        """
        model: Any = self.model
        state = model.state_dict()
        large = sum(tensor.nbytes for tensor in state.values()) > WHOLE
        with tempfile.TemporaryDirectory(prefix="optima-export-") as name, quiet():
            try:
                if large:
                    preparation_files(self.place, self.within)
                    copy.deepcopy(model.config).save_pretrained(name)
                    with torch.device("meta"):
                        loaded = build(type(model), type(model.config).from_pretrained(name))
                else:
                    self.export(state, Path(name))
                    loaded, loading_info = type(model).from_pretrained(name, output_loading_info=True)
                    check_loaded(loading_info, "the exported student")
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
    source: str,
    *,
    checkpoint: str | None,
    options: Mapping[str, Any],
    directory: Path,
    fresh: Fresh = "never",
    role: Role = "teacher",
) -> HfModel:
    """Build a model and load its weights.

    Args:
        source: A directory, absolute or relative to ``directory``, or a model's id on the hub.
        checkpoint: A file of weights to load instead of the model's own.
        options: Fields of its configuration to change; and ``variant``, ``revision``, ``subfolder``,
            ``trust_remote_code`` and ``code_revision``, which are arguments of ``from_pretrained``; ``base``, the base
            model of an adapter; and ``dequantize``, whether quantized weights are dequantized.
        directory: The directory that relative paths start from.
        fresh: Whether the weights may be fresh.
        role: What the model is for. The adapter of a teacher is merged into its base model.

    Raises:
        RecipeError: There is no such model, it has no weights, or they do not fit it.
    """
    spec = f"hf:{source}"
    fields = dict(options)
    variant = fields.pop("variant", None)
    within: dict[str, Any] = {name: fields.pop(name) for name in WITHIN if name in fields}
    code = {name: fields.pop(name) for name in CODE if name in fields}
    if code.get("trust_remote_code") is not True:
        code = {}
    dequantized = fields.pop("dequantize", False)
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
    if own_weights and is_adapter(place, within):
        from worker.models.hf.peft import load_adapter

        return load_adapter(spec, place, within, options=options, directory=directory, role=role)
    if folder is not None and not (folder / CONFIG_NAME).is_file():
        raise RecipeError(f"{spec}: the directory {folder} has no {CONFIG_NAME}")
    bare = folder is not None and not weight_files(folder)
    try:
        if not code:
            check_trusted(spec, place, within)
        config = transformers.AutoConfig.from_pretrained(
            place, **within, **(code or {"trust_remote_code": False}), **fields
        )
        keep_every_layer(config)
        kind = model_class(spec, config, place, within, code)
        without = f"the directory {folder} has {CONFIG_NAME} but no file of weights"
        if bare and own_weights and fresh == "never":
            raise no_weights_error(spec, without)
        with quiet():
            if bare or not own_weights:
                forget(config)
                model = build(kind, config)
                _load_generation(model, place, within)
                weights = f"random ({'asked for by the recipe' if fresh == 'always' else without})"
            else:
                dequantize_while_loading(config)
                model, variant = load_own_weights(kind, place, config, variant, within)
                model = dequantize(model) if dequantized and is_quantized(model) else model
                weights = f"from {place}" + (f", variant {variant}" if variant else "")
    except RecipeError:
        raise
    except Exception as error:
        missing = f"the directory {path} does not exist, and as an id on the hub: " if folder is None else ""
        reason = f"{missing}{str(error).rstrip('.')}{weights_hint(place, within)}"
        raise RecipeError(f"{spec} cannot be loaded: {reason}") from error
    if checkpoint is not None:
        file = resolve_path(directory, checkpoint)
        load_weights(model, read_weights(file), str(file))
        weights = f"from {file}"
    if not is_quantized(model):
        model = plain(model)
    elif role == "student":
        raise RecipeError(
            f"the weights of {spec} are quantized ({method_of(config)}), and such weights cannot be trained; name the "
            "model that was quantized, or write `options: {dequantize: true}`"
        )
    complete = own_weights and not (bare or variant or fields or dequantized)
    return HfModel(model.train(), find_adapter(model), place, within, weights, code, complete)


def _load_generation(model: Any, place: str, within: Mapping[str, Any]) -> None:
    """Give a model that is built from a configuration the settings of generation that come with it, if any."""
    if model.can_generate():
        with suppress(OSError):
            model.generation_config = transformers.GenerationConfig.from_pretrained(place, **within)
