"""`type=numpy.ndarray`: every kind of array there and back, views, places to fill, damaged headers."""

from __future__ import annotations

import gc
import io
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from isthmus._codec import array_at, array_layout
from messages import (
    codec,
    message,
    sent,
)

STRUCTURED = np.dtype([("id", "<u4"), ("at", "M8[us]"), ("xyz", ">f4", (3,)), ("tag", "S5")])
PADDED = np.dtype({"names": ["a", "b"], "formats": ["u1", "<f8"], "offsets": [0, 8], "itemsize": 24})
ALIGNED = np.dtype([("a", "u1"), ("b", "f8")], align=True)
ARRAYS: dict[str, Any] = {
    **{f"dtype {code}": np.arange(12).astype(code).reshape(3, 4) for code in "?bBhHiIlLqQefdgFDG"},
    "big-endian": np.arange(5, dtype=">i4"),
    "datetime": np.array(["2026-01-02", "NaT"], "M8[D]"),
    "timedelta": np.arange(3, dtype="m8[25s]"),
    "bytes": np.array([b"a", b"bcd"]),
    "text": np.array(["a", "héé"]),
    "void": np.arange(9, dtype="u1").view("V3"),
    "structured": np.zeros((2, 3), STRUCTURED),
    "padded": np.ones(4, PADDED),
    "aligned": np.ones(4, ALIGNED),
    "0-d": np.array(3.5),
    "0-d structured": np.zeros((), STRUCTURED),
    "empty": np.empty((0,), "f4"),
    "empty in the middle": np.empty((3, 0, 2), "M8[s]"),
    "Fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "Fortran datetime": np.asfortranarray(np.zeros((3, 4), "M8[s]")),
    "every other": np.arange(20)[::2],
    "backwards": np.arange(20)[::-1],
    "inner axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "read-only": np.frombuffer(b"abcdef", "u1"),
    "64 dimensions": np.zeros((1,) * 32),
    "large": np.arange(200_000, dtype="u2").reshape(400, 500),
}


def assert_same_array(one: Any, other: Any) -> None:
    assert type(one) is np.ndarray
    assert one.dtype == other.dtype
    assert one.dtype.byteorder == other.dtype.byteorder
    assert one.shape == other.shape
    if one.dtype in (PADDED, ALIGNED):  # what is between the fields is nobody's
        assert one.tolist() == np.asarray(other).tolist()
    else:
        assert one.tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_arrives_as_it_was_and_writable(name: str) -> None:
    array = ARRAYS[name]
    arrived = sent(np.ndarray, array)
    assert_same_array(arrived, array)
    assert arrived.flags.writeable
    assert arrived.flags.owndata or arrived.base.flags.owndata
    if array.flags.f_contiguous:
        assert arrived.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("name", ARRAYS)
def test_the_message_is_the_npy_format(name: str) -> None:
    array = ARRAYS[name]
    data = message(np.ndarray, array)
    assert_same_array(np.load(io.BytesIO(data)), array)
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    assert_same_array(codec(np.ndarray).decode(out.getvalue()), array)


@pytest.mark.parametrize("name", ["dtype d", "Fortran", "structured", "datetime"])
def test_what_is_contiguous_is_not_copied_for_sending(name: str) -> None:
    array = ARRAYS[name].copy(order="K")
    parts: Any = codec(np.ndarray).encode(array)
    assert len(parts[0]) % 64 == 0
    assert np.shares_memory(parts[1], array)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_view_of_an_array_lies_in_the_buffer(name: str) -> None:
    memory = bytearray(message(np.ndarray, ARRAYS[name]))
    view = codec(np.ndarray).decode_view(memory)
    assert_same_array(view, ARRAYS[name])
    assert view.flags.writeable
    assert not codec(np.ndarray).decode_view(bytes(memory)).flags.writeable
    assert not codec(np.ndarray).decode_view(memoryview(memory).toreadonly()).flags.writeable
    if view.size:
        with pytest.raises(BufferError):
            memory.extend(b"!")  # held as long as the array is
        part = view.reshape(-1, order="A")[:1]
        del view
        gc.collect()
        with pytest.raises(BufferError):
            memory.extend(b"!")
        part.view("V" + str(part.itemsize))[...] = b"\xaa" * part.itemsize
        assert b"\xaa" * part.itemsize in memory
        del part
        gc.collect()
    memory.extend(b"!")


