"""`SharedMemory` by bare names and anonymous, within a process; for others and POSIX see the files beside."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus
from support import HEADER, Peer, object_files, put_word

Start = Callable[..., Peer]

CONTENT = HEADER + 4096
"""Where the content of a named one begins in its file."""

MAKERS: list[Any] = [
    pytest.param(lambda size: isthmus.SharedMemory("m", size), id="named"),
    pytest.param(lambda size: isthmus.SharedMemory(size=size), id="anonymous"),
]


def mapped(text: str) -> bool:
    """Whether this process has something of that name mapped."""
    return text in Path("/proc/self/maps").read_text()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# ---------------------------------------------------------------------------------------- bytes and views


@pytest.mark.parametrize("make", MAKERS)
def test_bytes_are_zero_at_first_and_seen_by_all_views(make: Callable[[int], isthmus.SharedMemory]) -> None:
    with make(5000) as memory:
        assert (memory.size, len(memory), bytes(memory.view())) == (5000, 5000, bytes(5000))
        view = memory.view()
        view[10:13] = b"abc"
        memory[4999] = 7
        assert bytes(memory[9:14]) == b"\0abc\0"
        assert memory.view()[4999] == memory[-1] == 7
        with pytest.raises(IndexError):
            memory[5000]
        with pytest.raises(ValueError, match="different structures"):
            memory[0:3] = b"four"


def test_it_is_copied_and_gone_through_as_bytes_are(tmp_path: Path) -> None:
    text = bytes(range(256)) * 4000
    with (
        isthmus.SharedMemory(size=len(text)) as memory,
        isthmus.MappedFile(tmp_path / "f", len(text)) as file,
    ):
        for each in (memory, file):
            each[:] = text
            assert bytes(each) == bytearray(each) == text
            assert list(each) == list(text)
            assert len(each) == len(text)
            assert 255 in each


@pytest.mark.parametrize("make", MAKERS)
def test_typed_views_and_arrays_are_the_same_bytes(make: Callable[[int], isthmus.SharedMemory]) -> None:
    with make(100) as memory:
        numbers = memory.view("i", (2, 3), offset=4)
        numbers[1, 2] = -5
        assert numbers.shape == (2, 3)
        assert memory.view("int32", 6, offset=4).tolist() == [0, 0, 0, 0, 0, -5]
        array = memory.array("<i4", (2, 3), offset=4)
        assert array[1, 2] == -5
        array[0, 0] = 9
        assert numbers[0, 0] == 9
        assert memory.array("complex64", offset=4).shape == (12,)
        for dtype, shape, offset in [
            ("d", None, 0),
            ("d", 13, 0),
            ("B", 1, 100),
            ("B", None, 101),
            ("B", 1, -1),
        ]:
            for look in (memory.view, memory.array):
                with pytest.raises(ValueError, match=r"bytes|element"):
                    look(dtype, shape, offset=offset)
        with pytest.raises(ValueError, match="-1"):
            memory.view("B", (-1,))
        with pytest.raises(isthmus.Unsupported, match="array"):
            memory.view(">i4", 1)
        with pytest.raises(TypeError, match="references"):
            memory.array(object, 1)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097])
@pytest.mark.parametrize("make", MAKERS)
def test_any_size(make: Callable[[int], isthmus.SharedMemory], size: int) -> None:
    with make(size) as memory:
        memory.view()[:] = b"x" * size
        assert bytes(memory.view()) == b"x" * size
        assert memory.array("u1").tolist() == [120] * size
        assert memory.grow(size + 1) == size + 1
        assert memory[size] == 0


@pytest.mark.parametrize("size", [-1, -(1 << 40)])
def test_a_negative_size_is_refused(size: int) -> None:
    for name in ("m", None, "posix-shm:///isthmus-test-negative"):
        with pytest.raises(ValueError, match=str(size)):
            isthmus.SharedMemory(name, size)


@pytest.mark.parametrize("size", [1 << 45, (1 << 63) - 1, 1 << 63, 1 << 70])
def test_more_than_there_is_is_refused_and_leaves_nothing(namespace: Path, size: int) -> None:
    for name in ("m", None, "posix-shm:///isthmus-test-huge"):
        with pytest.raises((isthmus.NoSpaceError, isthmus.TooLarge, OverflowError)):
            isthmus.SharedMemory(name, size)
    assert object_files(namespace) == []
    assert not Path("/dev/shm/isthmus-test-huge").exists()
    with isthmus.SharedMemory("m", 100) as memory:
        with pytest.raises((isthmus.NoSpaceError, isthmus.TooLarge, OverflowError)):
            memory.grow(size)
        assert memory.size == 100


# ---------------------------------------------------------------------------------------- views keep memory


@pytest.mark.parametrize("make", MAKERS)
def test_views_outlive_close_and_the_memory_goes_with_the_last(
    make: Callable[[int], isthmus.SharedMemory],
) -> None:
    gc.collect()  # what earlier tests have left
    before = descriptors()
    memory = make(1 << 20)
    where = "memfd:isthmus-" if memory.name is None else os.environ["ISTHMUS_NAMESPACE"] + "/m"
    view, array = memory.view(), memory.array("u1")
    part = view[100:200]
    memory.close()
    assert memory.closed
    view[100] = 1
    array[101] = 2
    assert bytes(part[:2]) == b"\1\2"
    assert descriptors() == before, "a view keeps a descriptor"
    del view, array
    gc.collect()
    part[3] = 4
    assert mapped(where)
    del part
    gc.collect()
    assert not mapped(where)


def test_a_name_goes_with_the_last_handle_whatever_views_there_are(namespace: Path) -> None:
    memory = isthmus.SharedMemory("m", 100)
    view = memory.view()
    memory.close()
    assert object_files(namespace) == []
    view[0] = 1
    with isthmus.SharedMemory("m", 100) as other:
        assert other[0] == 0, "another memory of that name"


@pytest.mark.parametrize("make", MAKERS)
def test_numpy_arrays_made_of_it_in_any_way_survive_close(
    make: Callable[[int], isthmus.SharedMemory],
) -> None:
    memory = make(800)
    ways = [
        np.asarray(memory.view("d")),
        np.frombuffer(memory.view(), "f8"),
        np.ndarray((100,), "f8", memory.view()),
        memory.array("f8")[::2],
    ]
    memory.close()
    gc.collect()
    for array in ways:
        array[3] = 1.5
    assert [array[3] for array in ways] == [1.5] * 4


@pytest.mark.parametrize("make", MAKERS)
def test_a_handle_that_is_only_dropped_is_closed(
    namespace: Path, make: Callable[[int], isthmus.SharedMemory]
) -> None:
    gc.collect()  # what earlier tests have left
    before = descriptors()
    memory = make(100)
    memory[0] = 1
    del memory
    gc.collect()
    assert descriptors() == before
    assert object_files(namespace) == []


def every_call(memory: isthmus.SharedMemory) -> list[Callable[[], object]]:
    return [
        memory.view,
        lambda: memory.array("B"),
        lambda: memory[0],
        lambda: memory.__setitem__(0, 1),
        lambda: len(memory),
        lambda: memory.size,
        lambda: memory.readonly,
        lambda: memory.seals,
        lambda: memory.grow(100),
        lambda: memory.seal("grow"),
        memory.fileno,
        memory.unlink,
        memory.__enter__,
        lambda: pickle.dumps(memory),
    ]


def test_a_closed_handle_says_so_in_every_call() -> None:
    for memory in (isthmus.SharedMemory("m", 10), isthmus.SharedMemory(size=10)):
        memory.close()
        memory.close()
        for call in every_call(memory):
            with pytest.raises(isthmus.ClosedError):
                call()
        assert repr(memory) == "<isthmus.SharedMemory (closed)>"


# ---------------------------------------------------------------------------------------- names


def test_create_insists_on_new_and_open_on_existing(namespace: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        isthmus.SharedMemory.open("absent")
    first = isthmus.SharedMemory.create("present", 10)
    with pytest.raises(FileExistsError, match="present"):
        isthmus.SharedMemory.create("present", 10)
    second, third = isthmus.SharedMemory.open("present"), isthmus.SharedMemory("present", 5)
    for handle in (first, second, third):
        assert (handle.name, handle.size) == ("present", 10)
        handle.close()
    assert object_files(namespace) == []


def test_size_is_what_it_has_at_least() -> None:
    with isthmus.SharedMemory("m", 100) as memory:
        with pytest.raises(isthmus.IncompatibleError, match=r"size=100.*size=101"):
            isthmus.SharedMemory("m", 101)
        memory.grow(101)
        with isthmus.SharedMemory("m", 101) as other, isthmus.SharedMemory("m") as third:
            assert other.size == third.size == 101


def test_without_size_a_new_one_is_empty() -> None:
    with isthmus.SharedMemory("m") as memory:
        assert (memory.size, bytes(memory.view())) == (0, b"")
        memory.grow(3)
        memory[2] = 1
    with pytest.raises(TypeError, match="size"):
        isthmus.SharedMemory()


def test_persistent_memory_keeps_its_content_without_anyone(namespace: Path) -> None:
    with isthmus.SharedMemory("kept", 10, persistent=True) as memory:
        memory[0:4] = b"kept"
        memory.grow(5000)
    assert object_files(namespace) == ["kept"]
    assert isthmus.clean() == []
    with isthmus.SharedMemory("kept", persistent=True) as memory:
        assert (bytes(memory[:4]), memory.size) == (b"kept", 5000)
        with pytest.raises(isthmus.IncompatibleError, match=r"persistent=true.*false"):
            isthmus.SharedMemory("kept", persistent=False)
        memory.unlink()
        with pytest.raises(FileNotFoundError):
            memory.unlink()
        assert bytes(memory[:4]) == b"kept"


def test_arguments_that_contradict_each_other_are_refused(other_namespace: Path) -> None:
    makers: list[Callable[[], object]] = [
        lambda: isthmus.SharedMemory(size=1, persistent=True),
        lambda: isthmus.SharedMemory(size=1, readonly=True),
        lambda: isthmus.SharedMemory(size=1, namespace=other_namespace),
        lambda: isthmus.SharedMemory("m", 1, permissions=0o600),
        lambda: isthmus.SharedMemory("posix-shm:///isthmus-test-x", 1, namespace=other_namespace),
        lambda: isthmus.SharedMemory("a/b", 1),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=r"name|permissions|readonly"):
            make()
    with isthmus.SharedMemory("m", 1, namespace=other_namespace) as memory:
        assert object_files(other_namespace) == ["m"]
        assert pickle.loads(pickle.dumps(memory)).size == 1


def test_kinds_are_told_apart() -> None:
    with isthmus.SharedMemory("m", 10), isthmus.Value("v"):
        with pytest.raises(isthmus.IncompatibleError, match="m is a shared memory, not a value"):
            isthmus.Value("m")
        with pytest.raises(isthmus.IncompatibleError, match="v is a value, not a shared memory"):
            isthmus.SharedMemory("v", 10)


def test_a_shm_url_is_a_bare_name() -> None:
    with isthmus.SharedMemory("shm://m", 10) as memory, isthmus.SharedMemory.open("m") as same:
        memory[0] = 7
        assert (same[0], memory.name) == (7, "m")
    with isthmus.SharedArray("shm://a", 3) as array, isthmus.SharedArray.open("shm://a") as other:
        assert (array.name, other.shape) == ("a", (3,))


@pytest.mark.parametrize("wrong", [1000, (3, 4), b"m"])
def test_what_is_no_name_is_refused_and_said(wrong: Any) -> None:
    for make in (isthmus.SharedMemory, isthmus.SharedArray):
        with pytest.raises(TypeError, match="is no name"):
            make(wrong)


def test_what_is_no_size_is_refused(tmp_path: Path) -> None:
    wrong: Any
    for wrong in ("1M", 1.5):
        with pytest.raises(TypeError, match="integer"):
            isthmus.SharedMemory("m", wrong)
        with pytest.raises(TypeError, match="integer"):
            isthmus.MappedFile(tmp_path / "file", wrong)
    assert not (tmp_path / "file").exists()


def test_objects_and_ls_show_it() -> None:
    with isthmus.SharedMemory("m", 10) as memory:
        memory.grow(3000)
        (found,) = isthmus.objects()
        assert (found.name, found.kind, found.capacity, found.size) == ("m", "memory", 3000, CONTENT + 3000)
        assert [pid for pid, _ in found.attached] == [os.getpid()]
        assert (found.problem, found.depth, found.value) == (None, None, None)
        seen = isthmus.inspect("m")
        assert (seen.kind, seen.state, seen.attributes) == ("memory", {"size": 3000}, {})
    with isthmus.SharedArray("a", (3, 4), "f4"):
        assert isthmus.inspect("a").attributes == {"array": "('<f4', (3, 4))"}


def test_what_was_cut_or_written_by_a_stranger_is_refused(namespace: Path) -> None:
    path = namespace / "m"
    with isthmus.SharedMemory("m", 10_000, persistent=True) as memory:
        memory[9999] = 1
    sound = path.read_bytes()
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: os.truncate(path, CONTENT + 9999), "truncated"),
        (lambda: os.truncate(path, CONTENT), "truncated"),
        (lambda: os.truncate(path, CONTENT - 1), "truncated"),
        (lambda: os.truncate(path, 100), "truncated"),
        (lambda: put_word(path, HEADER, 10_001), "10001"),
        (lambda: put_word(path, HEADER, (1 << 64) - 1), "truncated"),
        (lambda: put_word(path, 8, 99, 4), "layout version 99"),
        (lambda: put_word(path, 0x20, HEADER), "begins"),
        (lambda: put_word(path, 0x20, CONTENT + 4096), "begins"),
    ]
    for harm, word in cases:
        path.write_bytes(sound)
        harm()
        for make in (isthmus.SharedMemory, isthmus.SharedMemory.open):
            with pytest.raises((isthmus.IncompatibleError, isthmus.CorruptError), match=word):
                make("m")
        (found,) = isthmus.objects()
        if word != "begins":
            assert found.problem
            assert word in found.problem
            assert isthmus.inspect("m").problem == found.problem
    path.write_bytes(sound + bytes(5000))  # longer: somebody was killed while it grew
    with isthmus.SharedMemory.open("m") as memory:
        assert (memory.size, memory[9999]) == (10_000, 1)
        memory.grow(12_000)
        os.truncate(path, CONTENT + 11_000)  # while it is open
        with pytest.raises(isthmus.IncompatibleError, match="truncated"):
            memory.view()


def test_a_sparse_copy_is_reserved_before_it_is_used(namespace: Path) -> None:
    isthmus.SharedMemory("m", 1 << 20, persistent=True).close()
    head = (namespace / "m").read_bytes()[:CONTENT]
    (namespace / "m").unlink()
    with (namespace / "m").open("wb") as file:
        file.write(head)
        file.truncate(CONTENT + (1 << 20))
    with isthmus.SharedMemory.open("m"):
        assert (namespace / "m").stat().st_blocks * 512 >= 1 << 20


# ---------------------------------------------------------------------------------------- growing


@pytest.mark.parametrize("make", MAKERS)
def test_growth_moves_nothing_and_is_seen_by_all(make: Callable[[int], isthmus.SharedMemory]) -> None:
    with make(10) as memory, pickle.loads(pickle.dumps(memory)) as other:
        old = memory.view()
        old[9] = 9
        assert other.grow(1 << 20) == 1 << 20
        assert memory.size == len(memory.view()) == 1 << 20
        memory[1 << 19] = 5
        assert other[1 << 19] == 5
        assert len(old) == 10
        old[0] = 1
        assert other[0] == 1
        assert other[9] == 9
        assert memory.grow(5) == 1 << 20, "it never becomes smaller"


def test_what_is_there_was_reserved(namespace: Path) -> None:
    with isthmus.SharedMemory("m", 100_000) as memory, isthmus.SharedMemory(size=100_000) as anonymous:
        memory.grow(1 << 20)
        anonymous.grow(1 << 20)
        assert (namespace / "m").stat().st_blocks * 512 >= 1 << 20
        assert os.fstat(anonymous.fileno()).st_blocks * 512 >= 1 << 20


@pytest.mark.parametrize("make", MAKERS)
def test_closed_while_another_thread_grows_it(make: Callable[[int], isthmus.SharedMemory]) -> None:
    """The other thread hears of it, and of nothing else."""

    def grow(memory: isthmus.SharedMemory, begun: threading.Event) -> int:
        with contextlib.suppress(isthmus.ClosedError):
            for size in itertools.count(1000, 5000):
                memory.grow(size)
                memory.view()[size - 1] = 1
                begun.set()
                if size > 1 << 22:
                    return size
        return 0

    ends = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(50):
            memory, begun = make(10), threading.Event()
            growing = pool.submit(grow, memory, begun)
            begun.wait()
            memory.close()
            ends.append(growing.result())
    assert 0 in ends


# ---------------------------------------------------------------------------------------- read-only, seals


def test_a_readonly_handle_sees_and_changes_nothing() -> None:
    with isthmus.SharedMemory("m", 10) as memory, isthmus.SharedMemory.open("m", readonly=True) as only:
        memory[3] = 3
        assert (only[3], only.readonly, memory.readonly) == (3, True, False)
        assert not only.array("B").flags.writeable
        with pytest.raises(TypeError, match="read-only"):
            only[3] = 4
        with pytest.raises(TypeError, match="read-only"):
            only.view()[3] = 4
        with pytest.raises(PermissionError):
            only.grow(20)
        memory.grow(20)
        memory[19] = 1
        copy = pickle.loads(pickle.dumps(only))
        assert (only[19], only.size, copy[19], copy.readonly) == (1, 20, 1, True)
        copy.close()
    with pytest.raises(FileNotFoundError):
        isthmus.SharedMemory("absent", 10, readonly=True)


def test_a_store_that_goes_past_a_readonly_view_is_a_fault_and_no_change(spawn: Start) -> None:
    with isthmus.SharedMemory("m", 10) as memory:
        peer = spawn("""
            import ctypes, isthmus, numpy
            only = isthmus.SharedMemory.open("m", readonly=True)
            ctypes.memset(only.array("B").ctypes.data, 1, 10)
        """)
        code, _, _ = peer.end()
        assert code == -11  # SIGSEGV
        assert bytes(memory.view()) == bytes(10)


def test_seals_hold_for_everybody() -> None:
    with isthmus.SharedMemory(size=100) as memory, pickle.loads(pickle.dumps(memory)) as other:
        assert memory.seals == {"shrink"}
        with pytest.raises(PermissionError):
            os.truncate(memory.fileno(), 50)
        view = other.view()
        view[0] = 1
        memory[1] = 2
        memory.seal("grow")
        with pytest.raises(PermissionError, match="sealed"):
            other.grow(200)
        with pytest.raises(BufferError, match="views"):
            memory.seal("write")
        memory.seal("future_write")
        view[2] = 3
        assert bytes(memory[:3]) == b"\1\2\3"
        assert memory.readonly
        with pytest.raises(TypeError, match="read-only"):
            memory[0] = 0
        with pickle.loads(pickle.dumps(memory)) as third, pytest.raises(TypeError, match="read-only"):
            third[0] = 0
        del view
        gc.collect()
        other.close()
        memory.seal("write", "seal")
        assert memory.seals == {"shrink", "grow", "future_write", "write", "seal"}
        with pytest.raises(PermissionError, match="sealed"):
            memory.seal("write")
        assert bytes(pickle.loads(pickle.dumps(memory))[:3]) == b"\1\2\3"


def test_seals_that_there_are_not() -> None:
    with isthmus.SharedMemory(size=1) as memory, isthmus.SharedMemory("m", 1) as named:
        for names in ((), ("lead",), ("grow", "nothing")):
            with pytest.raises(ValueError, match="grow"):
                memory.seal(*names)
        assert memory.seals == {"shrink"}
        with pytest.raises(isthmus.Unsupported, match="anonymous"):
            named.seal("grow")
        with pytest.raises(isthmus.Unsupported, match="anonymous"):
            named.fileno()
        assert named.seals == frozenset()
