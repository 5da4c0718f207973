"""Read YAML and JSON files and command-line settings; errors name the file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from vtc.plugins.sections import S, load_json, parse, parse_json, read_text
from vtc_recipes.schema import RecipeError

MAX_NODES = 100_000
"""Maximum number of values in a YAML file, with its aliases expanded."""


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that reads ``1e-5`` as a number and refuses repeated keys."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        _count_nodes(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key!r} appears twice in the mapping at line {line}")
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        ValueError: The file cannot be read, is not valid YAML, or holds no mapping.
    """
    try:
        values = _parse_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ValueError(f"{path}: expected a mapping of sections, got {kind}")
    return values


def read_rows(path: Path, cls: type[S]) -> tuple[list[tuple[str, S]], list[str]]:
    """Read the rows of a JSONL, CSV or parquet file, of a JSON list, or of a folder of JSON files.

    A class may define a class method ``split`` that returns the rows in an entry, and set
    ``whole_file`` if a JSON file is one entry. Entries of a folder also hold ``file_stem``, the
    name of their file without its suffix.

    Returns:
        The valid rows, each with its location (``FILE, line 3``), and all errors, one line each.

    Raises:
        ValueError: The file cannot be read, or is not a JSON list.
        ImportError: The file is parquet and pyarrow is not installed.
    """
    rows: list[tuple[str, S]] = []
    errors: list[str] = []
    split = getattr(cls, "split", lambda entry: [entry])
    whole = getattr(cls, "whole_file", False)
    for where, entry in _entries(path, errors, whole):
        try:
            rows += [(where, parse(cls, one, where)) for one in split(entry)]
        except RecipeError as error:
            errors += [f"{where}: {problem}" for problem in error.problems]
    return rows, errors


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """Read a parquet file.

    Raises:
        ValueError: It cannot be read.
        ImportError: pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow; pip install pyarrow") from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return rows


def _entries(path: Path, errors: list[str], whole: bool) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a file with their locations; report invalid lines in `errors`."""
    if path.is_dir():
        yield from _folder_entries(path, errors)
        return
    if path.suffix == ".parquet":
        for number, row in enumerate(parquet_rows(path)):
            yield f"{path}, row {number}", row
        return
    if whole:
        yield str(path), load_json(path)
        return
    text = read_text(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            yield f"{path}, line {reader.line_num}", row
        return
    is_list = path.suffix == ".json" or text.lstrip().startswith("[")
    if path.suffix == ".jsonl" or not is_list:
        for where, line in _numbered(text, path):
            try:
                yield where, parse_json(line, where)
            except ValueError as error:
                errors.append(str(error))
        return
    entries = parse_json(text, str(path))
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list, got {type(entries).__name__}")
    for number, entry in enumerate(entries):
        yield f"{path}, entry {number}", entry


def _folder_entries(folder: Path, errors: list[str]) -> Iterator[tuple[str, Any]]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"{folder} holds no JSON file")
    for file in files:
        try:
            entry = load_json(file)
        except ValueError as error:
            errors.append(str(error))
            continue
        is_mapping = isinstance(entry, dict)
        yield str(file), {"file_stem": file.stem, **entry} if is_mapping else entry


def _numbered(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the non-empty lines, each with its location (``FILE, line 3``)."""
    for number, line in enumerate(
        text.split("\n"), start=1
    ):  # splitlines would split at more characters
        if line.strip():
            yield f"{path}, line {number}", line


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with settings such as ``"data.sources.0.path=a.json"`` applied.

    Raises:
        RecipeError: All settings that are malformed or name no existing entry.
    """
    result, errors = deepcopy(dict(values)), []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        try:
            if not equals or not all(dotted.split(".")):
                raise ValueError("expected SECTION.NAME=VALUE, such as optimisation.steps=10")
            set_value(result, dotted, _parse_value(text))
        except (ValueError, yaml.YAMLError) as error:
            errors.append(f"{override}: {error}")
    if errors:
        raise RecipeError("the command line", errors)
    return result


def set_value(values: Any, dotted: str, value: Any) -> None:
    """Set the value with a dotted name in nested mappings and lists.

    Raises:
        ValueError: The name leads to no entry.
    """
    path = dotted.split(".")
    for depth, name in enumerate(path):
        key: Any = name
        if isinstance(values, list):
            if not name.isdecimal() or int(name) >= len(values):
                has = f"has entries 0 to {len(values) - 1}" if values else "is an empty list"
                raise ValueError(f"{'.'.join(path[:depth])} {has}, got {name!r}")
            key = int(name)
        elif not isinstance(values, dict):
            raise ValueError(f"{'.'.join(path[:depth])} is {values!r}, which has no {name!r}")
        if depth + 1 == len(path):
            values[key] = value
        else:
            values = values[key] if isinstance(values, list) else values.setdefault(key, {})


def _count_nodes(node: Any, counts: dict[int, int]) -> int:
    """Count the values in a YAML node with its aliases expanded.

    Raises:
        yaml.YAMLError: There are too many, or the node contains itself.
    """
    if isinstance(node, yaml.CollectionNode) and id(node) not in counts:
        counts[id(node)] = MAX_NODES + 1  # an alias seen before this is final is a cycle
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        counts[id(node)] = 1 + sum(_count_nodes(child, counts) for child in children)
    count = counts.get(id(node), 1)
    if count > MAX_NODES:
        raise yaml.YAMLError(f"its aliases expand to more than {MAX_NODES} values")
    return count


def _parse_value(text: str) -> Any:
    """Parse a value from the command line, where ``{question}`` is text, not a YAML mapping."""
    template = re.search(r"\{\w+\}", text) is not None
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError:
        if template:
            return text
        raise
    return text if template and not isinstance(value, str) else value


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
