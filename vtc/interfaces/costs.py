"""What parts cost: expressions in a few symbols, such as ``"9 * M * D"``, and their values.

A part says its costs in ``macs`` and ``extra_memory`` (see `vtc.interfaces.part.Part`). Symbols are
the sizes below, K and T of the part, and the names of its options that are numbers.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

SIZES = {
    "N": "frames of the video",
    "d": "width of a frame embedding",
    "n": "frames merged in one call",
    "M": "patches of a frame",
    "D": "width of a patch",
    "Dq": "width of the query",
}
"""What is not the part's own, by symbol."""

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def symbols(part: Any, sizes: Mapping[str, float]) -> dict[str, float]:
    """The values of all symbols in the costs of a part.

    Args:
        part: a selector or a merger. Its option ``keyframes`` is K, its ``tokens_per_frame`` is T,
            and each option that is a number stands under its own name, unless a size has it.
        sizes: values of some of `SIZES`, above 0.

    Raises:
        ValueError: a name that is not in `SIZES`, or a size that is not above 0.
    """
    for name, value in sizes.items():
        if name not in SIZES:
            allowed = ", ".join(f"{key} ({meaning})" for key, meaning in SIZES.items())
            raise ValueError(f"{name!r} is no size; allowed are {allowed}")
        if not value > 0:
            raise ValueError(f"{name}={value}: allowed is a number above 0")
    options = {} if part.config is None else asdict(part.config)
    own = {**options, "T": getattr(part, "tokens_per_frame", None), "K": options.get("keyframes")}
    return {**{k: v for k, v in own.items() if type(v) in (int, float)}, **sizes}


def evaluate(expression: str, values: Mapping[str, float]) -> float:
    """The value of a cost.

    >>> evaluate("2 * M * D", {"M": 729, "D": 3584})
    5225472.0

    Args:
        expression: numbers, symbols, ``+ - * / **``, parentheses, ``min`` and ``max``.
        values: by symbol.

    Raises:
        ValueError: it holds something else, or a symbol without a value.
    """
    try:
        return float(_value(ast.parse(expression, mode="eval").body, values))
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no expression: {error.msg}") from error
    except _Unreadable as error:
        raise ValueError(f"{expression!r}: {error}") from error


class _Unreadable(Exception):
    pass


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.Name(id=name):
            known = ", ".join(sorted(values)) or "none"
            raise _Unreadable(f"{name} has no value; those known are: {known}")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=[_, _, *_], keywords=[]):
            choose = min if name == "min" else max
            return choose(_value(argument, values) for argument in node.args)
    raise _Unreadable(
        f"{ast.unparse(node)} is not allowed; allowed are numbers, symbols, + - * / **, "
        "parentheses, min and max"
    )
