"""Reads a part's summary and options from its source, without importing it.

Importing the shipped parts costs seconds of torch and transformers, too long for a listing. What
cannot be established here, for whatever reason, raises `NotStatic`; the caller then imports the
class and reports what really happens. So a mistake here costs time at worst, if it is on the safe
side: everything that is not known to be harmless is `NotStatic`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, resolve_name
from types import NoneType
from typing import Any, Literal, NoReturn

from vtc.plugins.options import conform

_TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str}


class NotStatic(Exception):
    """The source does not settle it; the message says what stood in the way."""


@dataclass(frozen=True)
class Facts:
    """What a listing shows of a class: its docstring's first line, its options with defaults."""

    summary: str
    options: dict[str, Any]


def read_class(target: str, interface: str) -> Facts:
    """Read a class's facts from its source.

    Args:
        target: the class, as ``"module:Class"``.
        interface: the class that it must derive from, likewise.

    Raises:
        NotStatic: the source does not prove that the class can be imported, is a concrete
            subclass of ``interface``, and has a ``Config`` of literal defaults or none.
    """
    lineage = list(_lineage(target, interface))
    _check_concrete([node for _, node in lineage])
    for module, node in lineage:
        if "Config" in _bound(node.body):
            options = _options(module, _nested_config(node))
            break
    else:
        options = {}
    doc = ast.get_docstring(lineage[0][1]) or ""
    return Facts(doc.partition("\n")[0], options)


class _Module:
    """The source of a module that does nothing at import but define and import things."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.classes: dict[str, ast.ClassDef] = {}
        self.imported: dict[str, str] = {}
        body, self.package = _parse(name)
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                self.classes[statement.name] = statement
            elif isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._note_import(statement)
            elif not _harmless(statement):
                _refuse(f"{name}, line {statement.lineno}: what it does at import is unknown")
        bound = _bound(body)
        self.ambiguous = {name for name in bound if bound.count(name) > 1}

    def locate(self, node: ast.expr) -> str:
        """Where a name of this module is defined, as ``"module:name"``."""
        path = ast.unparse(node)
        root, _, rest = path.partition(".")
        if root in self.ambiguous:
            _refuse(f"{self.name}: {root} is bound more than once")
        if path in self.classes:
            return f"{self.name}:{path}"
        home = self.imported.get(root)
        if home is None:
            _refuse(f"{self.name}: {path} is not a plain import")
        full = f"{home}.{rest}" if rest else home
        return ":".join(full.rsplit(".", 1))

    def _note_import(self, statement: ast.Import | ast.ImportFrom) -> None:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                _require_installed(alias.name)
                name = alias.asname or alias.name.partition(".")[0]
                self.imported[name] = alias.name if alias.asname else name
            return
        written = "." * statement.level + (statement.module or "")
        try:
            source = resolve_name(written, self.package)
        except ImportError as error:
            raise NotStatic(f"{self.name}, line {statement.lineno}: {error}") from error
        _require_installed(source)
        for alias in statement.names:
            if alias.name == "*":
                _refuse(f"{self.name}, line {statement.lineno}: what * imports is unknown")
            self.imported[alias.asname or alias.name] = f"{source}.{alias.name}"


def _lineage(target: str, interface: str) -> Iterator[tuple[_Module, ast.ClassDef]]:
    """The class, its base, the base's base, ..., up to and with the interface."""
    exported = f"vtc:{interface.partition(':')[2]}"
    seen: set[str] = set()
    while target not in seen:
        seen.add(target)
        if target == exported:
            target = interface
        module_name, _, name = target.partition(":")
        module = _Module(module_name)
        node = module.classes.get(name)
        if node is None or name in module.ambiguous:
            _refuse(f"{module_name} does not define the class {name} once, at its top level")
        if not all(_harmless(statement) for statement in node.body):
            _refuse(f"what the body of {target} does is unknown")
        yield module, node
        if target == interface:
            return
        if node.decorator_list or node.keywords or len(node.bases) != 1:
            _refuse(f"{target} has a decorator, a metaclass, or not exactly one base")
        target = module.locate(node.bases[0])
    _refuse(f"{target} is its own base")


