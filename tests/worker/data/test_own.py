"""A user's own data module is named by where it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.data import build
from worker.errors import RecipeError


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's in a directory on the path."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "north.py").write_text("import absent_thing\n", encoding="utf-8")
    (tmp_path / "shards" / "south.py").write_text("def make(options): return ['south', options]\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_factory_gets_the_recipes_options() -> None:
    assert build("shards.south:make", {"shard": 3}) == ["south", {"shard": 3}]  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shards.south:mak", "has no function 'mak'; did you mean 'make'?"),
        ("shards.east:make", "cannot be imported in .*: No module named 'shards.east'"),
        ("shards.north:make", "cannot be imported in .*: No module named 'absent_thing'"),
        (":make", "expected package.module:name"),
        ("shards/south.py:make", "expected package.module:name"),
        ("shards.south:", "expected package.module:name"),
    ],
)
def test_a_factory_that_is_not_there_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        build(name)
    assert re.match(r"(the module shards|')", str(caught.value))
