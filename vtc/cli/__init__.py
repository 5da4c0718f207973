"""The command line: ``vtc COMMAND``.

Each command is a function in its own module, added at the end of this file. ``vtc --help`` imports
these modules, so they import torch, transformers and the heavy parts of vtc only inside functions.
Plug-ins add commands (``vtc_register_commands``).
"""

from __future__ import annotations

import functools
import sys
import warnings
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version
from typing import Annotated, Any

import typer
from safetensors import SafetensorError
from typer.core import TyperGroup

from vtc.cli import ask, batch, cache, keyframes, new_plugin, parts, profiler, serve
from vtc.cli.output import accept_any_text, close_stdout, printable, results_only
from vtc.cli.plugin_commands import plugin_commands

EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError, SafetensorError)
"""Errors that are reported by their message alone, without their type."""


_WANTS_JSON = "vtc.cli.wants_json"


class _Commands(TyperGroup):
    """Adds the plug-ins' commands, and reports errors in one line unless ``--debug`` is given."""

    @functools.cached_property
    def of_plugins(self) -> dict[str, Any]:
        """The commands of plug-ins, loaded on first use."""
        with redirect_stdout(sys.stderr):  # a module may print while it is imported
            return plugin_commands(taken=set(self.commands))

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self.of_plugins]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or self.of_plugins.get(cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_WANTS_JSON] = wants_json(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with results_only() if ctx.meta[_WANTS_JSON] else nullcontext():
                return super().invoke(ctx)
        # typer ends a command with Exit or Abort, which are RuntimeErrors. A broken pipe
        # (`vtc parts | head`) is not an error: typer ends without a message.
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        # Plug-ins and libraries may raise anything: print one line, or a traceback with --debug.
        except Exception as error:
            is_usage_error = hasattr(error, "exit_code")  # typer shows those itself
            if ctx.params["debug"] or is_usage_error:
                raise
            lines = str(error).splitlines() if getattr(error, "problems", ()) else [str(error)]
            message = "\n".join(" ".join(line.split()) for line in lines) or type(error).__name__
            if not isinstance(error, EXPECTED):
                message = f"{type(error).__name__}: {message} (see the traceback with vtc --debug)"
            print(f"vtc: error: {printable(message)}", file=sys.stderr)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="vtc",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(show: bool) -> None:
    if show:
        print(f"vtc {version('video-token-compression')}")
        raise typer.Exit()


@app.callback()
def global_options(
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
    if "--debug" in arguments:  # also allowed after the command
        arguments = ["--debug", *(word for word in arguments if word != "--debug")]
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    accept_any_text()
    try:
        app(arguments, prog_name="vtc")
    finally:
        if wants_json(arguments):
            close_stdout()


def wants_json(arguments: list[str]) -> bool:
    """Return whether the result of a command line is meant for a program."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    words = " ".join(options).replace("--format=", "--format ").split()
    formats = [word for option, word in zip(words, words[1:], strict=False) if option == "--format"]
    return "--json" in options or any(word != "table" for word in formats)


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning in one line, without the source line that raised it."""
    print(f"vtc: warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


# Commands, in the order of --help.
app.command()(ask.ask)
app.command()(keyframes.select)
app.add_typer(batch.app, name="batch")
app.command()(cache.index)
app.command()(cache.cache)
app.command()(serve.serve)
app.command()(parts.parts)
app.command()(profiler.profile)
app.command()(new_plugin.new_plugin)
