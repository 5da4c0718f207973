"""The command line: ``vtc COMMAND``.

Each command is a function in a module of its own and is added at the end of this file. Those
modules are imported for every ``vtc --help``, so they import torch, transformers and the heavy
parts of vtc inside their functions only. Plug-ins bring more commands (``vtc_register_commands``).
"""

from __future__ import annotations

import functools
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, Any

import typer
from safetensors import SafetensorError
from typer.core import TyperGroup

from vtc.cli import ask, keyframes, new_plugin, parts, profiler
from vtc.cli.plugin_commands import plugin_commands

EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError, SafetensorError)
"""Errors that tell the user what to do; a traceback would only bury the message."""


# The base of typer's usage errors: click's, which newer versions of typer carry in themselves.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


class _Commands(TyperGroup):
    """Knows the plug-ins' commands, and reports errors in one line unless ``--debug`` is given."""

    @functools.cached_property
    def of_plugins(self) -> dict[str, Any]:
        """Found when something is asked for that is not here."""
        return plugin_commands(taken=set(self.commands))

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self.of_plugins]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or self.of_plugins.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        # Exit and Abort are how typer ends a command; both happen to be RuntimeErrors. A broken
        # pipe (`vtc parts | head`) is no error, and typer ends quietly.
        except (typer.Exit, typer.Abort, BrokenPipeError, USAGE_ERROR):
            raise
        # Whatever a plug-in or a library may raise: a user sees one line, --debug shows the rest.
        except Exception as error:
            if ctx.params["debug"]:
                raise
            lines = str(error).splitlines() if getattr(error, "problems", ()) else [str(error)]
            message = "\n".join(" ".join(line.split()) for line in lines) or type(error).__name__
            if not isinstance(error, EXPECTED):
                message = f"{type(error).__name__}: {message} (vtc --debug shows where)"
            print(f"vtc: error: {message}", file=sys.stderr)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="vtc",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vtc {version('video-token-compression')}")
        raise typer.Exit()


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of every error.")
    ] = False,
) -> None:
    """Long videos for the vision-language models you already have."""


def main() -> None:
    """Run the command line (the console script ``vtc``)."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:  # welcome behind the command as well
        arguments = ["--debug", *(word for word in arguments if word != "--debug")]
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    app(arguments, prog_name="vtc")


def _show_warning(message: Warning | str, *_: object) -> None:
    """A warning in one line, without the source line that raised it."""
    print(f"vtc: warning: {' '.join(str(message).split())}", file=sys.stderr)


# Commands, in the order in which --help lists them.
app.command()(ask.ask)
app.command()(keyframes.select)
app.command()(parts.parts)
app.command()(profiler.profile)
app.command()(new_plugin.new_plugin)
