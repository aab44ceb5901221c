"""`SharedArray`: types and shapes, with numpy and without, and who may open which."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus
from kernel_peers import fresh_name
from support import HEADER, Peer, object_files, put_word
from workers import fill_array

Start = Callable[..., Peer]

DTYPES: list[Any] = [
    "d", "B", "?", "e", "l", "float32", "<i2", ">i4", "complex128", "S7", "U3", "M8[ns]", int, float, bool,
    np.uint16, np.dtype(">f8"), [("time", "<i8"), ("level", "<f4", (2,))],
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
]  # fmt: skip
"""Every way to say a type."""

WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None  # as if it were not installed
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numpy" else found(name, *rest)
del sys.modules["numpy"]
import isthmus
"""


@pytest.fixture
def posix() -> Iterator[str]:
    """A name of POSIX shared memory, removed afterwards."""
    name = f"{fresh_name()}-array"
    yield f"posix-shm://{name}"
    Path(f"/dev/shm{name}").unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------- types and shapes


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_what_numpy_has_and_others_get_it_unasked(dtype: Any) -> None:
    expected = np.zeros((2, 3), np.dtype(dtype))
    with isthmus.SharedArray("a", (2, 3), dtype) as array, isthmus.SharedArray.open("a") as other:
        assert array.dtype == other.dtype == expected.dtype
        assert array.shape == other.shape == (2, 3)
        assert array.nbytes == expected.nbytes
        assert np.array_equal(array.array, expected)
        raw = memoryview(array.array.view("u1")).cast("B")
        raw[:] = bytes(range(1, len(raw) + 1))
        assert other.array.tobytes() == array.array.tobytes() != expected.tobytes()
        with isthmus.SharedArray("a", (2, 3), dtype) as third:
            assert third.dtype == expected.dtype


@pytest.mark.parametrize("shape", [(), 0, 5, (5,), (0, 3), (3, 0), (2, 1, 3), (1,) * 20, [2, 2], np.int64(4)])
def test_every_shape(shape: Any) -> None:
    expected = np.zeros(shape, "i4")
    for name in ("a", None):
        with isthmus.SharedArray(name, shape, "i4") as array:
            assert array.shape == array.array.shape == expected.shape
            array.array[...] = 7
            assert (array.array == 7).all()
            assert array.view().nbytes == expected.nbytes
            if array.shape:
                assert len(array) == len(expected)
            else:
                with pytest.raises(TypeError, match="length"):
                    len(array)


@pytest.mark.parametrize("shape", [-1, (2, -3)])
def test_a_negative_shape_is_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="-"):
        isthmus.SharedArray("a", shape)


@pytest.mark.parametrize("dtype", [object, "O", [("a", object)], "V0", ("i4", (2,)), "nonsense", "xyz"])
def test_what_is_no_type_of_memory_is_refused(namespace: Path, dtype: Any) -> None:
    with pytest.raises(TypeError):
        isthmus.SharedArray("a", 3, dtype)
    assert object_files(namespace) == []


def test_more_than_memory_can_have_is_refused() -> None:
    for shape in ((1 << 62, 8), (1 << 63,), (1 << 31, 1 << 31, 1 << 31)):
        for name in ("a", None):
            with pytest.raises((isthmus.NoSpaceError, isthmus.TooLarge, OverflowError)):
                isthmus.SharedArray(name, shape)


def test_a_type_of_too_many_words_is_refused(namespace: Path) -> None:
    with pytest.raises(TypeError, match="words"):
        isthmus.SharedArray("a", 3, [(f"field_number_{n}", "i4") for n in range(300)])
    assert object_files(namespace) == []


def test_it_behaves_as_an_array() -> None:
    with isthmus.SharedArray("a", (3, 4), "i4") as array:
        array[1] = [1, 2, 3, 4]
        array[2, 3] = 9
        assert array[1, 1] == 2
        assert array[1:, 3].tolist() == [4, 9]
        assert [row.sum() for row in array] == [0, 10, 9]
        assert np.asarray(array).sum() == 19
        assert np.asarray(array) is not array.array
        assert np.shares_memory(np.asarray(array), array.array)
        assert not np.shares_memory(np.array(array), array.array)
        assert np.asarray(array, "f8").dtype == "f8"
        assert (np.add(array, 1) == array.array + 1).all()
        assert repr(array) == "<isthmus.SharedArray 'a', <i4 (3, 4)>"
    assert repr(array) == "<isthmus.SharedArray (closed)>"


# ---------------------------------------------------------------------------------------- opening


