"""The modules of a model of transformers, found in its PyTorch modules: which towers it has, and what lies around them.

A model with one tower (towers.py) is split by depth into thirds; one with several has a module for each tower, and for
what connects them:

=======================================  =============================================================================
model                                    modules
=======================================  =============================================================================
one stack (GPT, BERT, ViT, Swin, …)      lower, middle, upper
encoder and decoder (T5, Donut, …)       encoder, decoder
image and text (CLIP, SigLIP, CLAP)      image or audio, text
vision-language, audio-language          image or audio, connector, and language or, from `LONG` layers on, lower,
                                         middle, upper
others                                   one for each tower, called like it
=======================================  =============================================================================

Every parameter with a dimension belongs to a module: embeddings to the first of their tower, norms and heads to the
last, the connector has what lies between the towers and the language model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Literal

from torch import nn
from transformers.models.auto import modeling_auto

from worker.errors import RecipeError
from worker.models.base import ModuleSpec
from worker.models.hf.towers import CONNECTOR, Tower, find_towers, join, leaf, numbered, outside

Kind = Literal["text", "image", "audio", "answer", "other"]
"""The kind of positions that a module's hidden states have: tokens, patches, frames, tokens of the decoder's own."""

THIRDS = ("lower", "middle", "upper")
LANGUAGE = "language"
"""The language model beside a tower: a module, or all of its thirds."""
LONG = 6
"""Number of layers from which on a language model beside a tower is more than one module."""
BEFORE = -1
"""The place of what comes before the first block."""

_ROLES = (
    ("audio", re.compile(r"audio|speech|sound")),
    ("video", re.compile(r"video")),
    ("image", re.compile(r"vision|visual|image|vit(_|$)|pixel")),
    ("text", re.compile(r"text|language|(^|_)l?lm(_|$)")),
    ("encoder", re.compile(r"encoder")),
    ("decoder", re.compile(r"decoder")),
)
_ENDS = re.compile(r"final|post|head|classif|pooler|ln_f|^norm$|_out$|^cls$|score|predict")
_BEGINS = re.compile(r"emb|(^|_)pre|^w[tp]e$")


@dataclass(frozen=True)
class Structure:
    """The modules of a model.

    Attributes:
        modules: Their declarations; their inputs are not known.
        kinds: The kind of positions of each module.
    """

    modules: tuple[ModuleSpec, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)


def find_structure(model: Any, sizes: Mapping[str, int] | None = None) -> Structure:
    """Return the modules of a model; none if no stack is found.

    Args:
        model: A model of transformers.
        sizes: Number of layers of each module, for a model that was cut; by default a tower that is split has modules
            of equal depth, the later ones deeper if the depth is not divisible.
    """
    towers = find_towers(model)
    if not towers:
        return Structure()
    if len(towers) == 1:
        specs = _split(model, Tower("", towers[0].layers), sizes or {})
        kind = _kind_of_input(model)
        return Structure(specs, {spec.name: kind for spec in specs})
    joined = _is_joined(model)
    _name_roles(model, towers, joined)
    joined = joined and any(tower.role not in ("encoder", "decoder") for tower in towers)
    connector = _connector(model, towers) if joined else None
    _distribute(model, towers, connector)
    return _declare(model, towers, connector, sizes or {})


def split_depth(depth: int) -> list[int]:
    """Return the number of layers of each third, the later ones larger; fewer than three below three layers."""
    count = min(len(THIRDS), depth)
    bounds = [index * depth // count for index in range(count + 1)]
    return [after - before for before, after in pairwise(bounds)]


def spread_language(keep: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return ``keep`` with the layers of a whole language model, if it has any, spread over its thirds.

    Args:
        keep: Number of layers to keep, by module.
        sizes: Number of layers of each module.

    Raises:
        RecipeError: There are fewer layers than thirds, or a third is named too.
    """
    thirds = [name for name in THIRDS if name in sizes]
    if LANGUAGE not in keep or LANGUAGE in sizes or not thirds:
        return dict(keep)
    count, named = keep[LANGUAGE], [name for name in thirds if name in keep]
    if named:
        raise RecipeError(f"keep names {LANGUAGE} and {named[0]}, which is a part of it; remove one of them")
    if count < len(thirds):
        raise RecipeError(
            f"keep asks for {count} layers of {LANGUAGE}, which is {', '.join(thirds)}; keep at least {len(thirds)}"
        )
    bounds = [index * count // len(thirds) for index in range(len(thirds) + 1)]
    spread = {name: end - first for name, (first, end) in zip(thirds, pairwise(bounds), strict=True)}
    return {name: number for name, number in keep.items() if name != LANGUAGE} | spread


# Roles


def _is_joined(model: Any) -> bool:
    """Return whether a language model reads what other towers put out, rather than being compared with them."""
    contrasts = any("logit_scale" in name for name, _ in model.named_parameters())
    mapping = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING
    return not contrasts and (model.can_generate() or type(model.config) in mapping)


def _name_roles(model: Any, towers: Sequence[Tower], joined: bool) -> None:
    """Give each tower its role: the first that a component of its path names, from the end; and its name."""
    named = [tower for tower in towers if tower.role]
    for tower in towers:
        parts = tower.path.split(".")
        if joined and not tower.role and CONNECTOR.search(tower.path):
            tower.role = "connector"
        if not tower.role:
            found = (role for part in reversed(parts) for role, pattern in _ROLES if pattern.search(part.lower()))
            tower.role = next(found, "")
        if not tower.role and joined and _has_embeddings(model, tower):
            tower.role = "text"
        tower.role = tower.role or leaf(tower.path)
    texts = [tower for tower in towers if tower.role == "text"]
    others = [tower for tower in towers if tower.role not in ("text", "connector")]
    if joined and len(texts) == 1 and others and all(tower.role != "decoder" for tower in others):
        texts[0].role = LANGUAGE
    if joined and not texts and not any(tower.role in ("decoder", LANGUAGE) for tower in towers):
        unknown = [tower for tower in towers if tower.role not in ("image", "video", "audio", "connector")]
        max(unknown or towers, key=lambda tower: _size(model, tower)).role = LANGUAGE
    roles = Counter(tower.role for tower in towers)
    leaves = Counter(leaf(tower.path) for tower in towers)
    for tower in towers:
        own = leaf(tower.path) if leaves[leaf(tower.path)] == 1 else tower.path.replace(".", "_")
        tower.name = tower.role if roles[tower.role] == 1 or tower in named else own


def _size(model: nn.Module, tower: Tower) -> int:
    return sum(parameter.numel() for parameter in model.get_submodule(tower.path).parameters())


def _has_embeddings(model: Any, tower: Tower) -> bool:
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:
        return False
    return any(inside is embeddings for inside in model.get_submodule(tower.path).modules())


def _connector(model: Any, towers: list[Tower]) -> Tower:
    """Return the connector, with what of the towers belongs to it; towers that connect are removed from the list."""
    connector = Tower("", [], "connector")
    for tower in [tower for tower in towers if tower.role == "connector"]:
        connector.layers += tower.layers
        connector.after.append(tower.path)
        towers.remove(tower)
    return connector


# Parts around the stacks


def _distribute(model: Any, towers: Sequence[Tower], connector: Tower | None) -> None:
    """Give everything outside of the towers to one of them or to the connector."""
    base = "" if model.base_model is model else next(n for n, m in model.named_modules() if m is model.base_model)
    inside_base = bool(base) and all(tower.path.startswith(f"{base}.") for tower in towers)
    head = model.get_output_embeddings()
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    taken = {*(tower.path for tower in towers), *(connector.after if connector else ())}
    language = next((tower for tower in towers if tower.role in (LANGUAGE, "decoder")), towers[-1])
    for path, module in outside(model, "", taken):
        name = leaf(path).lower()
        # A module's own parameters come before its children, wherever they are used.
        single = isinstance(module, nn.Parameter)
        following = [] if single else [tower for tower in towers if order[tower.path] > order[path]]
        if module is head or (inside_base and not path.startswith(f"{base}.")):
            language.after.append(path)
        elif connector is not None:
            (language.before if isinstance(module, nn.Embedding) else connector.after).append(path)
        elif own := [tower for tower in towers if tower.role in _roles(name)]:
            own[0].after.append(path)
        elif following:
            following[0].before.append(path)
        else:
            language.after.append(path)
    if connector is not None:
        for tower in towers:
            if tower.role in ("image", "video", "audio"):
                children = model.get_submodule(tower.path).named_children()
                within = [join(tower.path, name) for name, child in children if _connects(name, child)]
                connector.after += within


def _connects(name: str, child: nn.Module) -> bool:
    return bool(CONNECTOR.search(name.lower())) and any(True for _ in child.parameters())


def _roles(name: str) -> set[str]:
    return {role for role, pattern in _ROLES if pattern.search(name)}


def _places(model: nn.Module, tower: Tower, connector: Sequence[str]) -> list[tuple[str, int]]:
    """Return what is in a tower and in none of its blocks, each with the index of the block that it goes with.

    The index is `BEFORE` for what comes before the first block, and the number of blocks for what comes behind the
    last one.
    """
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    last = len(tower.layers) - 1
    trunk = _common(tower.layers)
    places = []
    for path, module in outside(model, tower.path, {*tower.layers, *connector}):
        name = leaf(path).lower()
        stage = path.removeprefix(trunk).partition(".")[0]
        beside = [index for index, layer in enumerate(tower.layers) if layer.startswith(f"{trunk}{stage}.")]
        if beside and path.startswith(trunk) and len(beside) <= last:
            later = order[path] > order[tower.layers[beside[0]]] if path in order else False
            places.append((path, beside[-1] if later else beside[0]))
        elif isinstance(module, nn.Embedding | nn.Parameter) or _BEGINS.search(name):
            places.append((path, BEFORE))
        elif _ENDS.search(name) or order[path] > order[tower.layers[0]]:
            places.append((path, last + 1))
        else:
            places.append((path, BEFORE))
    return places


def _common(layers: Sequence[str]) -> str:
    """Return the path of the module that has all of these layers, with a dot at its end."""
    common: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in layers), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "".join(f"{part}." for part in common)


