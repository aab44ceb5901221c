"""Codecs on values and bytes nobody thought of: what is encoded comes back equal, and bytes only raise."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isthmus._codec import _object
from messages import Box, Colour, Job, Options, Pair, Point, Row, Run, Tree, codec, message, sent

EXAMPLES = int(os.environ.get("ISTHMUS_TEST_EXAMPLES", "200"))
many = settings(max_examples=EXAMPLES)

numbers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False)

# ------------------------------------------------------------------------------------------------- arrays

dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.array_dtypes(allow_subarrays=True),
    hnp.nested_dtypes(),
).filter(lambda dtype: dtype.itemsize and dtype.subdtype is None)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array of any dtype, its elements any bytes, in any order in memory."""
    dtype, shape = draw(dtypes), draw(shapes)
    size = int(np.prod(shape)) * dtype.itemsize
    flat = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), "u1")
    array = flat.view(dtype).reshape(shape) if size else np.empty(shape, dtype)
    return draw(st.sampled_from([array, array.T, array[::-1] if shape else array, np.asfortranarray(array)]))


def same_array(one: Any, other: Any) -> bool:
    # By bytes: a NaN is not equal to itself, and the bytes of a bool or a text may be any.
    return bool(
        one.dtype == other.dtype
        and one.shape == other.shape
        and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()
    )


@many
@given(array=arrays())
def test_any_array_comes_back(array: Any) -> None:
    try:
        data = message(np.ndarray, array)
    except TypeError:
        assume(array.dtype.names is None)  # a .npy header does not take all names of fields
        raise
    arrived = sent(np.ndarray, array)
    view = codec(np.ndarray).decode_view(data)
    assert same_array(view, array)
    assert same_array(arrived, array)
    assert arrived.flags.writeable
    assert view.size == 0 or not view.flags.writeable


# ------------------------------------------------------------------------------------------------- objects

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), floats, st.text(), st.binary(), st.binary().map(bytearray)
)
large = st.integers(_object._LARGE - 1, _object._LARGE + 130).map(lambda size: np.arange(size, dtype="u1"))
objects = st.recursive(
    st.one_of(leaves, large, st.builds(Job, id=numbers, path=st.text())),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner), st.builds(Box, inner)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equality that goes into arrays."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return same_array(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Box):
        return same(one.inside, other.inside)
    return bool(one == other)


@many
@given(value=objects)
def test_any_object_comes_back(value: Any) -> None:
    assert same(sent(object, value), value)
    assert same(codec(object).decode_view(message(object, value)), value)


# ------------------------------------------------------------------------------------------------- typed

Typed = tuple[Any, st.SearchStrategy[Any]]

hashable: list[Typed] = [
    (int, numbers),
    (float, floats),
    (bool, st.booleans()),
    (str, st.text()),
    (type(None), st.none()),
    (Colour, st.sampled_from(Colour)),
]
plain: list[Typed] = [
    *hashable,
    (bytearray, st.binary().map(bytearray)),
    (Job, st.builds(Job, id=numbers, path=st.text(), size=floats)),
    (Row, st.builds(Row, id=numbers, text=st.text())),
    (Point, st.builds(Point, x=numbers, y=numbers)),
    (Pair, st.builds(Pair, left=numbers, right=st.text())),
    (Run, st.builds(Run, id=numbers)),
    (Options, st.fixed_dictionaries({"depth": numbers}, optional={"name": st.text()})),
    (
        Tree,
        st.recursive(
            st.builds(Tree, value=numbers, children=st.just([])),
            lambda inner: st.builds(Tree, value=numbers, children=st.lists(inner, max_size=3)),
            max_leaves=6,
        ),
    ),
]