def test_another_type_or_shape_is_refused_with_both() -> None:
    with isthmus.SharedArray("a", (3, 4), "i4") as array:
        for make in (isthmus.SharedArray, isthmus.SharedArray.open):
            for shape, dtype, words in [
                ((3, 4), "f4", "<i4.*<f4"),
                ((4, 3), "i4", r"\(3, 4\).*\(4, 3\)"),
                ((300, 4), "i4", r"\(3, 4\).*\(300, 4\)"),
                ((2, 4), "i4", r"\(3, 4\).*\(2, 4\)"),
                (12, "i4", r"\(3, 4\).*\(12,\)"),
                ((3, 4), ">i4", "<i4.*>i4"),
            ]:
                with pytest.raises(isthmus.IncompatibleError, match=words):
                    make("a", shape, dtype)
        assert len(isthmus.objects()[0].attached) == 1
        array.grow(5)
        for shape in ((3, 4), (5, 4), None):
            with isthmus.SharedArray("a", shape, "i4") as other:
                assert other.shape == (5, 4)
        with pytest.raises(isthmus.IncompatibleError, match=r"\(5, 4\).*\(4, 4\)"):
            isthmus.SharedArray("a", (4, 4), "i4")


def test_create_insists_on_new_and_open_on_existing(namespace: Path) -> None:
    for make in (isthmus.SharedArray.open, isthmus.SharedArray):
        with pytest.raises(FileNotFoundError, match="absent"):
            make("absent")
    with isthmus.SharedArray.create("a", 3), pytest.raises(FileExistsError, match="a"):
        isthmus.SharedArray.create("a", 3)
    with pytest.raises(TypeError, match="shape"):
        isthmus.SharedArray(dtype="d")
    with isthmus.SharedArray("kept", 3, persistent=True) as array:
        array[2] = 1.5
    with isthmus.SharedArray("kept") as array:
        assert array.array.tolist() == [0, 0, 1.5]
        array.unlink()
    assert object_files(namespace) == []


def test_memory_and_arrays_are_told_apart_and_an_array_is_memory() -> None:
    with isthmus.SharedMemory("m", 24), pytest.raises(isthmus.IncompatibleError, match="SharedMemory"):
        isthmus.SharedArray("m")
    with isthmus.SharedArray("a", 3, "d") as array, isthmus.SharedMemory.open("a") as memory:
        array[1] = 2.5
        assert memory.view("d").tolist() == [0, 2.5, 0]
        assert array.memory.size == memory.size == 24
        memory.grow(36)
        assert array.shape == (4,), "whole rows only"


def test_what_a_stranger_wrote_as_type_is_refused(namespace: Path) -> None:
    isthmus.SharedArray("a", 3, "d", persistent=True).close()
    path = namespace / "a"
    sound = path.read_bytes()
    length = len(repr(("<f8", (3,))))
    for text in (b"('O',(3,))", b"('<f8', -3)", b"\xff" * 15, b"('<f8', (99999,))", b"__import__('os')"):
        path.write_bytes(sound)
        put_word(path, HEADER + 8, len(text))
        with path.open("r+b") as file:
            file.seek(HEADER + 16)
            file.write(text)
        with pytest.raises((isthmus.CorruptError, isthmus.IncompatibleError)):
            isthmus.SharedArray.open("a")
    path.write_bytes(sound)
    put_word(path, HEADER + 8, 5000)
    with pytest.raises(isthmus.CorruptError, match="5000"):
        isthmus.SharedArray.open("a")
    put_word(path, HEADER + 8, length)
    isthmus.SharedArray.open("a").close()


# ---------------------------------------------------------------------------------------- growing, lifetime


@pytest.mark.parametrize("name", ["a", None])
def test_the_first_axis_grows_for_all(name: str | None) -> None:
    with isthmus.SharedArray(name, (2, 3), "i4") as array, pickle.loads(pickle.dumps(array)) as other:
        old = array.array
        old[1, 2] = 5
        assert other.grow(1000) == (1000, 3)
        assert array.shape == array.array.shape == (1000, 3)
        array[999, 2] = 7
        assert other[999, 2] == 7
        assert old.shape == (2, 3)
        old[0, 0] = 1
        assert other[0, 0] == 1
        assert array.grow(10) == (1000, 3)
        assert array.array.sum() == 13


def test_what_cannot_grow_says_so() -> None:
    for shape in ((), (3, 0)):
        with isthmus.SharedArray(None, shape) as array, pytest.raises(ValueError, match="grow"):
            array.grow(5)
    with isthmus.SharedArray("a", (0, 3)) as array:
        assert array.grow(2) == (2, 3)
        with isthmus.SharedArray("a", readonly=True) as only, pytest.raises(PermissionError):
            only.grow(9)


