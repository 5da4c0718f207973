"""Commands that plug-ins bring: found by the hook, imported, made into commands of ``vtc``."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import typer

from vtc.interfaces.part import PASS
from vtc.plugins import registry
from vtc.plugins.discovery import DISABLED_VARIABLE, Claim, cause


def plugin_commands(taken: set[str]) -> dict[str, Any]:
    """The usable commands of all plug-ins by name, sorted; a warning names each other one.

    Args:
        taken: names of the commands that ``vtc`` has itself.
    """
    found = {}
    for name, claims in sorted(registry.commands().items()):
        if len(claims) > 1 or name in taken:
            others = "vtc itself has one" if name in taken else f"name one in {DISABLED_VARIABLE}"
            owners = " and ".join(str(claim.plugin) for claim in claims)
            warnings.warn(f"command {name!r} of {owners} is skipped: {others}", stacklevel=2)
            continue
        try:
            found[name] = _command(claims[0])
        except PASS:
            raise
        # Third-party code may raise anything, and sys.exit() must not end the program.
        except BaseException as error:
            warnings.warn(f"{claims[0]} is skipped: {cause(error)}", stacklevel=2)
    return found


def _command(claim: Claim) -> Any:
    module, _, function = str(claim.target).partition(":")
    app = typer.Typer(add_completion=False)
    app.command(claim.name)(getattr(import_module(module), function))
    return typer.main.get_command(app)