def of(generic: Any, *arguments: Any) -> Any:
    """`generic[arguments]`, which a type checker would read as an annotation."""
    return generic[arguments if len(arguments) > 1 else arguments[0]]


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Types made of other types, each with its values."""
    key = st.sampled_from(hashable)
    return st.one_of(
        inner.map(lambda one: (of(list, one[0]), st.lists(one[1], max_size=4))),
        inner.map(lambda one: (of(tuple, one[0], ...), st.lists(one[1], max_size=4).map(tuple))),
        inner.map(lambda one: (one[0] | None, st.none() | one[1])),
        inner.map(lambda one: (of(Box, one[0]), st.builds(Box, one[1]))),
        key.map(lambda one: (of(set, one[0]), st.sets(one[1], max_size=4))),
        st.tuples(inner, inner).map(
            lambda two: (of(tuple, two[0][0], two[1][0]), st.tuples(two[0][1], two[1][1]))
        ),
        st.tuples(key, inner).map(
            lambda two: (of(dict, two[0][0], two[1][0]), st.dictionaries(two[0][1], two[1][1], max_size=4))
        ),
    )


types = st.recursive(st.sampled_from(plain), containers, max_leaves=4)


@many
@given(data=st.data())
def test_any_value_of_any_type_comes_back(data: st.DataObject) -> None:
    kind, values = data.draw(types)
    value = data.draw(values)
    assert sent(kind, value) == value
    made = codec(kind)
    assert made.decode_view(memoryview(message(kind, value))) == value
    assert len(made.name.encode()) <= 56
    assert codec(kind).fingerprint == made.fingerprint


# ------------------------------------------------------------------------------------------------- bytes

READERS = [
    np.ndarray,
    Any,
    int,
    str,
    list,
    dict,
    tuple,
    set,
    Job,
    Row,
    Pair,
    Point,
    Options,
    Tree,
    Run | None,
]
SAMPLES: list[bytes] = [
    message(np.ndarray, np.arange(6.0).reshape(2, 3)),
    message(np.ndarray, np.zeros(3, [("a", "<i4"), ("b", "M8[s]", (2,))])),
    message(Job, Job(1, "path", 2.5)),
    message(Tree, Tree(1, [Tree(2, [])])),
    message(list[dict[str, int]], [{"a": 1}, {"b": 2**40}]),
    message(object, {"a": np.arange(_object._LARGE, dtype="u1"), "b": np.zeros(_object._LARGE + 1, "u1")}),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message with some bytes changed, cut or longer, most often near its beginning."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, min(len(data), 200) - 1))
        data[place] = draw(st.integers(0, 255) | st.sampled_from(b"([{'9-OV0\x00\xff"))
    cut = draw(st.integers(0, len(data)) | st.just(len(data)))
    return bytes(data[:cut]) + draw(st.just(b"") | st.binary(max_size=80))


@pytest.fixture(autouse=True)
def no_pickle_of_strange_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random bytes may be a pickle that takes all memory: such tests only see what pickle would be given."""
    if "bytes" in request.node.name:

        def loads(data: Any, buffers: Any = ()) -> Any:
            return bytes(data), [bytes(buffer) for buffer in buffers]

        monkeypatch.setattr(_object, "pickle", SimpleNamespace(loads=loads, dumps=pickle.dumps))


@many
@given(data=st.binary() | damaged())
def test_bytes_do_nothing_worse_than_raise(data: bytes) -> None:
    for kind in READERS:
        for decode in (codec(kind).decode, codec(kind).decode_view):
            try:
                value = decode(memoryview(data))
            except (ValueError, msgspec.DecodeError, RecursionError):
                continue
            except TypeError as problem:
                assert "unhashable" in str(problem)  # noqa: PT017 - a dictionary in a set of anything
                continue
            # What is taken for good is of the type.
            if kind is np.ndarray:
                assert value.nbytes <= len(data)
            else:
                msgspec.convert(value, kind)
    for decode in (codec(object).decode, codec(object).decode_view):
        try:
            inside, buffers = decode(data)
        except ValueError:
            continue
        assert len(inside) + sum(map(len, buffers)) <= len(data)


def test_damage_is_noticed_where_it_can_be() -> None:
    """The test above must not pass because everything is refused, or nothing."""
    for sample, kind in zip(SAMPLES, [np.ndarray, np.ndarray, Job, Tree, list, object], strict=True):
        codec(kind).decode(sample)
        with pytest.raises((ValueError, msgspec.DecodeError)):
            codec(kind).decode(sample[:-1])
