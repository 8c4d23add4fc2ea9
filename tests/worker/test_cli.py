"""The worker's flags."""

from pathlib import Path

import pytest

from worker.cli import overrides, parse

SERVER = ["--bandit-addr", "h:1"]


@pytest.mark.parametrize(
    "flags", [["--resume", "runs/a"], ["--resume", "--output-dir", "runs/a"], ["--output-dir", "runs/a", "--resume"],
              ["--resume", "runs/a", "--output-dir", "runs/a"]],
)  # fmt: skip
def test_resume_names_the_directory_or_takes_that_of_the_output(flags: list[str]) -> None:
    arguments = parse(SERVER + flags)
    assert arguments.resume == arguments.output_dir == Path("runs/a")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "--resume needs the directory of the worker to resume: --resume DIR"),
        (["--resume", "runs/a", "--output-dir", "runs/b"], "leave out --output-dir"),
        (["--resume", "runs/a", "--steps-per-round", "3", "--recipe", "r.yaml"],
         "--resume continues the job as it was started; leave out --recipe, --steps-per-round"),
    ],
)  # fmt: skip
def test_resume_is_the_same_job(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(SERVER + flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_fields_of_the_recipe_are_set_by_dotted_path(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse([*SERVER, "--set", "data.name=nlvr2", "--set", "student.keep={image: 6}", "--rounds", "3"])
    assert overrides(arguments) == {"data.name": "nlvr2", "student.keep": {"image": 6}, "rounds": 3, "steps": 0}
    for wrong in ("data.name", "data..name=a", "seed={"):
        with pytest.raises(SystemExit):
            parse([*SERVER, "--set", wrong])
        assert "--set" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse([*SERVER, "--resume", "runs/a", "--set", "seed=1"])
    assert "leave out --set" in capsys.readouterr().err
