"""The command `visavis`."""

from __future__ import annotations

import importlib

import click

# A subcommand's module is imported only when it is run: `visavis models` needs no gRPC, no numpy.
COMMANDS = {
    "call": ("visavis.cli.call:call", "Call a person and talk."),
    "models": ("visavis.cli.models:models", "The model files on this machine."),
    "persona": ("visavis.cli.persona:persona", "Make and check the people one can call."),
    "run": ("visavis.cli.run:run", "Start everything on this machine."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and one-line help, and imports them when asked for one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="visavis")
def main() -> None:
    """A video call with an AI person, on your own machines."""
