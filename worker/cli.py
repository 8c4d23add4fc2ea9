"""The worker's flags."""

import argparse
from pathlib import Path
from typing import Any

from worker.names import EXPECTED, is_run_name


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags as attributes; unknown or malformed ones end the process with a sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="deepspeed worker/train.py",
        description="Distil a student, module by module, as the bandit server says.",
        allow_abbrev=False,
    )
    parser.add_argument("--bandit-addr", metavar="HOST:PORT", help="the bandit server; needed to train")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="what to distil (default: the built-in digits)")
    parser.add_argument("--run", type=_run, metavar="NAME", help="join this run, or create it (default: a fresh name)")
    parser.add_argument("--policy", metavar="NAME",
                        help="optima, sliding_window_ts, uniform, round_robin, joint or fixed:ARM; "
                             "with its default options")  # fmt: skip
    parser.add_argument("--train", choices=("forced", "active", "all"), help="what a round trains")
    parser.add_argument("--rounds", type=_count, metavar="N", help="rounds to play")
    parser.add_argument("--steps-per-round", type=_count, metavar="N", help="optimizer steps in a round")
    parser.add_argument("--seed", type=_count, metavar="N", help="seed of choices and data order")
    parser.add_argument("--set", action="append", type=_field, metavar="FIELD=VALUE",
                        help="replace a field of the recipe, such as data.batch_size=32; VALUE is YAML, paths in it "
                             "start at the recipe; may be given several times")  # fmt: skip
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where to write (default: runs/RUN)")
    parser.add_argument("--resume", nargs="?", type=Path, const=_OUTPUT_DIR, metavar="DIR",
                        help="go on with the worker that wrote to DIR (default: --output-dir), with its recipe and "
                             "from its last checkpoint")  # fmt: skip
    parser.add_argument("--bandit-patience", type=_seconds, default=10.0, metavar="SECONDS",
                        help="how long to wait, once, for a server that went away (default: 10)")  # fmt: skip
    parser.add_argument("--allow-offline", action="store_true",
                        help="start although the server cannot be reached")  # fmt: skip
    parser.add_argument("--list-modules", action="store_true", help="print the student's modules and exit")
    parser.add_argument("--dry-run", action="store_true",
                        help="prove that every arm trains what it says, print what a step costs, and exit")  # fmt: skip
    # The launcher adds it; the rank is read from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not (arguments.list_modules or arguments.dry_run or arguments.bandit_addr):
        parser.error("--bandit-addr HOST:PORT is needed: start one with `optima serve`")
    if arguments.resume is not None:
        _check_resume(parser, arguments)
    return arguments


_OUTPUT_DIR = Path()
"""A ``--resume`` that names no directory."""


def _check_resume(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Settle which directory is meant, and refuse what would make it another job."""
    if arguments.resume == _OUTPUT_DIR:
        if arguments.output_dir is None:
            parser.error("--resume needs the directory to go on with: --resume DIR")
        arguments.resume = arguments.output_dir
    elif arguments.output_dir not in (None, arguments.resume):
        parser.error("--resume DIR writes to DIR; leave out --output-dir")
    arguments.output_dir = arguments.resume
    fixed = ("recipe", "run", "policy", "train", "rounds", "steps_per_round", "seed", "set")
    given = [f"--{name.replace('_', '-')}" for name in fixed if getattr(arguments, name) is not None]
    if given:
        parser.error(f"--resume goes on with the job as it was started; leave out {', '.join(given)}")


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that the command line replaces, by dotted path."""
    fields: dict[str, Any] = dict(arguments.set or ())
    fields |= {
        name: getattr(arguments, name)
        for name in ("train", "rounds", "steps_per_round", "seed")
        if getattr(arguments, name) is not None
    }
    if arguments.rounds is not None:
        # The recipe may have given its length in steps.
        fields["steps"] = 0
    if arguments.policy is not None:
        fields["policy"] = {"name": arguments.policy}
    return fields


def _field(text: str) -> tuple[str, Any]:
    """A recipe's field by its dotted path, and what it is to be."""
    # Only here: a wrong flag, or an installation that is none, is told without any package.
    import yaml

    field, sign, value = text.partition("=")
    if not (sign and all(field.split("."))):
        raise argparse.ArgumentTypeError(f"{text!r} does not set a field; expected FIELD=VALUE")
    try:
        return field, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{value!r} is not YAML") from None


def _run(text: str) -> str:
    """A run's name: it is a directory's, too."""
    if not is_run_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a run's name: expected {EXPECTED}, and neither . nor ..")
    return text


def _seconds(text: str) -> float:
    """A time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _count(text: str) -> int:
    """A whole number from 0 on."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return value
