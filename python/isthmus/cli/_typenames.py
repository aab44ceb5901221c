"""Types by the names that stand in queues, such as `dict[str, list[int] | None]`.

Names come from other processes: they are taken apart, never evaluated.
"""

from __future__ import annotations

import ast
import datetime as dt
import decimal
import operator
import uuid
from functools import reduce
from typing import Any, Literal

_OTHERS = {
    "Any": Any,
    "None": None,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "bytearray": bytearray,
    "date": dt.date,
    "datetime": dt.datetime,
    "time": dt.time,
    "timedelta": dt.timedelta,
}
_GENERIC = ("dict", "frozenset", "list", "set", "tuple")


def parse(name: str, plain: dict[str, type[Any]]) -> Any:
    """Return the type; None for a name made of others than builtin types and those of the library."""
    try:
        return _type(ast.parse(name, mode="eval").body, plain)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _type(node: ast.expr, plain: dict[str, type[Any]]) -> Any:
    match node:
        case ast.Name(id=name) if name in plain:
            return plain[name]
        case ast.Name(id=name) if name in _OTHERS:
            return _OTHERS[name]
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=value) if value is ...:
            return ...
        case ast.BinOp(op=ast.BitOr()):
            # None | None is no type; typing's rules decide.
            return reduce(operator.or_, [_type(side, plain) for side in _sides(node)])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            values = tuple(ast.literal_eval(one) for one in _items(inside))
            return Literal[values]
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in _GENERIC:
            return plain[name][tuple(_type(one, plain) for one in _items(inside))]
    raise ValueError(ast.dump(node))


def _items(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _sides(node: ast.expr) -> list[ast.expr]:
    """Return the parts of a union, of which a long one is deep on its left."""
    found: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        found.append(node.right)
        node = node.left
    found.append(node)
    return found[::-1]
