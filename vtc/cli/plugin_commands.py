"""Load the commands that plug-ins register: functions or typer apps."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import typer

from vtc.interfaces.part import PASS
from vtc.plugins import registry
from vtc.plugins.discovery import DISABLED_VARIABLE, Claim, cause


def plugin_commands(taken: set[str]) -> dict[str, Any]:
    """Return the usable commands of all plug-ins by name, sorted; warn about the others.

    Args:
        taken: Names of the commands of ``vtc`` itself.
    """
    functions = {}
    for name, claims in sorted(registry.commands().items()):
        if len(claims) > 1 or name in taken:
            reason = "vtc has a command of this name"
            if name not in taken:
                reason = f"disable one plug-in with {DISABLED_VARIABLE}=NAME"
            owners = " and ".join(str(claim.plugin) for claim in claims)
            warnings.warn(f"command {name!r} of {owners} is skipped: {reason}", stacklevel=2)
            continue
        try:
            functions[name] = _command(claims[0])
        except PASS:
            raise
        # Third-party code may raise anything, and sys.exit() must not end the program.
        except BaseException as error:
            warnings.warn(f"{claims[0]} is skipped: {cause(error)}", stacklevel=2)
    return functions


def _command(claim: Claim) -> Any:
    module, _, name = str(claim.target).partition(":")
    target = getattr(import_module(module), name)
    app = typer.Typer(add_completion=False)
    if isinstance(target, typer.Typer):
        app.add_typer(target, name=claim.name)
        group: Any = typer.main.get_command(app)
        return group.commands[claim.name]
    app.command(claim.name)(target)
    return typer.main.get_command(app)