# Declarations


def _declare(model: nn.Module, towers: Sequence[Tower], connector: Tower | None, sizes: Mapping[str, int]) -> Structure:
    """Declare a module for each tower, and for the connector if it has parameters."""
    order = {"image": 0, "video": 0, "audio": 1, "connector": 2}
    declared: list[tuple[int, tuple[ModuleSpec, ...], Kind]] = []
    connecting = connector.after if connector else []
    for tower in towers:
        split = tower.role == LANGUAGE and (LANGUAGE not in sizes if sizes else len(tower.layers) >= LONG)
        if split:
            specs = _split(model, tower, sizes, connecting)
        else:
            within = [path for path in connecting if path.startswith(f"{tower.path}.")]
            owns = [path for path, _ in _places(model, tower, within)] + tower.layers if within else [tower.path]
            specs = (ModuleSpec(tower.name, (*owns, *tower.before, *tower.after), tuple(tower.layers), None),)
        declared.append((order.get(tower.role, 3), specs, _kind(model, tower)))
    if connector is not None and connecting:
        layers = tuple(connector.layers) or tuple(_outer_layers(model, connecting))
        declared.append((2, (ModuleSpec("connector", tuple(connecting), layers, None),), "other"))
    declared.sort(key=lambda entry: entry[0])
    specs = tuple(spec for _, group, _ in declared for spec in group)
    kinds = {spec.name: kind for _, group, kind in declared for spec in group}
    return Structure(specs, kinds)


