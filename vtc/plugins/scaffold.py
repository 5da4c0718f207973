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
"""The files to write. Each has a template of that name in ``vtc/plugins/templates/plugin``."""


def skeleton(name: str) -> dict[str, str]:
    """The files of a plug-in, by path.

    Args:
        name: the distribution's name. Its package has underscores for the hyphens, and its parts
            begin with the name less ``vtc-`` and ``plugin-``, so that no two plug-ins clash.

    Raises:
        ValueError: a name that cannot be a distribution's or a package's.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ValueError(
            f"name={name!r}: allowed are up to {_LONGEST} lower-case letters, digits and single "
            "hyphens between them, beginning with a letter, such as 'acme-selectors'"
        )
    package = package_of(name)
    if package in sys.stdlib_module_names or keyword.iskeyword(package):
        raise ValueError(
            f"name={name!r}: its package {package!r} would hide a part of Python; choose another"
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
    """The package of a distribution: ``acme-selectors`` has ``acme_selectors``."""
    return name.replace("-", "_")


def write_skeleton(name: str, folder: Path) -> Path:
    """Write a plug-in to ``folder / name``.

    Returns:
        The new folder.

    Raises:
        ValueError: the name is not allowed, or is that of a module that is installed here.
        FileExistsError: there is such a file or folder; nothing was written.
    """
    contents = skeleton(name)
    target = folder / name
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another name or --folder")
    found = find_spec(package_of(name))
    if found is not None and found.origin is not None:  # a mere folder has no origin
        raise ValueError(
            f"name={name!r}: a module {package_of(name)!r} is installed here already; choose "
            "another name"
        )
    for path, text in contents.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return target
