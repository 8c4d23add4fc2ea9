"""Adapters of peft: few weights (LoRA and others) that are trained inside of a frozen base model.

As a teacher, an adapter is merged into its base model, which is then a model like any other. As a student its base
model is frozen, and the adapter alone is exported, as peft itself writes it. Peft puts its layers into the base model,
so all other modules have the names that they have without an adapter.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from worker.errors import RecipeError
from worker.files import replace_all
from worker.models.base import WHOLE, Adapter, Role, check_same, unreadable
from worker.models.folders import join_names, resolve_path
from worker.models.hf.adapters import find_adapter
from worker.models.hf.loader import HfModel, load
from worker.models.hf.preparation import list_files
from worker.models.hf.pretrained import build, quiet
from worker.models.hf.quantized import is_quantized
from worker.models.weights import write_tensors

BASE_FOLDER = "base"
"""The folder of an exported adapter that holds its base model, if that exists nowhere else."""
_NAME = "default"
_PREFIX = "base_model.model."
"""The text that peft writes before the names of an adapter's tensors."""


@dataclass(frozen=True)
class TunedModel(HfModel):
    """A base model with an adapter inside.

    Attributes:
        base: The options with which the base model is loaded again, ``base`` among them. None if the adapter is new
            and the base model exists nowhere else (a part of the teacher): it is exported with the adapter.
        embeddings: Whether the file of the adapter also has embeddings, because the vocabulary grew with it.
    """

    base: Mapping[str, Any] | None = None
    embeddings: bool = False

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> HfModel:
        """Refuse to cut a student: an adapter that is not merged is of no use without its base model."""
        raise RecipeError("a student cannot be cut from an adapter that cannot be merged into its base model")

    def tune(self, fields: Mapping[str, Any]) -> HfModel:
        """Refuse a second adapter."""
        raise RecipeError("student.model is an adapter already; remove `student.lora`")

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """Write the adapter for ``PeftModel.from_pretrained(BASE, "DIRECTORY")``, and the base model if it is new."""
        model: Any = self.model
        base = self.base or {"base": str(directory.resolve() / BASE_FOLDER)}
        config = copy.deepcopy(model.peft_config[_NAME])
        config.inference_mode = True
        config.base_model_name_or_path, config.revision = base["base"], base.get("revision")
        kind = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}

        def write(path: Path) -> None:
            if self.base is None:
                self._export_base(state, path / BASE_FOLDER)
            config.save_pretrained(str(path), auto_mapping_dict=kind)
            write_tensors(self.adapter_state(state), path / ADAPTER_SAFE_WEIGHTS_NAME)
            self.copy_preparation(path)

        replace_all(directory, write)
        return directory / ADAPTER_SAFE_WEIGHTS_NAME

    def adapter_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the adapter, out of those of the whole model, by the names in its file."""
        tensors = _peft("an adapter").get_peft_model_state_dict(
            self.model, state_dict=dict(state), adapter_name=_NAME, save_embedding_layers=self.embeddings
        )
        return {_PREFIX + name: tensor for name, tensor in tensors.items()}

    def _export_base(self, state: Mapping[str, Tensor], directory: Path) -> None:
        model: Any = self.model
        with torch.device("meta"):
            bare = build(type(model), copy.deepcopy(model.config))
        if bare.can_generate():
            bare.generation_config = model.generation_config
        named = {name.replace(".base_layer.", ".").replace(".original_module.", "."): name for name in state}
        tensors = {name: state[named[name]] for name in bare.state_dict()}
        HfModel(bare, self.adapter, self.place, self.within, "", self.code).export(tensors, directory)

    def check_export(self) -> None:
        """Raise RecipeError unless all that is trained is exported, and the export can be loaded back as the same.

        Of a model with more than `WHOLE` bytes of weights only the adapter's file is written.
        """
        model: Any = self.model
        state = model.state_dict()
        written = {tensor.data_ptr() for tensor in self.adapter_state(state).values()}
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        lost = [name for name, parameter in trained if parameter.data_ptr() not in written]
        if lost:
            raise RecipeError(
                f"peft does not write {join_names(lost)} with the adapter; name them under `student.freeze`, so that "
                "they are not trained"
            )
        if sum(tensor.nbytes for tensor in state.values()) > WHOLE:
            return
        with tempfile.TemporaryDirectory(prefix="optima-export-") as name:
            try:
                self.export(state, Path(name))
                options = {**self.code, **(self.base or {})}
                loaded = load(name, checkpoint=None, options=options, directory=Path(name), role="student")
            except Exception as error:
                raise unreadable(model, error) from error
        check_same(model, state, loaded.model.state_dict())


def load_adapter(
    spec: str, place: str, within: Mapping[str, Any], *, options: Mapping[str, Any], directory: Path, role: Role
) -> HfModel:
    """Load an adapter with its base model; a teacher's is merged into it.

    Args:
        spec: The model in the recipe.
        place: The adapter's directory, or its id on the hub.
        within: Its place in a repository on the hub.
        options: Those of `worker.models.hf.loader.load`; all but ``revision`` and ``subfolder`` are about the base
            model, which ``base`` names if the adapter does not.
        directory: The directory that relative paths start from.
        role: What the model is for.

    Raises:
        RecipeError: There is no base model, the adapter does not fit it, or peft is not installed.
    """
    peft = _peft(spec)
    try:
        config = peft.PeftConfig.from_pretrained(place, **within)
    except Exception as error:
        raise RecipeError(f"{spec}: its {ADAPTER_CONFIG_NAME} cannot be read: {error}") from error
    if config.is_prompt_learning:
        raise RecipeError(
            f"{spec} is an adapter of the type {config.peft_type.value}, which puts virtual tokens before the inputs; "
            "expected one inside of the model's layers, such as LoRA"
        )
    base_options = {name: value for name, value in options.items() if name not in ("base", "revision", "subfolder")}
    if config.revision is not None:
        base_options["revision"] = config.revision
    named = options.get("base") or _find_base(config.base_model_name_or_path, place, directory)
    if not named:
        raise RecipeError(f"{spec} is an adapter without a base model; name it: `options: {{base: <id or path>}}`")
    try:
        # As a teacher: the weights of the base model may be quantized, since they are frozen.
        base = load(named, checkpoint=None, options=base_options, directory=directory)
    except RecipeError as error:
        raise RecipeError(
            f"the base model of the adapter {spec} cannot be loaded; `options: {{base: <id or path>}}` names another "
            f"one: {error}"
        ) from error
    with quiet():
        wrapper, embeddings = _attach(peft, spec, base.model, place, within, trained=role == "student")
    # Tokenizers are often saved with the adapter.
    has_tokenizer = "tokenizer_config.json" in list_files(place, within)
    files: tuple[str, Mapping[str, str]] = (place, within) if has_tokenizer else (base.place, base.within)
    # Merged weights would be rounded to the few bits of quantized ones.
    if role == "teacher" and hasattr(wrapper, "merge_and_unload") and not is_quantized(base.model):
        model = wrapper.merge_and_unload(safe_merge=True).train()
        return HfModel(model, find_adapter(model), *files, f"from {place}, merged into {base.place}", base.code)
    model = wrapper.get_base_model().train()
    weights = f"from {place}, inside of {base.place}"
    loadable = {**base_options, "base": base.place}
    return TunedModel(model, find_adapter(model), *files, weights, base.code, base=loadable, embeddings=embeddings)


def _find_base(name: str | None, place: str, directory: Path) -> str | None:
    """Return the base model that an adapter names; it may have moved together with the adapter."""
    if not name:
        return None
    beside = Path(place) / Path(name).name
    return str(beside) if beside.is_dir() and not resolve_path(directory, name).is_dir() else name


def _attach(
    peft: Any, spec: str, model: nn.Module, place: str, within: Mapping[str, Any], *, trained: bool
) -> tuple[Any, bool]:
    """Put an adapter with its weights into its base model; return peft's wrapper, and whether the embeddings grew."""
    try:
        wrapper = peft.PeftModel.from_pretrained(model, place, is_trainable=trained, torch_device="cpu", **within)
        written = peft.load_peft_weights(place, device="cpu", **within)
    except Exception as error:
        raise RecipeError(f"{spec} does not fit its base model: {str(error).strip()}") from error
    inner = wrapper.get_base_model()
    faults: list[str] = []
    for embeddings in (False, True):
        tensors = peft.get_peft_model_state_dict(inner, inner.state_dict(), _NAME, save_embedding_layers=embeddings)
        loaded = {_PREFIX + name: tensor for name, tensor in tensors.items()}
        faults = sorted(written.keys() ^ loaded.keys()) or [
            name for name, tensor in written.items() if not torch.equal(tensor.to(loaded[name].dtype), loaded[name])
        ]
        if not faults:
            return wrapper, embeddings
    raise RecipeError(f"{spec} does not fit its base model; these of its tensors have no place: {join_names(faults)}")


def add_adapter(student: HfModel, fields: Mapping[str, Any]) -> TunedModel:
    """Put a new LoRA adapter into a student, which is frozen but for that.

    Args:
        student: The student; its model is changed.
        fields: Arguments of ``peft.LoraConfig``.

    Raises:
        RecipeError: The arguments are not valid, match no layer, or peft is not installed.
    """
    peft = _peft("student.lora")
    model = student.model
    try:
        peft.get_peft_model(model, peft.LoraConfig(**fields))
    except (TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"peft.LoraConfig({', '.join(fields)}): {str(error).strip()}") from error
    base = {**student.within, **student.code, "base": student.place} if student.complete else None
    weights = f"{student.weights}, with a new adapter"
    return TunedModel(model, student.adapter, student.place, student.within, weights, student.code, base=base)


def _peft(spec: str) -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise RecipeError(f"{spec} needs the package peft: pip install peft ({error})") from error
    return peft