def test_subclasses_are_sent_as_arrays(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "map", "f4", "w+", shape=(3, 4))
    mapped[:] = 5
    assert_same_array(sent(np.ndarray, mapped), np.full((3, 4), 5, "f4"))
    records = np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    assert sent(np.ndarray, records)["b"][0] == 2.0


def test_what_has_a_buffer_or_dlpack_is_sent_by_way_of_an_array() -> None:
    class Tensor:
        """What torch, jax and others are to numpy.from_dlpack."""

        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    original = np.arange(6.0).reshape(2, 3)
    array = np.from_dlpack(Tensor(original))
    assert np.shares_memory(array, original)
    parts: Any = codec(np.ndarray).encode(array)
    assert np.shares_memory(parts[1], original)
    assert_same_array(sent(np.ndarray, array), original)
    assert_same_array(sent(np.ndarray, np.asarray(memoryview(b"abc"))), np.frombuffer(b"abc", "u1"))


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ([1, 2], "list"), (5, "int"), (np.float64(1.5), "float64"), (b"abc", "bytes"), (None, "NoneType"),
        (np.ma.masked_array([1, 2], [False, True]), "mask"),
        (np.array([1, "a", None], object), "object"),
        (np.zeros(2, [("a", "O")]), "object"),
        (np.zeros(2, np.dtype([])), "size"),
        (np.zeros(2, [("🦀", "i4")]), "Latin-1"),
        (np.zeros(1, [("f" * 20 + str(i), "u1") for i in range(500)]), "words"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_plain_elements_is_refused_to_the_sender(value: Any, word: str) -> None:
    with pytest.raises(TypeError, match=word):
        codec(np.ndarray).encode(value)


def npy_message(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A message with a header of one's own."""
    return b"\x93NUMPY" + version + len(text.encode()).to_bytes(2, "little") + text.encode() + data


def described(
    descr: Any = "<f8", shape: Any = (2,), fortran_order: Any = False, size: int = 16, **more: Any
) -> bytes:
    fields = {"descr": descr, "fortran_order": fortran_order, "shape": shape, **more}
    return npy_message(repr(fields) + "\n", bytes(size))


def test_a_header_made_by_hand_is_read() -> None:
    """Otherwise the next test would prove nothing."""
    assert codec(np.ndarray).decode(described()).tolist() == [0.0, 0.0]


BAD_ARRAYS: dict[str, bytes] = {
    "empty": b"",
    "magic only": b"\x93NUMPY",
    "short head": b"\x93NUMPY\x01\x00\x76",
    "no text": b"\x93NUMPY\x01\x00\x76\x00",
    "other magic": b"x" + described()[1:],
    "version 2": npy_message(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", bytes(16), b"\x02\x00"
    ),
    "version 9": npy_message(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", bytes(16), b"\x09\x00"
    ),
    "cut in the header": described()[:40],
    "cut by one": described()[:-1],
    "one too many": described() + b"\0",
    "longest header": b"\x93NUMPY\x01\x00\xff\xff" + bytes(100_000),
    "not Python": npy_message("{'descr': "),
    "zeros": npy_message("\0" * 50),
    "a list": npy_message("[1, 2]"),
    "code": npy_message("__import__('os').abort()"),
    "field missing": npy_message("{'descr': '<f8', 'shape': (2,)}", bytes(16)),
    "field too many": described(more=1),
    "deep": npy_message("(" * 9000),
    "deep minus": npy_message("-" * 9000 + "1"),
    "deep list": described(descr=[], size=0).replace(b"[]", b"[" * 3000 + b"]" * 3000),
    "long number": npy_message("9" * 9000),
    "too long to be trusted": npy_message(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }" + " " * 10_000, bytes(16)
    ),
    "dtype object": described(descr="|O"),
    "dtype object inside": described(descr=[("a", "<f4"), ("b", "|O")]),
    "dtype nonsense": described(descr="nonsense"),
    "dtype number": described(descr=8),
    "dtype None": described(descr=None),
    "dtype pair": described(descr=("<f8", (1,))),
    "dtype with a shape": described(descr="(2,)f4"),
    "dtype of no bytes": described(descr="|V0"),
    "dtype of no text": described(descr="<U0"),
    "dtype of nothing": described(descr=[]),
    "dtype of odd things": described(descr=[1, 2]),
    "dtype of huge things": described(descr=[("a", "<f8", (2**40, 2**40))]),
    "order": described(fortran_order=2),
    "shape number": described(shape=2),
    "shape list": described(shape=[2]),
    "shape text": described(shape=("2",)),
    "shape True": described(shape=(True,), size=8),
    "shape float": described(shape=(2.0,)),
    "shape negative": described(shape=(-2,)),
    "shape twice negative": described(shape=(-1, -2)),
    "shape too large": described(shape=(3,)),
    "shape too small": described(shape=(1,)),
    "shape of 2**61": described(shape=(2**61,)),
    "shape that wraps round": described(shape=(2**32, 2**32), size=0),
    "shape beyond numbers": described(shape=(2**70,), size=0),
    "no elements, beyond numbers": described(shape=(0, 2**70), size=0),
    "no elements, of 2**63 - 1": described(shape=(0, 2**63 - 1, 5), size=0),
    "too many dimensions": described(shape=(1,) * 100, size=8),
    "too many dimensions, empty": described(shape=(0,) * 100, size=0),
}


@pytest.mark.parametrize("how", BAD_ARRAYS)
@pytest.mark.parametrize("view", [False, True])
def test_a_damaged_array_is_a_value_error(how: str, view: bool) -> None:
    decode = codec(np.ndarray).decode_view if view else codec(np.ndarray).decode
    for _ in range(2):  # the second time from what is remembered
        with pytest.raises(ValueError):  # noqa: PT011 - many reasons, some in NumPy's words
            decode(BAD_ARRAYS[how])


def test_what_is_remembered_of_arrays_is_bounded() -> None:
    from isthmus._codec import _array

    for size in range(1000):
        assert sent(np.ndarray, np.zeros(size, "u1")).shape == (size,)
    assert len(_array._headers) <= 256
    assert len(_array._layouts) <= 256


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 4), "f4"), (5, None), ((), "M8[s]"), ((2, 0), "u1"), ([2, 3], STRUCTURED), ((np.int64(3),), ">i2")],
)
def test_an_array_is_filled_in_its_place(shape: Any, dtype: Any) -> None:
    header, total = array_layout(shape, dtype)
    expected = np.ones(shape, dtype)
    assert message(np.ndarray, expected)[: len(header)] == header
    assert total == len(message(np.ndarray, expected))
    memory = bytearray(b"\xff" * total)  # nothing in it is looked at
    array = array_at(memory, header)
    assert array.flags.writeable
    assert array.shape == expected.shape
    assert array.dtype == expected.dtype
    array[...] = expected
    memory[: len(header)] = header
    assert_same_array(codec(np.ndarray).decode(memory), expected)


def test_the_memory_of_an_array_being_filled_is_held() -> None:
    header, total = array_layout(3, "f4")
    memory = bytearray(total)
    array = array_at(memory, header)
    with pytest.raises(BufferError):
        memory.extend(b"!")
    del array
    memory.extend(b"!")


def test_a_place_for_an_array_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        array_layout((2, -1), "f4")
    with pytest.raises(TypeError):
        array_layout("ab", "f4")
    with pytest.raises(TypeError):
        array_layout(2.5, "f4")
    with pytest.raises(TypeError, match="object"):
        array_layout(3, object)
    header, total = array_layout(3, "f4")
    for size in (total - 1, total + 1, 0):
        with pytest.raises(ValueError, match="takes"):
            array_at(bytearray(size), header)


def test_every_header_is_one_that_numpy_writes_itself() -> None:
    """So that a file of it can be mapped, and a C program may read it by the book."""
    for array in ARRAYS.values():
        header = message(np.ndarray, array)[: 10 + int.from_bytes(message(np.ndarray, array)[8:10], "little")]
        assert npy.read_magic(io.BytesIO(header)) == (1, 0)
        assert len(header) % 64 == 0
