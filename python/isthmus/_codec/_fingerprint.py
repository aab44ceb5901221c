"""What messages of a type look like, as msgspec describes it, in 64 bits.

Two types of one fingerprint read each other's messages, or validation says what does not fit. Names of
classes and modules are left out (a tag is on the wire, so it is in), and so is every field that may be
missing where unknown fields are ignored: such fields may come and go.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from ._base import digest

_CHILD = ("type", "item_type", "key_type", "value_type")
_CHILDREN = ("item_types", "types")


def children(info: Any) -> Iterator[Any]:
    """The descriptions of what a type is made of; `info` is one of `msgspec.inspect`."""
    for name in _CHILD:
        if hasattr(info, name):
            yield getattr(info, name)
    for name in _CHILDREN:
        yield from getattr(info, name, ())
    for field in getattr(info, "fields", ()):
        yield field.type


def fingerprint(info: Any) -> int:
    """The number of the type that `info` describes.

    Types with fields may contain each other. So each begins with the same digest, and takes a new one of its
    fields and of the digests that their types had, until this tells no more of them apart. Then equal digests
    mean equal types, however deep one looks.
    """
    records: dict[int, Any] = {}
    _collect(info, records)
    digests = dict.fromkeys(records, "")
    apart = 0
    while len(set(digests.values())) > apart:
        apart = len(set(digests.values()))
        digests = {key: _short(_record(record, digests)) for key, record in records.items()}
    return digest(f"isthmus msgspec 1 {_text(info, digests)} {sorted(set(digests.values()))}")


def _short(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _has_fields(info: Any) -> bool:
    return hasattr(info, "fields")


def _by_position(info: Any) -> bool:
    return type(info).__name__ == "NamedTupleType" or getattr(info, "array_like", False)


def _counted(info: Any) -> list[Any]:
    """The fields that a peer must agree on, in the order in which they count."""
    if _by_position(info):
        return list(info.fields)
    strict = getattr(info, "forbid_unknown_fields", False)
    return sorted((f for f in info.fields if f.required or strict), key=lambda field: str(field.encode_name))


def _collect(info: Any, records: dict[int, Any]) -> None:
    if not _has_fields(info):
        for child in children(info):
            _collect(child, records)
    elif id(info) not in records:
        records[id(info)] = info
        for field in _counted(info):
            _collect(field.type, records)


def _record(info: Any, digests: dict[int, str]) -> str:
    fields = [(field.encode_name, field.required, _text(field.type, digests)) for field in _counted(info)]
    tag = (getattr(info, "tag_field", None), getattr(info, "tag", None))
    strict = getattr(info, "forbid_unknown_fields", False)
    return f"{'array' if _by_position(info) else 'map'} {tag} {strict} {fields}"


def _text(info: Any, digests: dict[int, str]) -> str:
    kind = type(info).__name__
    if _has_fields(info):
        return f"<{digests[id(info)]}>"
    if kind == "Metadata":  # titles and descriptions
        return _text(info.type, digests)
    if kind == "UnionType":
        return f"union{sorted({_text(part, digests) for part in info.types})}"
    if kind == "EnumType":
        return f"enum{sorted(repr(member.value) for member in info.cls)}"
    if kind == "LiteralType":
        return f"literal{sorted(map(repr, info.values))}"
    limits = [
        (name, value)
        for name in sorted(info.__struct_fields__)
        if name not in _CHILD + _CHILDREN and (value := getattr(info, name)) is not None
    ]
    return f"{kind}{[_text(child, digests) for child in children(info)]}{limits}"