def _parse(name: str) -> tuple[list[ast.stmt], str]:
    """A module's statements, and the package that its relative imports start from."""
    spec = _find(name)
    loader: Any = spec.loader if spec else None
    try:
        source = loader.get_source(name) if hasattr(loader, "get_source") else None
        if spec is None or source is None:
            _refuse(f"there is no source of {name}")
        return ast.parse(source).body, spec.parent or ""
    # Unreadable, wrongly encoded, or no Python.
    except (ImportError, SyntaxError, ValueError) as error:
        raise NotStatic(f"{name}: {error}") from error


def _require_installed(module: str) -> None:
    # A submodule is looked for only where that imports nothing; else its root package is.
    parent = module.rpartition(".")[0]
    module = module if parent in sys.modules else module.partition(".")[0]
    if module not in sys.modules and _find(module) is None:
        _refuse(f"{module} is not installed")


def _find(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module)
    # This imports the parent packages, a third party's code, which may raise anything.
    except (Exception, SystemExit) as error:
        raise NotStatic(f"cannot find {module}: {error!r}") from error


def _check_concrete(lineage: list[ast.ClassDef]) -> None:
    abstract: set[str] = set()
    for node in reversed(lineage):
        abstract -= set(_bound(node.body))
        abstract |= {
            s.name
            for s in node.body
            if isinstance(s, ast.FunctionDef)
            and any("abstract" in ast.unparse(decorator) for decorator in s.decorator_list)
        }
    if abstract:
        _refuse(f"{lineage[0].name} does not define {', '.join(sorted(abstract))}")


def _nested_config(node: ast.ClassDef) -> ast.ClassDef:
    found = [s for s in node.body if isinstance(s, ast.ClassDef) and s.name == "Config"]
    if len(found) != 1 or _bound(node.body).count("Config") != 1:
        _refuse(f"{node.name}.Config is not a class defined in it")
    return found[0]


def _options(module: _Module, config: ast.ClassDef) -> dict[str, Any]:
    """Names and defaults of a ``Config``, those that it inherits first."""
    options: dict[str, Any] = {}
    match config.decorator_list:
        case [ast.Call(func=function, args=[], keywords=keywords)]:
            given = {k.arg: ast.unparse(k.value) for k in keywords}
        case _:
            _refuse(f"line {config.lineno}: not decorated with @dataclass(...) alone")
    if module.locate(function) != "dataclasses:dataclass" or given != _FROZEN:
        _refuse(f"line {config.lineno}: not decorated with @dataclass(frozen=True, kw_only=True)")
    for base in config.bases:
        match base:
            case ast.Attribute(value=ast.Name(id=owner), attr="Config") if owner in module.classes:
                options |= _options(module, _nested_config(module.classes[owner]))
            case _:
                _refuse(f"line {config.lineno}: the base of Config is not in this file")
    for statement in config.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                options[name] = _default(statement.annotation, value)
            case ast.FunctionDef() | ast.Expr(value=ast.Constant()) | ast.Pass():
                continue
            case _:
                _refuse(f"line {statement.lineno}: not an option with a literal default")
    if "name" in options:
        _refuse("no option can be called 'name'")
    return options


_FROZEN = {"frozen": "True", "kw_only": "True"}


def _default(annotation: ast.expr, value: ast.expr) -> Any:
    try:
        default = ast.literal_eval(value)
        hash(default)
        return conform(default, _type(annotation))
    except (TypeError, ValueError) as error:
        raise NotStatic(f"line {value.lineno}: {ast.unparse(value)}: {error}") from error


def _type(annotation: ast.expr) -> Any:
    match annotation:
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Constant(value=None):
            return NoneType
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            return Literal[ast.literal_eval(values)]
    _refuse(f"line {annotation.lineno}: the type {ast.unparse(annotation)}")


def _bound(body: list[ast.stmt]) -> list[str]:
    """The names that statements bind, with repetitions."""
    names = []
    for statement in body:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.append(name)
            case ast.Assign(targets=targets):
                names += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names += [alias.asname or alias.name.partition(".")[0] for alias in aliases]
    return names


def _harmless(statement: ast.stmt) -> bool:
    """Whether a statement at top level or in a class body only defines what it says."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Pass():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=targets, value=value):
            return all(isinstance(t, ast.Name) for t in targets) and _inert(value)
        case ast.AnnAssign(target=ast.Name(), value=value):
            return value is None or _inert(value)
        case ast.If(test=test, orelse=[]):
            return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return False


def _inert(value: ast.expr) -> bool:
    return not any(isinstance(node, (ast.Call, ast.Subscript)) for node in ast.walk(value))


def _refuse(reason: str) -> NoReturn:
    raise NotStatic(reason)
