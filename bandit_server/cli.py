"""The command line: optima serve | dashboard | runs | doctor | demo | simulate."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from bandit_server.errors import did_you_mean

# By name: the module of the command, and its function. `optima runs` must not wait for the imports of a web server.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("bandit_server.commands.serve", "serve"),
    "dashboard": ("bandit_server.commands.dashboard", "dashboard"),
    "runs": ("bandit_server.commands.runs", "runs"),
    "doctor": ("bandit_server.commands.doctor", "doctor"),
    "demo": ("bandit_server.commands.demo", "demo_command"),
    "simulate": ("bandit_server.commands.simulate", "simulate_command"),
}


class _Lazy(click.Group):
    """A group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # While a shell completes a command line, errors are not reported.
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="optima-distill")
def main() -> None:
    """OPTIMA: a bandit decides which module of a student is distilled next."""


if __name__ == "__main__":
    main()
