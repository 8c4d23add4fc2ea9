"""The worker's command line is a contract: its flags, defaults, statuses and messages."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT
from worker.cli import Arguments, overrides, parse

SERVER = ["--bandit-addr", "h:1"]
# Every flag with its metavar ("" for none).
FLAGS = {
    "--bandit-addr": "HOST:PORT",
    "--recipe": "FILE",
    "--run": "NAME",
    "--policy": "NAME",
    "--train": "[forced|active|all]",
    "--rounds": "N",
    "--steps-per-round": "N",
    "--seed": "N",
    "--set": "FIELD=VALUE",
    "--output-dir": "DIR",
    "--resume": "[DIR]",
    "--bandit-patience": "SECONDS",
    "--allow-offline": "",
    "--list-modules": "[MODEL]",
    "--dry-run": "",
    "--help": "",
}


def refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message for a wrong command line."""
    with pytest.raises(SystemExit) as ended:
        parse(flags)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_help_has_every_flag_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: deepspeed worker/train.py [OPTIONS]\n")
    lines = [line.strip().removeprefix("-h, ") for line in text.splitlines()]
    flags = [line.partition("  ")[0] for line in lines if line.startswith("--")]
    assert {flag.partition(" ")[0]: flag.partition(" ")[2] for flag in flags} == FLAGS


def test_flags_that_are_not_set_have_their_defaults() -> None:
    assert parse(SERVER) == Arguments(bandit_addr="h:1")
    assert overrides(parse(SERVER)) == {}
    assert parse(["--dry-run"]) == Arguments(dry_run=True), "no server is needed"


def test_modules_are_listed_of_the_recipe_or_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--list-modules"]) == Arguments(list_modules="")
    assert parse(["--list-modules", "--recipe", "r.yaml"]) == Arguments(list_modules="", recipe=Path("r.yaml"))
    assert parse(["--list-modules", "hf:model"]) == Arguments(list_modules="hf:model")
    for more in (["--recipe", "r.yaml"], ["--resume", "runs/a"]):
        message = refused(["--list-modules", "hf:model", *more], capsys)
        assert "leave out either MODEL or --recipe and --resume" in message


@pytest.mark.parametrize("flag", ["--local_rank=1", "--local-rank=1"])
def test_the_flag_that_the_launcher_adds_is_ignored(flag: str) -> None:
    assert parse([*SERVER, flag]) == parse(SERVER)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--bandit-addr HOST:PORT is required; start a server with `optima serve`"),
        (["--dry-runn"], "--dry-run"),
        (["--dry"], "No such option"),
        (["--rounds", "-1"], "'-1' is not a whole number from 0 on"),
        (["--rounds", "1.5"], "'1.5' is not a whole number from 0 on"),
        (["--bandit-patience", "nan"], "'nan' is not a number of seconds above 0"),
        (["--bandit-patience", "0"], "'0' is not a number of seconds above 0"),
        (["--run", ".."], "'..' is not a run's name"),
        (["--train", "forcd"], "'forcd' is not one of 'forced', 'active', 'all'"),
        (["recipe.yaml"], "unexpected extra argument (recipe.yaml)"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(flags, capsys)


def test_a_wrong_flag_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from worker import train\n"
        "try: train.main(['--roundz', '3'])\n"
        "except SystemExit as ended: sys.exit(100 + ended.code if 'torch' in sys.modules else ended.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "--rounds" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "flags", [["--resume", "runs/a"], ["--resume", "--output-dir", "runs/a"], ["--output-dir", "runs/a", "--resume"],
              ["--resume", "runs/a", "--output-dir", "runs/a"]],
)  # fmt: skip
def test_resume_names_the_directory_or_takes_that_of_the_output(flags: list[str]) -> None:
    arguments = parse(SERVER + flags)
    assert arguments.resume == arguments.output_dir == Path("runs/a")


def test_the_current_directory_can_be_resumed() -> None:
    assert parse([*SERVER, "--resume", "."]).resume == Path()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "--resume needs the directory of the worker to resume: --resume DIR"),
        (["--resume", "runs/a", "--output-dir", "runs/b"], "leave out --output-dir"),
        (["--resume", "runs/a", "--steps-per-round", "3", "--recipe", "r.yaml"],
         "--resume continues the job as it was started; leave out --recipe, --steps-per-round"),
        (["--resume", "runs/a", "--set", "seed=1"], "leave out --set"),
    ],
)  # fmt: skip
def test_resume_is_the_same_job(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(SERVER + flags, capsys)


def test_fields_of_the_recipe_are_set_by_dotted_path(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse([*SERVER, "--set", "data.name=nlvr2", "--set", "student.keep={image: 6}", "--rounds", "3"])
    assert overrides(arguments) == {"data.name": "nlvr2", "student.keep": {"image": 6}, "rounds": 3, "steps": 0}
    for wrong in ("data.name", "data..name=a", "seed={"):
        assert "--set" in refused([*SERVER, "--set", wrong], capsys)
