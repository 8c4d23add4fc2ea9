"""The options of commands that keep a log."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from bandit_server.logs import FORMATS, LEVELS, set_up


def logs(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of its log, which is kept when the command begins."""

    @click.option("--log-format", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True,
                  envvar="OPTIMA_LOG_FORMAT", help="Lines to read, or JSON, one record a line.")  # fmt: skip
    @click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True,
                  envvar="OPTIMA_LOG_LEVEL", help="`debug` tells of every call.")  # fmt: skip
    @functools.wraps(command)
    def with_log(*arguments: Any, log_format: str, log_level: str, **options: Any) -> Any:
        set_up(log_format, log_level)
        return command(*arguments, **options)

    return with_log
