"""Import paths in recipes: those of version 0.1 still work, and a wrong one is named with the nearest."""

import logging
import sys

import pytest

from worker.distill.losses import LAYER_LOSSES, LOGIT_LOSSES
from worker.errors import RecipeError
from worker.imports import MOVED, import_by_path, lookup_or_import

# The functions of version 0.1 that a recipe could name: losses, data factories, and functions that return a model.
OLD_PATHS = [
    "worker.losses:normalised_mse",
    "worker.losses:cosine",
    "worker.losses:logit_kl",
    "worker.losses:answer",
    "worker.losses:contrastive",
    "worker.data.coco_captions:build_coco_captions",
    "worker.data.digits:build_digits",
    "worker.data.nlvr2:build_nlvr2",
    "worker.data.snli_ve:build_snli_ve",
    "worker.data.vqa_v2:build_vqa_v2",
    "worker.models.hf_loader:load",
    "worker.models.open_clip_files:create",
    "worker.models.open_clip_loader:load",
]
UNMOVED_PATHS = ["worker.data.webdataset:build_webdataset", "worker.data:build", "worker.models.factory:load"]


@pytest.mark.parametrize("path", OLD_PATHS)
def test_a_path_of_version_0_1_works_and_warns_with_the_new_one(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="worker.imports"):
        function = import_by_path(path, "a function")
    assert function.__name__ == path.partition(":")[2]
    (message,) = (record.getMessage() for record in caplog.records)
    new_path = message.removeprefix(f"{path} is now ").partition(";")[0]
    assert import_by_path(new_path, "a function") is function
    assert "works until version 0.3" in message


@pytest.mark.parametrize("path", UNMOVED_PATHS)
def test_a_path_that_has_not_moved_works_without_a_warning(path: str, caplog: pytest.LogCaptureFixture) -> None:
    assert callable(import_by_path(path, "a function"))
    assert not caplog.records


@pytest.mark.parametrize("module", MOVED)
def test_every_module_that_moved_is_where_the_table_says(module: str) -> None:
    for new_module in MOVED[module]:
        __import__(new_module)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("worker.losses:anser", r"'worker\.losses:anser' cannot be imported in .*No module named 'worker\.losses'"),
        ("worker.distill.losses:cosin", r"worker\.distill\.losses .* has no function 'cosin'; did you mean 'cosine'\?"),
        ("not a path:f", "is not the import path of a layer loss; expected package.module:name"),
    ],
)
def test_a_wrong_path_is_one_sentence(path: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        import_by_path(path, "a layer loss")


def test_an_old_path_whose_library_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes the import fail, as without the library.
    monkeypatch.setitem(sys.modules, "worker.models.open_clip.loader", None)
    with pytest.raises(RecipeError, match=r"'worker\.models\.open_clip_loader:load' cannot be imported in "):
        import_by_path("worker.models.open_clip_loader:load", "a model's factory")


def test_a_known_name_is_looked_up_before_anything_is_imported() -> None:
    assert lookup_or_import("cosine", LAYER_LOSSES, "a layer loss") is LAYER_LOSSES["cosine"]
    with pytest.raises(RecipeError, match=r"'x' is neither a logit loss .*; the known names are kl"):
        lookup_or_import("x", LOGIT_LOSSES, "a logit loss")
