"""The configuration of a student that is cut from a model of transformers.

The section of a configuration that describes a stack is the ``config`` of the nearest PyTorch module around the stack,
found by identity in the model's own configuration. Its depth is shortened, and what it says about single layers is
renumbered:

- a list as long as the stack has one entry for each layer (``layer_types``, ``mlp_layer_types``, ``no_rope_layers``);
- a list whose name says that it holds layers or indices holds the numbers of layers. Most name the layers of one kind
  (``mlp_only_layers``, ``fullatt_block_indexes``): those left out are removed. Those of `TAPS` name layers whose output
  is read: a layer that is left out is replaced by the last one before it, as if it passed its input on;
- single numbers are a boundary between layers (`BEFORE`, `BEHIND`), or a rhythm (``decoder_sparse_step``): a value is
  searched with which each layer is built like the teacher's layer it comes from.

Nothing is taken on trust: the configuration is tried by building the model without memory, and each layer has to be
built like its source.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from worker.errors import RecipeError
from worker.models.cut import LayerSelection
from worker.models.folders import join_names
from worker.models.hf.signature import compare_layers, differing, layer_signature

log = logging.getLogger(__name__)

BEFORE = ("first_k_dense_replace", "num_dense_layers", "max_window_layers", "moe_layer_start_index")
"""Fields that count the layers before a boundary."""
BEHIND = ("num_kv_shared_layers",)
"""Fields that count the last layers."""
TAPS = ("deepstack_visual_indexes", "intermediate_layers_indices", "summary_idxs", "target_layer_ids")
"""Fields that name layers whose output is read by others."""
VISION_TAPS = ("vision_feature_layer", "vision_feature_layers")
"""Fields outside the section that name hidden states of the image tower; number 0 is the input of its first layer."""
FLAGS = ("no_rope_layers",)
"""Lists with an entry for each layer, although their name and values could be those of a list of layers."""
BY_INDEX = ("scale_attn_by_inverse_layer_idx",)
"""Fields that make a layer's computation depend on its number."""

TIMM = "model_args"
"""The field with the arguments of a model of timm; its depth is one of them, or follows from its name."""

_DEPTH = re.compile(r"layer|depth|block|stage")
_NUMBERS = re.compile(r"(layers?|layer_ids|indexe?s|indices|idxs?|block_ids)$")
_NO_LAYERS = re.compile(
    r"size|patch|kernel|stride|dilation|conv_dim|mean$|std$|token|out_features|architectures|^_?out_ind|channel"
    r"|^encode_proj_layers$|^vision_feature_layer"
)
"""Names of lists that say nothing about single layers, whatever their lengths and values."""
_RHYTHM = re.compile(r"step$|interval$|frequency$|freq$|period$|offset$|every|pattern$|rhythm")
_NO_RHYTHM = re.compile(r"time|rope|rotary|mask|vocab|rescale|dropout|position|sampling|noise")
_TRIALS = 200
"""Values of rhythms that are tried at most; each builds the model without memory."""


def shorten(model: Any, selection: LayerSelection, build: Callable[[Any], Any]) -> Any:
    """Return the configuration of a student; stacks that are shortened with a chosen one are added to the selection.

    Args:
        model: The model of transformers that is cut.
        selection: The layers that are kept.
        build: Builds a model of this class from a configuration.

    Raises:
        RecipeError: The configuration cannot describe the layers that are kept.
    """
    config = copy.deepcopy(model.config)
    lengths, student = _stacks(model), None
    for stack, numbers in list(selection.origins.items()):
        depth = len(model.get_submodule(stack))
        if len(numbers) == depth:
            continue
        if not numbers:
            raise RecipeError(f"no layer of {stack} is left, and the model needs at least one; keep more layers")
        step = _Step(model, stack, depth, numbers, lengths, build)
        config, student = step.run(config)
        lengths = _stacks(student)
        selection.origins.update(dict.fromkeys((stack, *step.parallel), step.numbers))
    if student is not None:
        _check_complete(model, student, selection)
    return config


