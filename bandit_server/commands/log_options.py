"""Options of commands that write a log."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from bandit_server.logs import FORMATS, LEVELS, set_up


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of logging to a command, and set up logging before it runs."""

    @click.option("--log-format", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True,
                  envvar="OPTIMA_LOG_FORMAT", help="Plain lines, or one JSON object per line.")  # fmt: skip
    @click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True,
                  envvar="OPTIMA_LOG_LEVEL", help="Lowest level to log; `debug` logs every call.")  # fmt: skip
    @functools.wraps(command)
    def with_log(*arguments: Any, log_format: str, log_level: str, **options: Any) -> Any:
        set_up(log_format, log_level)
        return command(*arguments, **options)

    return with_log