def _outer_layers(model: nn.Module, paths: Sequence[str]) -> Iterator[str]:
    """Yield the modules whose outputs the connector puts out."""
    modules = dict(model.named_modules())
    for path in paths:
        if path in modules:
            entries = numbered(modules[path]) if isinstance(modules[path], nn.ModuleList) else []
            yield from [f"{path}.{name}" for name, _ in entries] or [path]


def _kind(model: Any, tower: Tower) -> Kind:
    if tower.role == "decoder":
        return "answer" if model.can_generate() else "other"
    if tower.role in (LANGUAGE, "text"):
        return "text"
    if tower.role in ("image", "video"):
        return "image"
    if tower.role == "audio":
        return "audio"
    if tower.role != "encoder":
        return "other"
    # A frame's encoder is a model by itself; every other PyTorch module of transformers says input_ids.
    own = _kind_of_input(model.get_submodule(tower.path))
    return _kind_of_input(model) if own in ("text", "other") else own


def _kind_of_input(model: Any) -> Kind:
    entry = getattr(model, "main_input_name", "")
    if entry == "pixel_values":
        return "image"
    if entry in ("input_values", "input_features"):
        return "audio"
    return "text" if entry == "input_ids" else "other"


def _split(
    model: nn.Module, tower: Tower, sizes: Mapping[str, int], connector: Sequence[str] = ()
) -> tuple[ModuleSpec, ...]:
    """Declare modules of consecutive layers; the first also owns what comes before, the last what comes behind."""
    counts = [sizes[name] for name in THIRDS if name in sizes] or split_depth(len(tower.layers))
    names = [name for name in THIRDS if name in sizes] or (
        list(THIRDS) if len(counts) == len(THIRDS) else [THIRDS[0], THIRDS[-1]][: len(counts)]
    )
    bounds = [0, *accumulate(counts)]
    places = _places(model, tower, [path for path in connector if path.startswith(f"{tower.path}.")])
    depth = len(tower.layers)
    places = [*places, *((path, BEFORE) for path in tower.before), *((path, depth) for path in tower.after)]
    specs = []
    for name, (first, end) in zip(names, pairwise(bounds), strict=True):
        layers = tower.layers[first:end]
        before = [path for path, place in places if place == BEFORE and first == 0]
        after = [path for path, place in places if first <= place < end or place == end == depth]
        specs.append(ModuleSpec(name, (*before, *layers, *after), tuple(layers), None))
    return tuple(specs)