def _check_complete(model: nn.Module, student: nn.Module, selection: LayerSelection) -> None:
    """Raise RecipeError unless every layer and tensor of the student has a source that is like it, and none is lost."""
    for stack, numbers in selection.origins.items():
        faults = compare_layers(model, student, stack, numbers)
        if faults:
            raise RecipeError(f"{stack} of the student is not the teacher's: {'; '.join(faults[:3])}")
    student_tensors, teacher_tensors = student.state_dict(), model.state_dict()
    sources = {name: selection.source(name, teacher_tensors) for name in student_tensors}
    faults = []
    for name, tensor in student_tensors.items():
        source = teacher_tensors.get(sources[name])
        if source is None or source.shape != tensor.shape:
            shape = "missing" if source is None else f"{list(source.shape)} there"
            faults.append(f"{name} {list(tensor.shape)} ({shape})")
    if faults:
        raise RecipeError(
            "these tensors of the student have no source of the same shape in the teacher: "
            f"{join_names(faults)}; {REMEDY}"
        )
    lost = [name for name in teacher_tensors.keys() - set(sources.values()) if not selection.leaves_out(name)]
    if lost:
        raise RecipeError(
            "these tensors of the teacher belong to no layer that is left out, and the student has "
            f"nothing for them: {join_names(sorted(lost))}; {REMEDY}"
        )


def _stacks(model: nn.Module) -> dict[str, int]:
    return {
        name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
    }


