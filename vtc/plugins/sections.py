"""Sections of files as pydantic models: all errors at once, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from vtc.interfaces.renamed import warn_renamed
from vtc.plugins.discovery import suggestion

S = TypeVar("S", bound="Section")


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ValueError: It cannot be read; the message names it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It cannot be read, or is not valid JSON.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, label: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It is not valid; the message starts with `label`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also for a too long number
        raise ValueError(f"{label} is not valid JSON: {error}") from error


def read_json(path: Path, cls: type[S]) -> S:
    """Read a JSON file that holds one section.

    Raises:
        ValueError: It cannot be read or is not valid JSON; as `SectionError`, all errors in it.
    """
    return parse(cls, load_json(path), str(path))


class SectionError(ValueError):
    """All errors of one file, recipe or grid.

    Attributes:
        problems: One line for each error.
    """

    def __init__(self, label: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
        super().__init__(f"{label} has {count}:" + "".join(f"\n  - {line}" for line in problems))


class Section(BaseModel):
    """Base class of files and their sections: immutable and strict; unknown names are errors.

    Attributes:
        renamed: Field names by their deprecated names, which are accepted with a warning.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for old in cls.renamed.keys() & values:
                new = cls.renamed[old]
                if new in values:
                    raise ValueError(f"{old} is the old name of {new}; set one of them")
                warn_renamed(old, new)
                values = {new if name == old else name: value for name, value in values.items()}
        return values

    def contradictions(self) -> Iterator[str]:
        """Yield errors in values that are valid one by one; `parse` reports them."""
        yield from ()

    def plain(self) -> dict[str, Any]:
        """Return the values as plain JSON."""
        return self.model_dump(mode="json")


class Row(Section):
    """Base class of sections that ignore undeclared fields."""

    model_config = ConfigDict(extra="ignore")


def parse(cls: type[S], values: Any, label: str, where: str = "") -> S:
    """Build a section from plain values.

    Args:
        label: Names the file or command in the error.
        where: Dotted name of `values`; names in errors start with it.

    Raises:
        SectionError: All errors in the values.
    """
    try:
        section = cls.model_validate(values)
    except ValidationError as error:
        problems = (_problem(cls, where, details) for details in error.errors(include_url=False))
        raise SectionError(label, list(dict.fromkeys(problems))) from None
    if contradictions := list(section.contradictions()):
        raise SectionError(label, contradictions)
    return section


_EXPECTED = {
    "greater_than": "a value > {gt:g}",
    "greater_than_equal": "a value >= {ge:g}",
    "less_than": "a value < {lt:g}",
    "less_than_equal": "a value <= {le:g}",
    "literal_error": "{expected}",
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _problem(cls: type[Section], where: str, details: Mapping[str, Any]) -> str:
    """Return one error of pydantic as a line: ``optimisation.steps: expected ..., got ...``."""
    path = [str(entry) for entry in details["loc"]]
    name = ".".join([where, *path] if where else path)
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        known = _fields_at(cls, path[:-1])
        guess = suggestion(path[-1], known)
        return f"{name} is unknown; expected one of: {', '.join(known)}.{guess}"
    start = f"{name}: " if name else ""
    if kind == "value_error":
        return f"{start}{context['error']}"
    expected = _EXPECTED.get(kind) or details["msg"].removeprefix("Input should be ")
    return f"{start}expected {expected.format(**context)}, got {details['input']!r:.80}"


def _fields_at(cls: type[Section], path: Sequence[str]) -> list[str]:
    """Return the field names of the section that a path leads to."""
    fields = _fields(cls)
    for name in path:
        if name in fields:  # else the index of a list item
            fields = _fields(_section_in(fields[name].annotation) or cls)
    return list(fields)


def _fields(cls: type[Section]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def _section_in(annotation: Any) -> type[Section] | None:
    """Return the section class in an annotation such as ``tuple[Source, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)
