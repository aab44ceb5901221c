"""`isthmus._codec`: which codec a type has, and codecs of the user's own."""

from __future__ import annotations

import collections
import pickle
import typing
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest

import isthmus
from isthmus._codec import ARRAY, BYTES, OBJECT, Codec, codec_for, known
from isthmus._codec._base import digest
from messages import (
    Box,
    Cancel,
    Holder,
    Job,
    Point,
    Run,
    Thing,
    Unresolved,
    codec,
)
from support import run_python


def test_bytes_need_no_codec() -> None:
    assert codec_for(bytes) is None
    assert known(0) is None
    assert BYTES == 0


def test_a_codec_is_its_own_type() -> None:
    mine = Codec("mine", bytes, bytes)
    assert codec_for(mine) is mine


@pytest.mark.parametrize(
    ("type", "name"),
    [
        (object, "object"),
        (np.ndarray, "numpy.ndarray"),
        (Job, "Job"),
        (int, "int"),
        (list, "list"),
        (list[int], "list[int]"),
        (typing.List[int], "list[int]"),  # noqa: UP006 - the old spelling is meant
        (dict[str, Job], "dict[str, Job]"),
        (Job | None, "Job | None"),
        (typing.Optional[Job], "Job | None"),  # noqa: UP045 - the old spelling is meant
        (Run | Cancel, "Run | Cancel"),
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (Annotated[int, msgspec.Meta(ge=0)], "int"),
        (Box[int], "Box[int]"),
        (typing.NewType("Id", int), "Id"),
        (Any, "Any"),
    ],
)
def test_a_codec_is_named_as_the_type_is_written(type: Any, name: str) -> None:
    assert codec(type).name == name
    assert codec(type).made_of is type


def test_a_long_name_is_cut_between_characters() -> None:
    long = msgspec.defstruct("é" * 60, ["id"])
    name = codec(long).name
    assert len(name.encode()) <= 56
    assert name == "é" * 26 + "…"
    assert codec(msgspec.defstruct("J" * 56, ["id"])).name == "J" * 56


@pytest.mark.parametrize(
    "value",
    [
        None, 5, "Job", Job(1, ""), Point(1), [int], (int, str), Thing, Holder, list[Thing],
        dict[str, set[Thing]], complex, range, type, lambda: 0, np.float64, np.memmap, np.zeros(3),
        Unresolved, str | bytes, Job | Point, Literal[1.5], np.ndarray[Any, Any], collections.OrderedDict,
    ],
)  # fmt: skip
def test_what_is_no_type_of_a_message_is_refused_with_its_name(value: Any) -> None:
    with pytest.raises(TypeError, match="type=") as caught:
        codec_for(value)
    assert repr(value) in str(caught.value)
    if value is not None:
        assert "use type=object or a Codec" in str(caught.value)


def test_known_by_fingerprint_are_object_arrays_and_plain_builtin_types() -> None:
    assert known(OBJECT) is codec(object)
    assert known(ARRAY) is codec(np.ndarray)
    for kind in (bool, int, float, str, bytearray, list, dict, tuple, set, frozenset):
        found = known(codec(kind).fingerprint)
        assert found is not None
        assert found.made_of is kind
        assert found.name == kind.__name__
    for stranger in (codec(Job).fingerprint, codec(list[int]).fingerprint, 1, 2**64 - 1):
        with pytest.raises(LookupError):
            known(stranger)


def test_the_written_fingerprints_are_what_they_are_made_of() -> None:
    assert digest("isthmus object 1") == OBJECT == codec(object).fingerprint
    assert digest("isthmus numpy.ndarray 1") == ARRAY == codec(np.ndarray).fingerprint


def test_choosing_imports_only_what_the_type_needs() -> None:
    out = run_python(
        """
        import sys
        from isthmus._codec import codec_for
        def heavy():
            return [name for name in ("msgspec", "numpy", "hashlib") if name in sys.modules]
        print(heavy())
        codec_for(bytes), codec_for(object)
        print(heavy())
        codec_for(int)
        print(heavy())
        """
    )
    assert out.splitlines() == ["[]", "[]", "['msgspec', 'hashlib']"]


def test_a_codec_of_ones_own() -> None:
    made = Codec("text/1", str.encode, lambda buffer: bytes(buffer).decode())
    assert made.encode("héllo") == "héllo".encode()
    assert made.decode(memoryview("héllo".encode())) == "héllo"
    assert made.decode_view is made.decode
    assert made.made_of is made
    assert 0 < made.fingerprint < 2**64
    assert repr(made) == "<isthmus.Codec text/1>"


def test_the_name_alone_makes_the_fingerprint() -> None:
    assert Codec("a", bytes, bytes).fingerprint == Codec("a", bytearray, bytearray).fingerprint
    assert Codec("a", bytes, bytes).fingerprint != Codec("b", bytes, bytes).fingerprint
    assert Codec("object", bytes, bytes).fingerprint != OBJECT
    assert Codec("int", bytes, bytes).fingerprint != codec(int).fingerprint


def test_the_fingerprint_of_a_name_stays_the_same_from_version_to_version() -> None:
    """Stored in objects that other programs open: a change here is a change of the format."""
    assert Codec("text/1", bytes, bytes).fingerprint == 0xFC71_DF33_5DE7_375F
    assert codec(int).fingerprint == 0x9E07_0F65_AC2F_201F
    assert codec(Job).fingerprint == 0x90D7_C339_1DDA_649E
    # Not by the order of a set of texts either, which is another in each process.
    several = int | str | list[int] | dict[str, int] | None
    assert codec(several).fingerprint == 0x6A6A_B6E3_10F3_E932


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "x" * 57, "é" * 29])
def test_a_name_that_cannot_be_shown_or_stored_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 56 bytes"):
        Codec(name, bytes, bytes)


def test_what_is_no_name_or_no_function_is_refused() -> None:
    some: Any = 5
    with pytest.raises(TypeError, match="5"):
        Codec(some, bytes, bytes)
    with pytest.raises(TypeError, match="encode of codec 'x'"):
        Codec("x", some, bytes)
    with pytest.raises(TypeError, match="decode of codec 'x'"):
        Codec("x", bytes, some)
    with pytest.raises(TypeError, match="decode_view of codec 'x'"):
        Codec("x", bytes, bytes, decode_view=some)


def test_a_codec_does_not_change() -> None:
    made = Codec("x", bytes, bytes)
    with pytest.raises(AttributeError, match="name"):
        made.name = "y"
    with pytest.raises(AttributeError, match="name"):
        del made.name
    with pytest.raises(AttributeError):
        setattr(made, "other", 1)  # noqa: B010 - a type checker refuses it before
    assert made.name == "x"


def length(buffer: Any) -> int:
    return len(buffer)


@pytest.mark.parametrize("type", [object, np.ndarray, Job, list[Job], Job | None])
def test_a_codec_goes_to_another_process_as_its_type(type: Any) -> None:
    again = pickle.loads(pickle.dumps(codec(type)))
    assert again.made_of == type
    assert again.fingerprint == codec(type).fingerprint


def test_a_codec_of_ones_own_goes_to_another_process_with_its_functions() -> None:
    again = pickle.loads(pickle.dumps(Codec("x", bytes, bytearray, decode_view=length)))
    assert (again.name, again.encode, again.decode, again.decode_view) == ("x", bytes, bytearray, length)


def test_the_public_name_is_codec() -> None:
    assert isthmus.Codec is Codec
