"""`Codec`: two functions and a name, and what the native core needs to know of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Parts: TypeAlias = Buffer | tuple[Buffer, ...]
    Encode: TypeAlias = Callable[[Any], Parts]
    Decode: TypeAlias = Callable[[Any], Any]

NAME_MAX = 56
"""Bytes of UTF-8 that an object has room for."""


class Codec:
    """How values of your own become messages: `Codec(name, encode, decode)`, given as `type=`.

    `encode(value)` returns a buffer (bytes, bytearray, memoryview, an array), or a tuple of buffers that make
    the message one after the other. `decode(buffer)` returns the value, made of copies: the buffer is not its
    own, and may be gone after the call. `decode_view(buffer)`, when given, may return a value that lives in
    the buffer: keep a memoryview of it, and its memory stays. The buffer is `bytes`, or something that
    `memoryview` takes. What `encode` raises goes to the sender; what `decode` raises says that the message is
    no good.

    The name says what messages look like: two codecs of one name read each other's messages, and a peer with
    another name is refused. Put a version in it, `"point/1"`. It has at most 56 bytes.
    """

    __slots__ = {  # noqa: RUF023 - in the order in which one reads them
        "name": "What errors and `isthmus ls` show: `Job`, `list[int]`.",
        "fingerprint": "64 bits, never 0, equal where messages look alike.",
        "encode": "Makes a message of a value: a buffer, or a tuple of them.",
        "decode": "Makes a value of a message, without keeping any of it.",
        "decode_view": "Makes a value of a message, in which it may go on living.",
        "made_of": "The type of which this is the codec; the codec itself where you made it.",
        # Ways round a Python function, which costs some 50 ns. `encode` and `decode` are right without them.
        "exact": "Classes whose values, not those of subclasses, `encode_exact` takes; often none.",
        "encode_exact": "Encodes without looking at the class.",
        "plain": "The first byte of messages that `decode_plain` takes; -1 for none.",
        "decode_plain": "Decodes without looking at the first byte.",
    }

    name: str
    fingerprint: int
    encode: "Encode"
    decode: "Decode"
    decode_view: "Decode"
    made_of: Any
    exact: tuple[type[Any], ...]
    encode_exact: "Encode"
    plain: int
    decode_plain: "Decode"

    def __init__(
        self, name: str, encode: "Encode", decode: "Decode", *, decode_view: "Decode | None" = None
    ) -> None:
        _check(name, encode=encode, decode=decode, decode_view=decode if decode_view is None else decode_view)
        _fill(
            self,
            name=name,
            fingerprint=digest(f"isthmus codec {name}"),
            encode=encode,
            decode=decode,
            decode_view=decode_view,
            made_of=self,
        )

    @classmethod
    def made(cls, **slots: Any) -> Self:
        """One of the package's own: every slot as given, or its default."""
        self = cls.__new__(cls)
        _fill(self, **slots)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a codec does not change: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a codec does not change: {name}")

    def __repr__(self) -> str:
        return f"<isthmus.Codec {self.name}>"

    def __reduce__(self) -> tuple[object, ...]:
        if self.made_of is self:
            return _user_made, (self.name, self.encode, self.decode, self.decode_view)
        from . import codec_for

        return codec_for, (self.made_of,)


def _check(name: object, **functions: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a codec is a str, not {name!r}")
    if not name or not name.isprintable() or len(name.encode()) > NAME_MAX:
        raise ValueError(f"the name of a codec has 1 to {NAME_MAX} bytes of printable text, not {name!r}")
    for what, function in functions.items():
        if not callable(function):
            raise TypeError(f"{what} of codec {name!r} is no function: {function!r}")


def _fill(
    codec: Codec, *, decode_view: "Decode | None" = None, exact: tuple[type[Any], ...] = (), **slots: Any
) -> None:
    slots["decode_view"] = decode_view or slots["decode"]
    slots["exact"] = exact
    slots = {"encode_exact": slots["encode"], "plain": -1, "decode_plain": slots["decode"]} | slots
    for name, value in slots.items():
        object.__setattr__(codec, name, value)


def _user_made(name: str, encode: "Encode", decode: "Decode", decode_view: "Decode") -> Codec:
    return Codec(name, encode, decode, decode_view=decode_view)


def digest(text: str) -> int:
    """64 bits of a text, never 0, which stands for bytes."""
    from hashlib import blake2b  # 5 ms, and a queue of bytes, object or arrays does without

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1
