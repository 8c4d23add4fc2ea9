"""Bad input to the worker gives one clear sentence and a non-zero exit status, and nothing is written."""

import re
from pathlib import Path

import pytest

from tests.launch import free_port
from tests.ranks import run_ranks
from worker.cli import parse
from worker.errors import WorkerError
from worker.job import run

pytestmark = pytest.mark.deepspeed

RECIPE = (Path(__file__).parents[2] / "deploy" / "recipes" / "digits.yaml").read_text(encoding="utf-8")


def test_an_address_nobody_listens_on(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    output = run_ranks(
        "worker/train.py", "--bandit-addr", address, "--bandit-patience", "0.5",
        "--output-dir", str(tmp_path / "out"), status=1,
    )  # fmt: skip
    assert f"error: no bandit server at {address} " in output
    assert "Traceback" not in output
    # The same command with the right address must not find the directory in use.
    assert not (tmp_path / "out").exists()


def test_wrong_credentials_leave_no_output_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMA_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(WorkerError, match=r"OPTIMA_TOKEN_FILE .* cannot be read"):
        run(parse(["--bandit-addr", "127.0.0.1:1", "--output-dir", str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()


def test_an_output_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(WorkerError, match=r"--output-dir .*out cannot be written to: File exists"):
        run(parse(["--bandit-addr", "127.0.0.1:1", "--output-dir", str(tmp_path / "out")]))


def test_a_users_files_survive_a_start_in_their_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPE.replace("../models", str(Path(__file__).parents[2] / "deploy" / "models"))
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    flags = ["--bandit-addr", "127.0.0.1:1", "--bandit-patience", "1", "--recipe", "recipe.yaml"]
    with pytest.raises(WorkerError, match=r"--output-dir \. already holds recipe\.yaml"):
        run(parse([*flags, "--output-dir", "."]))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == recipe


@pytest.mark.parametrize("name", [".", "..", "a/b", "../../x", "", "a b", "a" * 65])
def test_an_invalid_run_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--bandit-addr", "127.0.0.1:1", "--run", name])
    assert f"{name!r} is not a run's name: expected 1 to 64 of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("train: forced", "train: forcd"),
         "train: input should be 'forced', 'active' or 'all' (got 'forcd'; did you mean "
         "'forced'?)"),
        (("train: forced", "layers: {image: visual.transformer.resblock.*}"),
         "'visual.transformer.resblock.*' matches nothing in CoCa; did you mean 'visual.transformer.resblocks"),
        (("image: [image]", "image: [imagee]"), "did you mean 'image'"),
    ],
)  # fmt: skip
def test_a_broken_recipe(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    models = Path(__file__).parents[2] / "deploy" / "models"
    recipe.write_text(RECIPE.replace(*change).replace("../models", str(models)), encoding="utf-8")
    flags = ["--bandit-addr", "127.0.0.1:1", "--recipe", str(recipe), "--output-dir", str(tmp_path / "out")]
    with pytest.raises(WorkerError, match=re.escape(message)):
        run(parse(flags))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_reports_on_every_arm_and_writes_nothing(tmp_path: Path) -> None:
    output = run_ranks("worker/train.py", "--dry-run", "--output-dir", str(tmp_path / "out"))
    for line in (
        "arm image",
        "  computes       student: image; teacher: image",
        "  owns           108,544 parameters in 32 tensors",
        "[64, 17, 64] <- visual.transformer.resblocks.7 [64, 17, 64]; gradient reaches 12 of 12 tensors, at most",
        "arm joint (the tail; no arm of the recipe)",
    ):
        assert line in output
    assert output.count("  cost of a step ") == 4
    assert not (tmp_path / "out").exists()


def test_list_modules_prints_the_students_modules(capsys: pytest.CaptureFixture[str]) -> None:
    run(parse(["--list-modules"]))
    output = capsys.readouterr().out
    assert "\nvisual.transformer.resblocks.0 … 1 " in output
    assert "\ntext_decoder.cross_attn.0 … 3 " in output
    assert "\nmodules:\n  image:\n    path: visual\n" in output
