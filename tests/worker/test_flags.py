"""The worker's flags."""

from pathlib import Path

import pytest

from worker.command_line import parse

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
        (["--resume"], "--resume needs the directory to go on with: --resume DIR"),
        (["--resume", "runs/a", "--output-dir", "runs/b"], "leave out --output-dir"),
        (["--resume", "runs/a", "--steps-per-round", "3", "--recipe", "r.yaml"],
         "--resume goes on with the job as it was started; leave out --recipe, --steps-per-round"),
    ],
)  # fmt: skip
def test_resume_is_the_same_job(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(SERVER + flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