def test_arrays_outlive_close_and_everything_goes_with_the_last() -> None:
    array = isthmus.SharedArray("a", (100, 100))
    part = array.array[5:7]
    view = array.view()
    array.close()
    array.close()
    gc.collect()
    part[...] = 2.5
    assert view[6, 99] == 2.5
    calls: list[Callable[[], object]] = [
        lambda: array.array,
        array.view,
        lambda: array.shape,
        lambda: array[0],
        lambda: array.grow(200),
        lambda: pickle.dumps(array),
        array.unlink,
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    where = os.environ["ISTHMUS_NAMESPACE"] + "/a"
    assert where in Path("/proc/self/maps").read_text()
    del part, view
    gc.collect()
    assert where not in Path("/proc/self/maps").read_text()


def test_readonly_and_sealed_arrays_cannot_be_written_to() -> None:
    with isthmus.SharedArray("a", 3) as array, isthmus.SharedArray.open("a", readonly=True) as only:
        array[1] = 1.5
        assert (only[1], only.readonly) == (1.5, True)
        with pytest.raises(ValueError, match="read-only"):
            only[1] = 2
        assert only.view().readonly
    with isthmus.SharedArray(None, 3) as array:
        array[1] = 1.5
        array.memory.seal("write")
        with pytest.raises(ValueError, match="read-only"):
            array[1] = 2
        assert (array[1], array.readonly) == (1.5, True)


# ---------------------------------------------------------------------------------------- without numpy


def test_without_numpy_it_is_a_memoryview(spawn: Start) -> None:
    with isthmus.SharedArray("a", (2, 3), "f4") as array:
        array[1, 2] = 0.5
        peer = spawn(
            WITHOUT_NUMPY
            + """
with isthmus.SharedArray("a") as array:
    view = array.array
    assert type(view) is memoryview and (view.format, view.shape) == ("f", (2, 3)), view
    assert view[1, 2] == array[1, 2] == 0.5
    view[0, 1] = 2.5
    assert array.dtype == "<f4" and array.shape == (2, 3)
    array.grow(3)
    array.array[2, 2] = 4
with isthmus.SharedArray("b", (2, 2), "q") as array, isthmus.SharedArray("a", (2, 3), "float32"):
    array[1, 1] = -3
    assert array.array.tolist() == [[0, 0], [0, -3]] and len(array) == 2
for dtype in ("complex128", [("a", "i4")], "M8[ns]"):
    try:
        isthmus.SharedArray("c", 3, dtype)
    except isthmus.Unsupported as error:
        assert "numpy" in str(error), error
    else:
        raise AssertionError(dtype)
assert "numpy" not in sys.modules
"""
        )
        peer.finish()
        assert array.array.tolist() == [[0, 2.5, 0], [0, 0, 0.5], [0, 0, 4]]


def test_elements_that_memoryview_does_not_have(spawn: Start) -> None:
    with isthmus.SharedArray("a", 3, ">i4") as array, isthmus.SharedArray("c", 3, "c16") as complexes:
        for each in (array, complexes):
            with pytest.raises(isthmus.Unsupported, match="memoryview"):
                each.view()
        array[1] = 258
        assert bytes(array.memory[4:8]) == b"\0\0\1\2"
        spawn(
            WITHOUT_NUMPY
            + """
array = isthmus.SharedArray("a")
try:
    array.array
except isthmus.Unsupported:
    assert bytes(array.memory.view("B", 4, offset=4)) == b"\\0\\0\\1\\2"
else:
    raise AssertionError("big-endian numbers without numpy")
"""
        ).finish()


# ---------------------------------------------------------------------------------------- other processes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("name", ["a", None])
def test_it_goes_to_processes_of_every_start_method(name: str | None, method: str) -> None:
    with isthmus.SharedArray(name, (4, 1000), [("x", "<i4"), ("y", "<f8")]) as array:
        assert array.array.dtype.names == ("x", "y")
    with isthmus.SharedArray(name, (4, 1000), "i4") as array:
        context: Any = multiprocessing.get_context(method)
        children = [context.Process(target=fill_array, args=(array, n)) for n in (1, 2, 3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        assert [set(row.tolist()) for row in array] == [{0}, {1}, {2}, {3}]


def test_posix_memory_of_others_is_seen_as_the_array_it_is_said_to_be(posix: str) -> None:
    with isthmus.SharedMemory.create(posix, 4096) as memory:
        memory.view("d")[3] = 1.5
        with (
            isthmus.SharedArray(posix, (2, 3), "d") as array,
            isthmus.SharedArray.open(posix, dtype="d") as all_,
        ):
            assert (array.shape, all_.shape) == ((2, 3), (512,))
            assert array[1, 0] == all_[3] == 1.5
            assert array.grow(200) == (200, 3)
            assert memory.size == 4800
            assert all_.shape == (600,)
            assert pickle.loads(pickle.dumps(array)).shape == (200, 3)
        with pytest.raises(TypeError, match="dtype"):
            isthmus.SharedArray(posix, 3)
        with pytest.raises(isthmus.IncompatibleError, match="4800"):
            isthmus.SharedArray(posix, (1000, 3), "d")
        with pytest.raises(isthmus.IncompatibleError, match="4800"):
            isthmus.SharedArray.open(posix, (1000, 3), "d")
