"""The skeleton of a plug-in: a small distribution with a selector, a merger and their tests."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40

_FILES = (
    "README.md",
    "pyproject.toml",
    "${package}/__init__.py",
    "${package}/changes.py",
    "${package}/contrast.py",
    "${package}/plugin.py",
    "tests/test_contract.py",
)
"""The files to write. Each has a template of the same name in ``vtc/plugins/templates/plugin``."""


def skeleton(name: str) -> dict[str, str]:
    """Return the files of a new plug-in, by path.

    Args:
        name: The distribution's name. The package has underscores in place of hyphens. The names
            of the parts begin with ``name`` without ``vtc-`` and ``plugin-``, so that plug-ins do
            not conflict.

    Raises:
        ValueError: The name is not a valid name of a distribution and a package.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ValueError(
            f"expected a name of up to {_LONGEST} lower-case letters, digits and single hyphens "
            f"that begins with a letter, such as 'acme-selectors', got {name!r}"
        )
    package = package_of(name)
    if package in sys.stdlib_module_names or keyword.iskeyword(package):
        raise ValueError(
            f"{name!r} would make a package {package!r}, which hides a module or keyword of "
            "Python; choose another name"
        )
    stem = name.removeprefix("vtc-").removeprefix("plugin-").replace("-", "_")
    words = {"name": name, "package": package, "stem": stem}
    folder = files("vtc.plugins") / "templates" / "plugin"
    return {
        Template(path).substitute(words): Template(
            (folder / f"{path.rpartition('/')[2]}.tmpl").read_text(encoding="utf-8")
        ).substitute(words)
        for path in _FILES
    }


def package_of(name: str) -> str:
    """Return the package of a distribution: ``acme_selectors`` for ``acme-selectors``."""
    return name.replace("-", "_")


def write_skeleton(name: str, folder: Path) -> Path:
    """Write a plug-in to ``folder / name``.

    Returns:
        The new folder.

    Raises:
        ValueError: The name is not valid, or a module of that name is installed.
        FileExistsError: The file or folder exists; nothing was written.
    """
    contents = skeleton(name)
    target = folder / name
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another name or --folder")
    module = find_spec(package_of(name))
    if module is not None and module.origin is not None:  # a folder without code has no origin
        raise ValueError(
            f"a module {package_of(name)!r} is installed already; choose another name than {name!r}"
        )
    for path, text in contents.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return target
