"""The worker's command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import click

from worker.names import EXPECTED, is_run_name

PROGRAM = "deepspeed worker/train.py"
HELP_FLAGS = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Arguments:
    """The worker's command line; None for a flag that is not set.

    Attributes:
        bandit_addr: The server's address, ``host:port``; "" if the command does not need one.
        recipe: Path of the recipe; None for the built-in one.
        run: The run to join or create; None for a new one.
        policy: Name of the policy, in the place of the recipe's.
        train: What a round trains, in the place of the recipe's.
        rounds: Number of rounds, in the place of the recipe's.
        steps_per_round: Optimizer steps per round, in the place of the recipe's.
        seed: Seed, in the place of the recipe's.
        set: Other fields of the recipe to replace: dotted path and value.
        output_dir: The output directory; that of the resumed worker with `resume`.
        resume: The output directory of the worker to resume.
        bandit_patience: Seconds to wait for the server in one outage, in total.
        allow_offline: Start even if the server cannot be reached.
        list_modules: Print the modules of this model ("" for those of the recipe), and exit.
        dry_run: Check and measure every arm and exit.
    """

    bandit_addr: str = ""
    recipe: Path | None = None
    run: str | None = None
    policy: str | None = None
    train: str | None = None
    rounds: int | None = None
    steps_per_round: int | None = None
    seed: int | None = None
    set: tuple[tuple[str, Any], ...] = ()
    output_dir: Path | None = None
    resume: Path | None = None
    bandit_patience: float = 10.0
    allow_offline: bool = False
    list_modules: str | None = None
    dry_run: bool = False


def parse(argv: list[str] | None = None) -> Arguments:
    """Parse the command line; an error ends the process with a message and status 2."""
    arguments: Arguments = run_command(_command, argv, PROGRAM)
    return arguments


def run_command(command: click.Command, argv: list[str] | None, program: str) -> Any:
    """Run a command and return its result; an error, and ``--help``, end the process instead.

    Args:
        command: The command.
        argv: Its arguments; None for those of the process.
        program: The program's name in messages.
    """
    try:
        result = command.main(argv, program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if isinstance(result, int):
        # The status of --help.
        sys.exit(result)
    return result


def overrides(arguments: Arguments) -> dict[str, Any]:
    """Return the recipe's fields that the command line replaces, by dotted path."""
    replaced: dict[str, Any] = dict(arguments.set)
    replaced |= {
        name: getattr(arguments, name)
        for name in ("train", "rounds", "steps_per_round", "seed")
        if getattr(arguments, name) is not None
    }
    if arguments.rounds is not None:
        # The recipe may state its length in steps.
        replaced["steps"] = 0
    if arguments.policy is not None:
        replaced["policy"] = {"name": arguments.policy}
    return replaced


def _run_name(text: str) -> str:
    """Return a run's name; it is also the name of a directory."""
    if not is_run_name(text):
        raise click.BadParameter(f"{text!r} is not a run's name: expected {EXPECTED}, but not . or ..")
    return text


def _count(text: str) -> int:
    """Return an integer that is not negative."""
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        raise click.BadParameter(f"{text!r} is not a whole number from 0 on")
    return count


