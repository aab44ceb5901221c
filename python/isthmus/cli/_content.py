"""What messages are for the shell: which type opens the queue, and how messages look in a pipe.

- Messages of type `bytes` and `str` are the bytes and the text themselves.
- Types that msgspec knows are values of JSON, one a line. Their names stand in the queue, and the
  fingerprint beside the name proves that the type made of the name is the right one.
- Messages of `object` are pickles: values of JSON can be put as such, but taking them out runs what is in
  them, so it must be asked for.
- Everything else (arrays, Structs of some program) can be moved as it is encoded, with `--raw`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import isthmus
from isthmus.cli._show import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable


class Content:
    """How messages of one queue go in and come out."""

    def __init__(
        self,
        type: Any,
        parse: Callable[[bytes], Any] | None,
        render: Callable[[Any], bytes] | None,
        *,
        lines_of_json: bool = False,
    ) -> None:
        self.type = type
        self.parse = parse
        """Makes a message of a piece of input, None where it is one; `ValueError` for nonsense."""
        self.render = render
        """Makes output of a message, None where it is that; `ValueError` where it cannot."""
        self.lines_of_json = lines_of_json
        """Whether an empty line is no message."""


def content_of(
    name: str, fingerprint: int, *, json: bool = False, raw: bool = False, unpickle: bool | None = None
) -> Content:
    """Return how to treat messages of the type of this name and fingerprint.

    `unpickle` is None for one who only puts. Raises `CommandError` where the shell cannot do it.
    """
    if raw:
        return _encoded(name, fingerprint, json=json)
    if unpickle and name != "object":
        raise CommandError(f"--unpickle is for queues of objects; this one has messages of type {name}", 2)
    if name == "bytes" and not fingerprint:
        return _bytes_as_json(bytes) if json else Content(bytes, None, None)
    if name == "object":
        if unpickle is False:
            raise CommandError(
                "the messages are pickled objects, and unpickling runs what is in them: --unpickle does it, "
                "--raw takes them as they are"
            )
        return _json(object)
    if name == "str" and not json:
        return Content(str, bytes.decode, str.encode)
    kind = type_of(name, fingerprint)
    if kind is None:
        what = "arrays" if name == "numpy.ndarray" else f"messages of type {name}"
        raise CommandError(f"the shell does not know {what}; with --raw it moves them as they are encoded")
    return _json(kind)


def type_named(name: str) -> Any:
    """Return the type of this name, such as `list[int]`; None for one that only some program knows."""
    plain = {
        kind.__name__: kind for kind in (bytes, str, int, float, bool, dict, list, tuple, set, frozenset)
    }
    if name in plain:
        return plain[name]
    from isthmus.cli._typenames import parse

    return parse(name, plain)


def type_of(name: str, fingerprint: int) -> Any:
    """Return the type of this name if it is the one that the fingerprint belongs to; None otherwise."""
    from isthmus._codec import codec_for  # a fingerprint of a type is asked for nowhere else

    kind = type_named(name)
    try:
        codec = None if kind is None else codec_for(kind)
    except TypeError:
        return None
    return kind if codec is not None and codec.fingerprint == fingerprint else None


def _json(type: Any) -> Content:
    from isthmus.cli import _json as json

    return Content(type, json.parser(type), json.render, lines_of_json=True)


def _bytes_as_json(type: Any) -> Content:
    from isthmus.cli import _json as json

    return Content(type, json.parse_bytes, json.render_bytes, lines_of_json=True)


def _encoded(name: str, fingerprint: int, *, json: bool) -> Content:
    kind: Any = bytes
    if fingerprint:
        # The queue is opened as what it is, and its messages pass through untouched.
        kind = isthmus.Codec.made(
            name=name, fingerprint=fingerprint, encode=bytes, decode=bytes, made_of=memoryview
        )
    return _bytes_as_json(kind) if json else Content(kind, None, None)
