"""Messages as lines of JSON. msgspec converts, and validates against the queue's type.

JSON has no numbers that are infinite or no numbers at all. Such floats are written and read in the words that
Python's `json` and many others use, `NaN` and `Infinity`: written as `null`, they would be lost.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_FINITE = (b"NaN", b"Infinity")


def parser(type: Any) -> Callable[[bytes], Any]:
    """Return what makes a value of that type of a line of JSON; `ValueError` (with a reason) for others."""
    decode = msgspec.json.Decoder(Any if type is object else type).decode

    def parse(line: bytes) -> Any:
        try:
            return decode(line)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if not any(word in line for word in _NOT_FINITE):
                raise
            return msgspec.convert(json.loads(line), Any if type is object else type)

    return parse


def render(value: Any) -> bytes:
    """Return a value as JSON in one line; `ValueError` for one that JSON cannot express."""
    try:
        text = msgspec.json.encode(value)
        if b"null" in text and _is_not_finite(plain := msgspec.to_builtins(value)):
            text = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as problem:
        raise ValueError(f"it cannot be written as JSON: {problem}") from None
    return text


def _is_not_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_is_not_finite, value.values())) or any(map(_is_not_finite, value))
    return isinstance(value, (list, tuple, set, frozenset)) and any(map(_is_not_finite, value))


def parse_bytes(line: bytes) -> bytes:
    """Return the bytes that a line of JSON stands for."""
    value = msgspec.json.decode(line)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and list(value) == ["base64"] and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error as problem:
            raise ValueError(f"no base64: {problem}") from None
    raise ValueError('a string or {"base64": "…"} is needed')


def render_bytes(message: bytes) -> bytes:
    """Return bytes as a JSON string where they are UTF-8, as `{"base64": …}` otherwise."""
    try:
        return msgspec.json.encode(message.decode())
    except UnicodeDecodeError:
        return msgspec.json.encode({"base64": base64.b64encode(message).decode()})