def _seconds(text: str) -> float:
    """Return a number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e6:
        raise click.BadParameter(f"{text!r} is not a number of seconds above 0")
    return seconds


def _field(text: str) -> tuple[str, Any]:
    """Return a field of the recipe by its dotted path, and its value."""
    # Imported here: messages about other flags need no package but click.
    import yaml

    path, sign, value = text.partition("=")
    if not (sign and all(path.split("."))):
        raise click.BadParameter(f"{text!r} does not set a field; expected FIELD=VALUE")
    try:
        return path, yaml.safe_load(value)
    except yaml.YAMLError:
        raise click.BadParameter(f"{value!r} is not YAML") from None


_PATH = click.Path(path_type=Path)


@click.command(context_settings=HELP_FLAGS)
@click.option(
    "--bandit-addr", default="", metavar="HOST:PORT", help="Address of the bandit server; required for training."
)
@click.option("--recipe", type=_PATH, metavar="FILE",
              help="The recipe: what to distil, on which data, and how (default: the built-in digits).")  # fmt: skip
@click.option("--run", type=_run_name, metavar="NAME",
              help="Join this run, or create it if it does not exist (default: a new run).")  # fmt: skip
@click.option("--policy", metavar="NAME",
              help="Choose arms by this policy, with its default options: optima, sliding_window_ts, uniform, "
                   "round_robin, joint or fixed:ARM (default: the recipe's).")  # fmt: skip
@click.option("--train", type=click.Choice(("forced", "active", "all")),
              help="What a round trains (default: the recipe's).")  # fmt: skip
@click.option("--rounds", type=_count, metavar="N", help="Number of rounds (default: the recipe's).")
@click.option("--steps-per-round", type=_count, metavar="N",
              help="Optimizer steps per round (default: the recipe's).")  # fmt: skip
@click.option("--seed", type=_count, metavar="N", help="Seed of choices and data order (default: the recipe's).")
@click.option("--set", type=_field, multiple=True, metavar="FIELD=VALUE",
              help="Set a field of the recipe, such as data.batch_size=32. VALUE is YAML; paths in it are relative to "
                   "the recipe. Can be repeated.")  # fmt: skip
@click.option("--output-dir", type=_PATH, metavar="DIR",
              help="Output directory, new or empty (default: runs/RUN).")  # fmt: skip
@click.option("--resume", is_flag=False, flag_value="", metavar="[DIR]",
              help="Resume the worker whose output directory is DIR (default: --output-dir), with its recipe and from "
                   "its last checkpoint.")  # fmt: skip
@click.option("--bandit-patience", type=_seconds, default=10.0, metavar="SECONDS",
              help="How long to wait for the server in one outage, in total (default: 10).")  # fmt: skip
@click.option("--allow-offline", is_flag=True, help="Start even if the server cannot be reached.")
@click.option("--list-modules", is_flag=False, flag_value="", metavar="[MODEL]",
              help="Print the modules of MODEL (default: of the recipe's student, or of its teacher if the rest of the "
                   "recipe is not valid yet) with a `modules:` block for a recipe, and exit.")  # fmt: skip
@click.option("--dry-run", is_flag=True,
              help="Check that every arm trains exactly its modules, print the cost of a step, and exit.")  # fmt: skip
# The launcher adds it; the rank is read from the environment.
@click.option("--local_rank", "--local-rank", type=int, hidden=True, expose_value=False)
def _command(resume: str | None, **flags: Any) -> Arguments:
    """Distil a student module by module; the bandit server decides which module is next."""
    arguments = Arguments(**flags)
    if arguments.list_modules and (arguments.recipe or resume is not None):
        _fail("--list-modules MODEL needs no recipe; leave out either MODEL or --recipe and --resume")
    if not (arguments.list_modules is not None or arguments.dry_run or arguments.bandit_addr):
        _fail("--bandit-addr HOST:PORT is required; start a server with `optima serve`")
    return arguments if resume is None else _with_resume(arguments, resume)


def _with_resume(arguments: Arguments, resume: str) -> Arguments:
    """Determine the directory to resume ("" if the flag has no value), and refuse flags that would change the job."""
    directory = Path(resume) if resume else arguments.output_dir
    if directory is None:
        _fail("--resume needs the directory of the worker to resume: --resume DIR")
    if arguments.output_dir not in (None, directory):
        _fail("--resume DIR writes to DIR; leave out --output-dir")
    fixed = ("recipe", "run", "policy", "train", "rounds", "steps_per_round", "seed", "set")
    defaults = {field.name: field.default for field in fields(Arguments)}
    changed = [f"--{name.replace('_', '-')}" for name in fixed if getattr(arguments, name) != defaults[name]]
    if changed:
        _fail(f"--resume continues the job as it was started; leave out {', '.join(changed)}")
    return replace(arguments, resume=directory, output_dir=directory)


def _fail(message: str) -> NoReturn:
    raise click.UsageError(message, click.get_current_context())