def sections(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a configuration and those inside it, each with its path."""
    yield path, config
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            yield from sections(value, (*path, name))


def keep_every_layer(config: Any) -> None:
    """Set the share of layers that a model leaves out at random in training to 0: all of them are compared."""
    for path, section in sections(config):
        for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
            if getattr(section, name, None):
                log.info("%s is 0 instead of %s", ".".join((*path, name)), getattr(section, name))
                setattr(section, name, 0.0)


def _follow(config: Any, path: Sequence[str]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def _section_paths(model: Any, stack: str) -> list[tuple[str, ...]]:
    """Return the paths of the sections that may describe a stack, the nearest first.

    Some models give a stack a copy of the configuration, changed (T5) or not; one with equal content is found too.
    """
    all_sections = list(sections(model.config))
    paths: list[tuple[str, ...]] = []
    ancestor = stack
    while ancestor:
        ancestor = ancestor.rpartition(".")[0]
        ancestor_config = getattr(model.get_submodule(ancestor), "config", None)
        same = [path for path, section in all_sections if section is ancestor_config]
        if not same and isinstance(ancestor_config, PreTrainedConfig):
            same = [
                path
                for path, section in all_sections
                if type(section) is type(ancestor_config) and section == ancestor_config
            ]
        if len(same) == 1 and same[0] not in paths:
            paths.append(same[0])
    return paths or [()]


@dataclass
class _Step:
    """The shortening of one stack."""

    model: Any
    stack: str
    depth: int
    numbers: list[int]
    lengths: Mapping[str, int]
    build: Callable[[Any], Any]
    parallel: tuple[str, ...] = ()

    def run(self, config: Any) -> tuple[Any, Any]:
        """Return the configuration with a shorter stack, and a model without memory that was built from it."""
        reasons: list[str] = []
        for path in _section_paths(self.model, self.stack):
            for field, place, value in self._depth_fields(_follow(config, path)):
                trial = copy.deepcopy(config)
                section = _follow(trial, path)
                self._check_by_index(section)
                self._check_deepstack(trial, path)
                taps = self._renumber(section, field, place)
                _set(section, field, place, value)
                taps += self._renumber_vision_taps(trial, path)
                taps += self._renumber_outputs(section) if place is None else []
                name = ".".join((*path, field))
                staged = place is not None or field == TIMM
                try:
                    student = self._try(trial)
                except Exception as error:
                    reasons.append(f"{name} = {value} fails: {str(error).strip().splitlines()[0]}")
                    continue
                changed = self._changed_stacks(student)
                if changed is None:
                    continue
                if changed:
                    reasons.append(f"{name} also changes {join_names(changed)}")
                    continue
                if staged:
                    self._fit_sources(student)
                fitting = self._fit_rhythm(trial, path, field, student)
                for text in taps:
                    log.info("%s", text)
                return fitting
        if reasons:
            raise RecipeError(f"{self.stack} cannot be shortened: {'; '.join(reasons)}; {REMEDY}")
        raise RecipeError(
            f"the configuration has no field for the depth of {self.stack} with the value {self.depth}; {REMEDY}"
        )

    def _try(self, config: Any) -> Any:
        with torch.device("meta"):
            return self.build(copy.deepcopy(config))

    def _depth_fields(self, section: Any) -> list[tuple[str, int | None, Any]]:
        """Return the fields that may hold the depth, likely ones first: name, place in a list of depths, and value."""
        side = "decoder" if "decoder" in self.stack else "encoder" if "encoder" in self.stack else None
        fields: list[tuple[str, int | None]] = []
        for name, value in vars(section).items():
            if not _DEPTH.search(name):
                continue
            if type(value) is int and value == self.depth:
                fields.append((name, None))
            elif isinstance(value, list | tuple) and re.search(r"depth|num_.*(layers|blocks)", name):
                fields += [(name, index) for index, entry in enumerate(value) if entry == self.depth]
        other = {"decoder": "encoder", "encoder": "decoder", None: None}[side]
        fields.sort(
            key=lambda entry: (
                entry[1] is not None,
                other is not None and other in entry[0],
                entry[0] not in ("num_hidden_layers", "num_layers", "n_layer", "depth"),
            )
        )
        named = [(name, place, len(self.numbers)) for name, place in fields]
        return [*named, *((TIMM, None, arguments) for arguments in self._timm_arguments(section))]

    def _timm_arguments(self, section: Any) -> Iterator[dict[str, Any]]:
        """Yield the arguments with which timm may build a model of another depth than its name says."""
        if not hasattr(section, TIMM):
            return
        given = dict(getattr(section, TIMM) or {})
        stages = re.compile(re.sub(r"\d+", r"\\d+", re.escape(self.stack)))
        depths = {name: length for name, length in self.lengths.items() if stages.fullmatch(name)}
        depths[self.stack] = len(self.numbers)
        if len(depths) > 1:
            yield from ({**given, name: list(depths.values())} for name in ("depths", "layers"))
        else:
            yield {**given, "depth": len(self.numbers)}

    def _changed_stacks(self, student: nn.Module) -> list[str] | None:
        """Return other stacks whose length changed; None if this one has not the wanted length."""
        lengths = _stacks(student)
        if lengths.get(self.stack) != len(self.numbers):
            return None
        changed = {
            name
            for name in self.lengths.keys() | lengths.keys()
            if not f"{name}.".startswith(f"{self.stack}.") and self.lengths.get(name) != lengths.get(name)
        }
        beside = self.stack.rpartition(".")[0]
        # Lists beside the stack with an entry for each layer.
        parallel = {
            name
            for name in changed
            if name.rpartition(".")[0] == beside
            and (self.lengths.get(name), lengths.get(name)) == (self.depth, len(self.numbers))
        }
        within = tuple(f"{name}." for name in parallel)
        self.parallel = tuple(sorted(parallel))
        return sorted(name for name in changed - parallel if not (within and name.startswith(within)))

    def _check_by_index(self, section: Any) -> None:
        for name in BY_INDEX:
            if getattr(section, name, None):
                raise RecipeError(
                    f"{self.stack} cannot be cut because its layers compute with their own number "
                    f"({name}: true), which the cut changes; {REMEDY}"
                )

    def _check_deepstack(self, config: Any, path: Sequence[str]) -> None:
        """Raise RecipeError if a language model has fewer layers than features of its tower are added to."""
        vision = getattr(_follow(config, path[:-1]), "vision_config", None) if path else None
        features = getattr(vision, "deepstack_visual_indexes", None) or ()
        if vision is not _follow(config, path) and len(features) > len(self.numbers):
            raise RecipeError(
                f"{self.stack} reads {len(features)} outputs of the image tower (deepstack_visual_indexes), one in "
                f"each of its first layers; keep at least {len(features)} layers instead of {len(self.numbers)}"
            )

    def _renumber(self, section: Any, field: str, place: int | None) -> list[str]:
        """Change everything that a section says about single layers; return what has to be known about it."""
        stages = len(getattr(section, field)) if place is not None else None
        dense = self._dense_layers(section)
        texts: list[str] = []
        for name, values in list(vars(section).items()):
            if _NO_LAYERS.search(name) or _is_of_other_side(name, field) or name == field:
                continue
            if name in BEFORE and type(values) is int and 0 < values < self.depth:
                setattr(section, name, sum(number < values for number in self.numbers))
            elif name in BEHIND and type(values) is int and values > 0:
                setattr(section, name, sum(number >= self.depth - values for number in self.numbers))
            elif isinstance(values, list | tuple) and values and len(values) != stages:
                renumbered = self._list(name, values, texts)
                if renumbered is not None:
                    setattr(section, name, type(values)(renumbered))
        if dense is not None:
            section.decoder_sparse_step, section.mlp_only_layers = 1, dense
        if hasattr(section, "attention_types") and isinstance(getattr(section, "attention_layers", None), list):
            section.attention_types = [[list(section.attention_layers), 1]]
        return texts

    def _dense_layers(self, section: Any) -> list[int] | None:
        """Return the student's layers without experts, for the models that have a rhythm and exceptions from it."""
        step, exceptions = (getattr(section, name, None) for name in ("decoder_sparse_step", "mlp_only_layers"))
        if type(step) is not int or not isinstance(exceptions, list | tuple):
            return None
        return [
            index
            for index, number in enumerate(self.numbers)
            if step < 1 or (number + 1) % step != 0 or number in exceptions
        ]

    def _list(self, name: str, values: Sequence[Any], texts: list[str]) -> list[Any] | None:
        """Return a list that is renumbered, or None if it says nothing about layers."""
        integers = all(type(value) is int for value in values)
        ascending = integers and all(low < high for low, high in pairwise(values))
        lists_layers = integers and ascending and bool(_NUMBERS.search(name)) and name not in FLAGS
        if name in TAPS:
            taps = [self._before(value) if 0 <= value < self.depth else value for value in values]
            if len(set(taps)) < len(taps):
                raise RecipeError(
                    f"{name} reads the outputs of {len(values)} layers of {self.stack} "
                    f"({', '.join(map(str, values))}), and {len(self.numbers)} layers are too few to keep them apart; "
                    "keep more layers"
                )
            texts.append(f"{name} of the student is {taps}, of the teacher {list(values)}")
            return taps
        if lists_layers:
            inside = [value for value in values if value in self.numbers]
            outside = [value for value in values if not 0 <= value < self.depth]
            if not inside and len(outside) < len(values):
                log.warning("none of the layers that %s lists for %s is kept", name, self.stack)
            return [self.numbers.index(value) for value in inside] + outside
        return [values[number] for number in self.numbers] if len(values) == self.depth else None

    def _before(self, number: int) -> int:
        """Return the index of the last kept layer up to one of the teacher's; 0 if there is none."""
        return max(sum(one <= number for one in self.numbers) - 1, 0)

    def _renumber_vision_taps(self, config: Any, path: Sequence[str]) -> list[str]:
        """Renumber the hidden states of the image tower that the section around the tower's names."""
        if not path or path[-1] != "vision_config":
            return []
        outer, texts = _follow(config, path[:-1]), []
        for name in VISION_TAPS:
            value = getattr(outer, name, None)
            if value is None:
                continue
            states = [self._state(state) for state in (value if isinstance(value, list | tuple) else [value])]
            setattr(outer, name, type(value)(states) if isinstance(value, list | tuple) else states[0])
            texts.append(f"{name} of the student is {getattr(outer, name)}, of the teacher {value}")
        return texts

    def _renumber_outputs(self, section: Any) -> list[str]:
        """Renumber the hidden states that a backbone puts out; number 0 is the input of its first layer."""
        names, states = getattr(section, "stage_names", None), getattr(section, "_out_indices", None)
        if not isinstance(names, list) or len(names) != self.depth + 1:
            return []
        section.stage_names = names[: len(self.numbers) + 1]
        if not states:
            return []
        moved = [self._state(state % len(names)) for state in states]
        if len(set(moved)) < len(moved):
            raise RecipeError(
                f"out_indices reads the outputs of {len(states)} layers of {self.stack}, and {len(self.numbers)} "
                "layers are too few to keep them apart; keep more layers"
            )
        section._out_indices, section._out_features = moved, [section.stage_names[state] for state in moved]
        return [f"out_indices of the student is {moved}, of the teacher {list(states)}"]

    def _fit_sources(self, student: nn.Module) -> None:
        """Choose the nearest sources that are built like the layers of a stage, if the chosen ones are not.

        The first block of a stage may have a shortcut (ResNet), and the windows of every second one are shifted (Swin).
        """
        if not compare_layers(self.model, student, self.stack, self.numbers):
            return
        sources = [layer_signature(self.model, self.stack, number) for number in range(self.depth)]
        # By the last source: the distance so far from the chosen ones, and the sources.
        best: dict[int, tuple[int, list[int]]] = {-1: (0, [])}
        for index, wanted in enumerate(self.numbers):
            layer = layer_signature(student, self.stack, index)
            alike = [
                number
                for number, source in enumerate(sources)
                if next(differing(layer, source, numbers=(index, number)), None) is None
            ]
            longer: dict[int, tuple[int, list[int]]] = {}
            for number in alike:
                before = [(cost + abs(number - wanted), chain) for last, (cost, chain) in best.items() if last < number]
                if before:
                    cost, chain = min(before)
                    longer[number] = cost, [*chain, number]
            best = longer
        if best:
            self.numbers = min(best.values())[1]
            log.info("%s keeps the layers %s: others would be built otherwise", self.stack, self.numbers)

    def _state(self, state: int) -> int:
        """Return the student's hidden state for one of the teacher's; negative ones, from the end, stay negative."""
        layer = (state + self.depth + 1 if state < 0 else state) - 1
        if not 0 <= layer < self.depth:
            return state if layer >= 0 or state >= 0 else -len(self.numbers) - 1
        index = self._before(layer)
        return index - len(self.numbers) if state < 0 else index + 1

    def _fit_rhythm(self, config: Any, path: Sequence[str], field: str, student: Any) -> tuple[Any, Any]:
        """Return the configuration with a rhythm that builds each layer like its source."""
        faults = compare_layers(self.model, student, self.stack, self.numbers)
        if not faults:
            return config, student
        section = _follow(config, path)
        rhythms = [
            name
            for name, value in vars(section).items()
            if type(value) is int
            and _RHYTHM.search(name)
            and not _NO_RHYTHM.search(name)
            and not _is_of_other_side(name, field)
        ]
        single = [((name,), (value,)) for name in rhythms for value in range(len(self.numbers) + 2)]
        pairs = [
            ((one, other), values)
            for one in rhythms
            for other in rhythms
            if one.removesuffix("period") == other.removesuffix("offset") != one
            for values in product(range(1, len(self.numbers) + 2), range(len(self.numbers) + 1))
        ]
        for names, values in islice([*single, *pairs], _TRIALS):
            trial = copy.deepcopy(config)
            for name, value in zip(names, values, strict=True):
                setattr(_follow(trial, path), name, value)
            try:
                fresh = self._try(trial)
            except Exception:
                # Such a value is not possible, as a step of 0.
                log.debug("%s: %s = %s is not possible", self.stack, names, values)
                continue
            if self._changed_stacks(fresh) == [] and not compare_layers(self.model, fresh, self.stack, self.numbers):
                return trial, fresh
        fields = f" ({', '.join(f'{name}: {getattr(section, name)}' for name in rhythms)})" if rhythms else ""
        raise RecipeError(
            f"the configuration{fields} cannot describe the layers {', '.join(map(str, self.numbers))} that "
            f"are kept of {self.stack}: {'; '.join(faults[:3])}; keep another number of layers, or name a "
            "configuration for the student instead: student.model"
        )


REMEDY = "name a configuration for the student instead: student.model"


def _set(section: Any, field: str, place: int | None, value: Any) -> None:
    if place is not None:
        depths = getattr(section, field)
        setattr(section, field, type(depths)([*depths[:place], value, *depths[place + 1 :]]))
    else:
        setattr(section, field, value)


def _is_of_other_side(name: str, field: str) -> bool:
    """Return whether a field is about the decoder and the depth about the encoder, or the other way round."""
    sides = ("encoder", "decoder")
    return any(here in field and there in name for here, there in (sides, sides[::-1]))
