"""``isthmus inspect``: all there is to see of one object, as text or as JSON."""

from __future__ import annotations

import base64
import codecs
import math
import sys
from typing import TYPE_CHECKING, Any

from isthmus.cli._content import type_of
from isthmus.cli._inspect_text import lines
from isthmus.cli._queues import find, missing

if TYPE_CHECKING:
    import argparse

    import isthmus


def run(options: argparse.Namespace) -> int:
    """Show the object; 1 where it is damaged or cannot be used."""
    try:
        found = find(options.name, options.namespace, messages=options.messages, size=options.bytes)
    except FileNotFoundError as error:
        raise missing(error) from None
    shown = as_dictionary(found)
    if options.json:
        import json

        print(json.dumps(shown, indent=2, ensure_ascii=not _is_utf8(sys.stdout)))
    else:
        print("\n".join(lines(shown)))
    return 1 if found.problem else 0


def as_dictionary(found: isthmus.Inspection) -> dict[str, Any]:
    """Return an object as JSON shows it; messages with their values where the shell knows the type."""
    attributes, state = dict(found.attributes), dict(found.state)
    read = _reader(attributes)
    if "fingerprint" in attributes:
        attributes["fingerprint"] = f"{attributes['fingerprint']:016x}"  # more than JSON's numbers can hold
    if isinstance(state.get("value"), float) and not math.isfinite(state["value"]):
        state["value"] = str(state["value"])
    messages = []
    for one in found.messages:
        row: dict[str, Any] = {**one._asdict(), "truncated": one.size > len(one.data)}
        del row["data"]
        try:
            row["data"] = read(one.data, row["truncated"])
        except (ValueError, TypeError):
            row["base64"] = base64.b64encode(one.data).decode()
        messages.append(row)
    return {
        **found._asdict(),
        "attached": [one._asdict() for one in found.attached],
        "attributes": attributes,
        "state": state,
        "messages": messages,
    }


def _reader(attributes: dict[str, Any]) -> Any:
    """Return what reads an encoded message; `ValueError` where nobody here knows what the bytes mean.

    Nothing is ever unpickled.
    """
    name, fingerprint = attributes.get("type"), attributes.get("fingerprint")
    if name == "bytes":
        return _text
    if name in (None, "object") or type_of(str(name), fingerprint or 0) is None:
        return _unknown
    import msgspec

    def value(data: bytes, _: bool) -> Any:
        found = msgspec.to_builtins(msgspec.msgpack.decode(data), str_keys=True)
        msgspec.json.encode(found)
        return found

    return value


def _text(data: bytes, truncated: bool) -> str:
    # What was cut may end in the middle of a character.
    return codecs.getincrementaldecoder("utf-8")().decode(data, final=not truncated)


def _unknown(data: bytes, _: bool) -> Any:
    raise ValueError(data)


def _is_utf8(stream: object) -> bool:
    return str(getattr(stream, "encoding", "")).lower().replace("-", "") == "utf8"
