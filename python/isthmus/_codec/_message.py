"""Types that msgspec knows: MessagePack, and validated on receipt.

msgspec's encoders and decoders keep nothing between calls (the state of a call is on its stack), so one of
each serves all threads and calls within calls.
"""

import datetime as dt
import decimal
import types
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import inspect

from ._base import NAME_MAX, Codec
from ._fingerprint import children, fingerprint

if TYPE_CHECKING:
    from ._base import Decode, Encode

_BUILTIN = (bool, int, float, str, bytearray, list, dict, tuple, set, frozenset)
"""Types that are known by their fingerprint alone."""
_builtin: dict[int, Codec] = {}

_CLASSES: dict[str, tuple[type[Any], ...]] = {
    "BoolType": (bool,),
    "ByteArrayType": (bytearray,),
    "BytesType": (bytes,),
    "DateTimeType": (dt.datetime,),
    "DateType": (dt.date,),
    "DecimalType": (decimal.Decimal,),
    "DictType": (dict,),
    "ExtType": (msgspec.msgpack.Ext,),
    "FloatType": (float, int),
    "FrozenSetType": (frozenset,),
    "IntType": (int,),
    "ListType": (list,),
    "MemoryViewType": (memoryview,),
    "NoneType": (types.NoneType,),
    "RawType": (msgspec.Raw,),
    "SetType": (set,),
    "StrType": (str,),
    "TimeDeltaType": (dt.timedelta,),
    "TimeType": (dt.time,),
    "TupleType": (tuple,),
    "TypedDictType": (dict,),
    "UUIDType": (uuid.UUID,),
    "VarTupleType": (tuple,),
}
_MAY_BE_SUBCLASSED = (int, str, list, dict, tuple, set, frozenset)
"""Subclasses of these arrive as the builtin itself (a defaultdict as a dict, an IntEnum as a number)."""


def codec(type: Any) -> Codec:
    """The codec of a type that msgspec knows; TypeError for any other.

    Sending checks the class of the value itself and refuses another one, at some 50 ns; what is inside it
    is checked on receipt, where all of the message is validated against the type. (`msgspec.convert` would
    check all on sending too, for more than the encoding costs.) A subclass of a Struct or dataclass is
    refused, because it would arrive as the base without what it adds; an int is taken for a float.

    Compatible, both ways: adding, removing and renaming a field that has a default (a missing one takes the
    receiver's default, an unknown one is ignored), reordering fields, another class name, a dataclass or
    TypedDict instead of a Struct. Another type: any other change of a field, of a constraint or of an enum's
    values; every change of a tag, of a NamedTuple, of `array_like` and of `forbid_unknown_fields` types.
    """
    name = name_of(type)
    try:
        info = inspect.type_info(type)
        decode = msgspec.msgpack.Decoder(type).decode
    except (AttributeError, NameError, TypeError, ValueError) as problem:
        raise _unsupported(type, str(problem)) from problem
    kinds: set[str] = set()
    _walk(type, info, kinds, set())
    encode = msgspec.msgpack.Encoder().encode
    exact = _classes(info)
    whole = kinds & {"RawType", "MemoryViewType"}  # these point into what they were decoded from
    return Codec.made(
        name=name,
        fingerprint=fingerprint(info),
        encode=_checked(encode, exact, name) if exact else encode,
        decode=_copying(decode) if whole else decode,
        decode_view=decode,
        made_of=type,
        exact=exact,
        encode_exact=encode,
    )


def builtin(fingerprint: int) -> Codec:
    """The codec of a plain builtin type by its fingerprint; LookupError for any other."""
    if not _builtin:
        _builtin.update((made.fingerprint, made) for made in map(codec, _BUILTIN))
    try:
        return _builtin[fingerprint]
    except KeyError:
        raise LookupError(f"no builtin type has fingerprint {fingerprint:#018x}") from None


def _unsupported(type: Any, why: str) -> TypeError:
    return TypeError(f"type={type!r} cannot be sent by msgspec ({why}); use type=object or a Codec")


def _walk(type: Any, info: Any, kinds: set[str], seen: set[int]) -> None:
    """Gathers the kinds of all that a type is made of; TypeError where msgspec would need hooks."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, inspect.CustomType):
        raise _unsupported(type, f"it does not know {name_of(info.cls)}")
    kinds.add(info.__class__.__name__)
    for child in children(info):
        _walk(type, child, kinds, seen)


def _classes(info: Any) -> tuple[type[Any], ...]:
    """The classes that values of a type have; none where that may be any."""
    kind = type(info).__name__
    if kind == "Metadata":
        return _classes(info.type)
    if kind == "AnyType":
        return ()
    if kind == "UnionType":
        parts = [_classes(part) for part in info.types]
        return tuple(dict.fromkeys(one for part in parts for one in part)) if all(parts) else ()
    if kind == "LiteralType":
        return tuple(dict.fromkeys(type(value) for value in info.values))
    if kind in _CLASSES:
        return _CLASSES[kind]
    cls = getattr(info, "cls", None)
    cls = get_origin(cls) or cls
    return (cls,) if isinstance(cls, type) else ()


def _checked(encode: Callable[[Any], bytes], exact: tuple[type[Any], ...], name: str) -> "Encode":
    may_be_subclassed = tuple(cls for cls in exact if cls in _MAY_BE_SUBCLASSED)

    def encode_other(value: Any) -> bytes:
        if isinstance(value, may_be_subclassed) and not isinstance(value, bool):
            return encode(value)
        raise TypeError(f"a message of type {name} is needed, not {type(value)!r}")

    if len(exact) == 1:
        (only,) = exact

        def encode_one(value: Any, /) -> bytes:
            return encode(value) if type(value) is only else encode_other(value)

        return encode_one
    several = frozenset(exact)

    def encode_several(value: Any, /) -> bytes:
        return encode(value) if type(value) in several else encode_other(value)

    return encode_several


def _copying(decode: Callable[[Any], Any]) -> "Decode":
    def decode_copy(buffer: Any, /) -> Any:
        return decode(bytes(buffer))

    return decode_copy


def name_of(type: Any) -> str:
    """A type as one writes it, without modules, in at most 56 bytes: `Job`, `list[int]`, `Job | None`."""
    text = _spelled(type)
    if len(text.encode()) <= NAME_MAX:
        return text
    return text.encode()[: NAME_MAX - 3].decode(errors="ignore") + "…"


def _spelled(kind: Any) -> str:
    if kind is None or kind is types.NoneType:
        return "None"
    if kind is ...:
        return "..."
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _spelled(arguments[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(map(_spelled, arguments))
    if origin is not None:
        inside = f"[{', '.join(map(_spelled, arguments))}]" if arguments else ""
        return f"{_spelled(origin)}{inside}"
    if isinstance(kind, (type, TypeVar)) or hasattr(kind, "__supertype__"):
        return str(kind.__name__)
    return str(kind).removeprefix("typing.")
