"""The commands of the benchmarks: those that are listed and those that the documentation names."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

from benchmarks.__main__ import QUESTIONS, main
from tests.benchmarks.command import benchmark
from tests.launch import ROOT

DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.py")]
NAMED = {
    name
    for path in DOCUMENTS
    for name in re.findall(r"python -m (benchmarks(?:\.\w+)+)", path.read_text(encoding="utf-8"))
    if name != "benchmarks.NAME"
}


@pytest.mark.parametrize("name", sorted({*QUESTIONS, *NAMED}))
def test_every_named_command_exists(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert find_spec(f"{name}.__main__") is not None


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_every_listed_command_explains_its_options(name: str) -> None:
    assert f"usage: python -m {name} " in benchmark(name.removeprefix("benchmarks."), "--help")


def test_every_benchmark_is_listed_with_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    folders = [path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")]
    assert len(folders) >= 5
    for folder in folders:
        assert f"python -m benchmarks.{folder} " in printed
