"""Fingerprints: which types agree, and that those that agree read each other's messages."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import sys
import types
import typing
import uuid
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

from messages import (
    Box,
    Cancel,
    Colour,
    Job,
    Level,
    Pair,
    Run,
    Tree,
    codec,
)


def struct(fields: list[Any], name: str = "S", **options: Any) -> Any:
    return msgspec.defstruct(name, fields, **options)


def print_of(type: Any) -> int:
    return codec(type).fingerprint


@dataclasses.dataclass
class PlainJob:
    path: str
    id: int
    size: float = 1.0
    more: str = "x"


class JobDict(TypedDict):
    id: int
    path: str


def test_types_that_look_alike_agree_whatever_they_are_called() -> None:
    base = print_of(struct([("id", int), ("path", str)]))
    assert print_of(struct([("id", int), ("path", str)], name="Other", module="elsewhere")) == base
    assert print_of(struct([("path", str), ("id", int)])) == base  # written by name: order does not matter
    assert (
        print_of(struct([("id", int), ("path", Annotated[str, msgspec.Meta(description="where")])])) == base
    )
    assert print_of(struct([("nr", int), ("path", str)], rename={"nr": "id"})) == base
    for other in (Job, PlainJob, JobDict):
        assert print_of(other) == base
    assert print_of(Run | Cancel) == print_of(Cancel | Run)
    assert print_of(typing.Optional[int]) == print_of(int | None) == print_of(None | int)  # noqa: UP045
    assert print_of(list) == print_of(list[Any])
    assert print_of(typing.NewType("Id", int)) == print_of(int)
    assert print_of(Level) == print_of(enum.IntEnum("Other", {"A": 1, "B": 2}))


ID: Any = struct([("id", int)])
DIFFERENT: list[Any] = [
    bool, int, float, str, bytearray, list, dict, tuple, set, frozenset, Any, type(None),
    list[int], list[str], list[list[int]], set[int], tuple[int, ...], tuple[int], tuple[int, int], tuple[()],
    dict[str, int], dict[int, str], int | None, str | None, int | str, int | str | None, list[int] | None,
    Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(gt=0)],
    Annotated[int, msgspec.Meta(ge=1)], Annotated[list[int], msgspec.Meta(max_length=3)],
    Annotated[list[int], msgspec.Meta(min_length=3)],
    Annotated[str, msgspec.Meta(pattern="^a")], Literal["a"], Literal["b"], Literal["a", "b"], Literal[1],
    Colour, Level, enum.Enum("More", {"RED": "red", "BLUE": "blue", "GREEN": "green"}),
    dt.datetime, Annotated[dt.datetime, msgspec.Meta(tz=True)], dt.date, uuid.UUID, decimal.Decimal,
    struct([]), struct([("id", int)]), struct([("id", str)]), struct([("nr", int)]),
    struct([("id", int), ("path", str)]), struct([("id", int | None)]), struct([("id", int)], rename="upper"),
    struct([("id", int)], tag="a"), struct([("id", int)], tag="b"), struct([("id", int)], tag=1),
    struct([("id", int)], tag="a", tag_field="kind"), struct([("id", int)], forbid_unknown_fields=True),
    struct([("id", int), ("text", str, "")], forbid_unknown_fields=True),
    struct([("id", int)], array_like=True), struct([("id", int), ("text", str, "")], array_like=True),
    struct([("id", int), ("text", str)], array_like=True),
    struct([("text", str), ("id", int)], array_like=True),
    struct([("id", int)], array_like=True, tag="a"), Box[str], Box[list[int]],
    list[ID], Run | Cancel, struct([("inner", struct([("id", int)]))]),
    struct([("inner", struct([("id", str)]))]), Tree,
]  # fmt: skip


def test_types_that_look_different_do_not_agree() -> None:
    prints: dict[int, Any] = {}
    for kind in DIFFERENT:
        assert 0 < print_of(kind) < 2**64
        twin = prints.setdefault(print_of(kind), kind)
        assert twin is kind, f"{twin} and {kind} agree"


def both_ways(old: Any, new: Any, *, agree: bool) -> tuple[Any, Any]:
    """Codecs of an old and a new version, whose fingerprints are equal or not."""
    assert (print_of(old) == print_of(new)) is agree
    return codec(old), codec(new)


@pytest.mark.parametrize("kind", ["struct", "dataclass", "typed dictionary"])
def test_a_field_with_a_default_comes_and_goes(kind: str) -> None:
    if kind == "struct":
        old, new = both_ways(struct([("id", int)]), struct([("id", int), ("text", str, "none")]), agree=True)
    elif kind == "dataclass":
        newer = dataclasses.make_dataclass("D", [("id", int), ("text", str, "none")])
        old, new = both_ways(dataclasses.make_dataclass("D", [("id", int)]), newer, agree=True)
    else:
        smaller: Any = TypedDict("smaller", {"id": int})
        larger: Any = TypedDict("larger", {"id": int, "text": typing.NotRequired[str]})
        old, new = both_ways(smaller, larger, agree=True)

    def make(made: Any, **values: Any) -> Any:
        return made.made_of(**values)

    forward = new.decode(old.encode(make(old, id=1)))  # a missing field: the receiver's default
    assert forward == (make(new, id=1) if kind == "typed dictionary" else make(new, id=1, text="none"))
    assert old.decode(new.encode(make(new, id=1, text="y"))) == make(old, id=1)  # an unknown field: ignored


def test_where_unknown_fields_are_forbidden_a_new_one_is_another_type() -> None:
    options: Any = {"forbid_unknown_fields": True}
    old, new = both_ways(
        struct([("id", int)], **options), struct([("id", int), ("text", str, "")], **options), agree=False
    )
    with pytest.raises(msgspec.ValidationError):
        old.decode(new.encode(new.made_of(1)))


def test_by_position_a_new_field_is_another_type() -> None:
    old, new = both_ways(
        NamedTuple("Old", [("id", int)]), Pair, agree=False
    )  # fmt: skip
    with pytest.raises(msgspec.ValidationError):
        old.decode(new.encode(Pair(1, "x")))
    both_ways(
        struct([("id", int)], array_like=True),
        struct([("id", int), ("t", str, "")], array_like=True),
        agree=False,
    )


def test_a_field_that_becomes_required_is_another_type() -> None:
    old, new = both_ways(
        struct([("id", int), ("text", str, "")]), struct([("id", int), ("text", str)]), agree=False
    )
    assert new.decode(old.encode(old.made_of(1, "x"))) == new.made_of(1, "x")  # it may work, but need not


def test_an_optional_field_of_another_type_is_found_by_validation() -> None:
    old, new = both_ways(
        struct([("id", int), ("text", str, "")]), struct([("id", int), ("text", int, 0)]), agree=True
    )
    with pytest.raises(msgspec.ValidationError, match=r"\$\.text"):
        new.decode(old.encode(old.made_of(1, "x")))


def define(source: str) -> dict[str, Any]:
    """Classes of a module of their own, so that they may name each other."""
    module = types.ModuleType(f"made_{len(sys.modules)}")
    sys.modules[module.__name__] = module
    exec(f"from __future__ import annotations\nimport msgspec\n{source}", vars(module))
    return vars(module)


def ring(*classes: str) -> str:
    """Source of structs: `"A B"` is one named A with a field of type B, `"A B int"` has a number too."""
    source = []
    for text in classes:
        name, following, *number = text.split()
        source.append(f"class {name}(msgspec.Struct):\n    next: {following}" + "\n    b: int" * len(number))
    return "\n".join(source)


RECURSIVE = [
    ring("A A|None"),
    ring("A list[A]"),
    ring("A B|None", "B A|None int"),
    ring("A B|None", "B B|None int"),
    ring("A B|None", "B C|None", "C A|None int"),
    ring("A B|None", "B C|None", "C B|None int"),
    ring("A B|None", "B C|None", "C None"),
]


def test_types_that_contain_themselves_end_and_differ() -> None:
    prints = [print_of(define(source)["A"]) for source in RECURSIVE]
    assert len(set(prints)) == len(prints)
    for source, expected in zip(RECURSIVE, prints, strict=True):
        renamed = source.translate(str.maketrans("ABC", "CAB"))
        assert print_of(define(renamed)["C"]) == expected


def test_a_cycle_written_out_twice_is_the_same_type() -> None:
    once, twice = define(ring("A A|None")), define(ring("A B|None", "B A|None"))
    assert print_of(once["A"]) == print_of(twice["A"])


def test_many_types_that_all_contain_each_other_are_no_trouble() -> None:
    """A syntax tree, say: following each path through it would never end."""
    names = [f"N{i}" for i in range(40)]
    union = " | ".join(names)
    source = "\n".join(
        f"class {name}(msgspec.Struct, tag=True):\n    left: {union}\n    n{i % 7}: int"
        for i, name in enumerate(names)
    )
    types = define(source)
    assert len({print_of(types[name]) for name in names}) == len(names)


def test_fields_that_do_not_count_do_not_count_however_deep() -> None:
    plain = struct([("id", int)])
    inner = struct([("anything", list[int])])
    assert print_of(struct([("id", int), ("inner", inner | None, None)])) == print_of(plain)
