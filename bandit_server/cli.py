"""The command line: optima serve | dashboard | runs | doctor | demo | simulate."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

# Imported when they are called: nobody waits for a web server to see a list, or for gRPC to see the help.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("bandit_server.commands.serve", "serve"),
    "dashboard": ("bandit_server.commands.dashboard", "dashboard"),
    "runs": ("bandit_server.commands.runs", "runs"),
    "doctor": ("bandit_server.commands.doctor", "doctor"),
    "demo": ("bandit_server.commands.demo", "demo_command"),
    "simulate": ("bandit_server.commands.simulate", "simulate"),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="optima-distill")
def main() -> None:
    """OPTIMA: a bandit decides which module of a student is distilled next."""


if __name__ == "__main__":
    main()
