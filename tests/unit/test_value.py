"""`Value`: what its public interface promises; processes killed in the middle are in crash/test_value.py."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus
from support import Peer, object_files
from workers import add_ones

Start = Callable[..., Peer]

LARGEST = 2**63 - 1
SMALLEST = -(2**63)

CALLS: list[Callable[[isthmus.Value, Any], object]] = [
    lambda value, number: value.set(number),
    lambda value, number: value.add(number),
    lambda value, number: value.exchange(number),
    lambda value, number: value.compare_and_set(number, 0),
    lambda value, number: value.compare_and_set(0, number),
    lambda value, number: setattr(value, "value", number),
]
"""Every way to hand a number over."""


@pytest.fixture
def integer() -> Iterator[isthmus.Value]:
    """A named integer, 5."""
    with isthmus.Value("count", 5) as value:
        yield value


@pytest.fixture
def real() -> Iterator[isthmus.Value]:
    """A named float, 0.5."""
    with isthmus.Value("level", 0.5) as value:
        yield value


def is_exactly(found: object, expected: float) -> bool:
    """The same type and the same bits."""
    if isinstance(found, float) and isinstance(expected, float):
        return struct.pack("d", found) == struct.pack("d", expected)
    return type(found) is type(expected) and found == expected


# ---------------------------------------------------------------------------------------- one number


def test_get_set_add_exchange_of_an_integer(integer: isthmus.Value) -> None:
    assert is_exactly(integer.get(), 5)
    integer.set(-7)
    assert is_exactly(integer.get(), -7)
    assert is_exactly(integer.add(10), 3)
    assert is_exactly(integer.add(-4), -1)
    assert is_exactly(integer.exchange(LARGEST), -1)
    assert is_exactly(integer.exchange(SMALLEST), LARGEST)
    assert is_exactly(integer.get(), SMALLEST)


def test_get_set_add_exchange_of_a_float(real: isthmus.Value) -> None:
    assert is_exactly(real.get(), 0.5)
    real.set(-1e300)
    assert is_exactly(real.get(), -1e300)
    assert is_exactly(real.exchange(0.1), -1e300)
    assert is_exactly(real.add(0.2), 0.1 + 0.2)
    for number in (math.inf, -math.inf, -0.0, 5e-324):
        real.set(number)
        assert is_exactly(real.get(), number)
    real.set(math.nan)
    assert math.isnan(real.get())


def test_compare_and_set(integer: isthmus.Value) -> None:
    assert integer.compare_and_set(4, 6) is False
    assert integer.get() == 5
    assert integer.compare_and_set(5, 6) is True
    assert integer.get() == 6
    assert integer.compare_and_set(6, 6) is True


def test_the_property_reads_and_replaces(integer: isthmus.Value) -> None:
    assert integer.value == 5
    integer.value = 8
    assert is_exactly(integer.value, 8)
    integer.value += 1  # two calls, and alone here
    assert integer.get() == 9
    unclear: Any = integer
    with pytest.raises(AttributeError):
        del unclear.value


def test_every_argument_has_a_name(integer: isthmus.Value) -> None:
    integer.set(value=1)
    assert integer.add(n=1) == 2
    assert integer.exchange(value=3) == 2
    assert integer.compare_and_set(expected=3, new=4)


def test_subclasses_and_whatever_python_takes_for_a_number() -> None:
    with isthmus.Value(initial=True) as value:
        assert is_exactly(value.get(), 1)
        assert is_exactly(value.add(np.int64(2)), 3)
    with isthmus.Value(initial=np.int32(7)) as value:
        assert value.type is int
    with isthmus.Value(initial=np.float64(0.5)) as value:
        assert is_exactly(value.add(np.float32(0.25)), 0.75)
    with isthmus.Value(initial=Decimal("0.1")) as value:
        assert is_exactly(value.get(), 0.1)


# ---------------------------------------------------------------------------------------- types and limits


def test_a_new_one_has_the_type_that_is_given_or_that_of_initial() -> None:
    cases: list[tuple[float, type[int | float] | None, float]] = [
        (0, None, 0),
        (3, int, 3),
        (3, float, 3.0),
        (0.0, None, 0.0),
        (2.5, float, 2.5),
    ]
    for initial, kind, expected in cases:
        with isthmus.Value(initial=initial, type=kind) as value:
            assert value.type is type(expected)
            assert is_exactly(value.get(), expected)
    with isthmus.Value() as value:
        assert is_exactly(value.get(), 0)
    with isthmus.Value(type=float) as value:
        assert is_exactly(value.get(), 0.0)


@pytest.mark.parametrize("number", [1.0, 0.5, math.nan, "1", b"1", None, Decimal(1), 1j, [1]])
def test_an_integer_takes_integers_only(integer: isthmus.Value, number: object) -> None:
    for call in CALLS:
        with pytest.raises(TypeError, match="int") as caught:
            call(integer, number)
        assert repr(number) in str(caught.value)
    assert integer.get() == 5
    wrong: Any = number
    with pytest.raises(TypeError):
        isthmus.Value(initial=wrong, type=int)


@pytest.mark.parametrize("number", ["1", b"1", None, 1j, [1]])
def test_a_float_takes_numbers_only(real: isthmus.Value, number: object) -> None:
    for call in CALLS:
        with pytest.raises(TypeError, match="float") as caught:
            call(real, number)
        assert repr(number) in str(caught.value)
    assert real.get() == 0.5
    wrong: Any = number
    with pytest.raises(TypeError):
        isthmus.Value(initial=wrong)


def test_an_integer_given_to_a_float_is_converted(real: isthmus.Value) -> None:
    real.set(3)
    assert is_exactly(real.get(), 3.0)
    assert is_exactly(real.add(1), 4.0)
    assert is_exactly(real.exchange(2**53 + 1), 4.0)  # rounded as float() does
    assert real.compare_and_set(2**53, 7)
    assert is_exactly(real.get(), 7.0)


@pytest.mark.parametrize("number", [LARGEST + 1, SMALLEST - 1, 2**64, 10**30])
def test_an_integer_beyond_64_bits_is_refused_with_number_and_limit(
    integer: isthmus.Value, number: int
) -> None:
    for call in CALLS:
        with pytest.raises(OverflowError) as caught:
            call(integer, number)
        for part in (number, LARGEST, SMALLEST):
            assert str(part) in str(caught.value)
    assert integer.get() == 5
    with pytest.raises(OverflowError):
        isthmus.Value(initial=number)


def test_an_integer_that_python_does_not_print_is_refused_all_the_same(integer: isthmus.Value) -> None:
    for call in CALLS:
        with pytest.raises(OverflowError, match=str(LARGEST)):
            call(integer, 1 << 100_000)
    assert integer.get() == 5


def test_an_integer_that_no_float_holds_is_refused(real: isthmus.Value) -> None:
    for call in CALLS:
        with pytest.raises(OverflowError, match="float"):
            call(real, 10**400)
    assert real.get() == 0.5


@pytest.mark.parametrize(
    ("before", "more", "limit"),
    [(LARGEST, 1, LARGEST), (LARGEST - 5, 6, LARGEST), (SMALLEST, -1, SMALLEST), (-2, SMALLEST, SMALLEST)],
)
def test_a_sum_beyond_64_bits_changes_nothing(before: int, more: int, limit: int) -> None:
    with isthmus.Value(initial=before) as value:
        with pytest.raises(OverflowError) as caught:
            value.add(more)
        for part in (before, more, limit):
            assert str(part) in str(caught.value)
        assert value.get() == before
        assert value.add(limit - before) == limit  # the last step that fits


def test_a_sum_of_floats_becomes_infinite_as_in_python(real: isthmus.Value) -> None:
    real.set(1.7e308)
    assert real.add(1.7e308) == math.inf
    assert math.isnan(real.add(-math.inf))


def test_floats_are_compared_as_by_the_operator(real: isthmus.Value) -> None:
    real.set(math.nan)
    assert not real.compare_and_set(math.nan, 1.0)
    assert math.isnan(real.get())
    real.set(-0.0)
    assert real.compare_and_set(0.0, 0.0)
    assert is_exactly(real.get(), 0.0)
    assert real.compare_and_set(-0.0, -0.0)
    assert is_exactly(real.get(), -0.0)
    assert not real.compare_and_set(5e-324, 1.0)


@pytest.mark.parametrize("kind", [str, bool, complex, "int", 1])
def test_type_takes_two_types_only(kind: object) -> None:
    wrong: Any = kind
    with pytest.raises(TypeError, match="float"):
        isthmus.Value(type=wrong)


# ---------------------------------------------------------------------------------------- names and handles


def test_initial_counts_for_whoever_creates(integer: isthmus.Value) -> None:
    integer.add(1)
    with isthmus.Value("count", 100) as second, isthmus.Value("count") as third:
        assert second.get() == third.get() == 6
        second.add(1)
        assert third.get() == integer.get() == 7


def test_an_existing_ones_type_is_accepted_or_refused_with_both_named(
    integer: isthmus.Value, real: isthmus.Value
) -> None:
    with isthmus.Value("count", 0.25) as accepted:
        assert accepted.type is int
    with isthmus.Value.open("level") as accepted:
        assert accepted.type is float
    with isthmus.Value.open("level", type=float), isthmus.Value("level", type=float):
        pass
    for make in (isthmus.Value, isthmus.Value.open):
        with pytest.raises(isthmus.IncompatibleError, match=r"type=int.*type=float"):
            make("count", type=float)
        with pytest.raises(isthmus.IncompatibleError, match=r"type=float.*type=int"):
            make("level", type=int)
    assert (integer.get(), real.get()) == (5, 0.5)


def test_create_insists_on_new_and_open_on_existing(namespace: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        isthmus.Value.open("absent")
    first = isthmus.Value.create("present", 1)
    with pytest.raises(FileExistsError, match="present"):
        isthmus.Value.create("present", 2)
    second = isthmus.Value.open("present")
    third = isthmus.Value("present")
    for handle in (first, second, third):
        assert handle.name == "present"
        assert handle.get() == 1
        handle.close()
    assert object_files(namespace) == []


def test_unlink_removes_the_name(namespace: Path, integer: isthmus.Value) -> None:
    integer.unlink()
    assert object_files(namespace) == []
    assert integer.add(1) == 6
    with pytest.raises(FileNotFoundError):
        integer.unlink()


def test_a_persistent_one_keeps_its_number_without_anyone(namespace: Path) -> None:
    with isthmus.Value("kept", 7, persistent=True) as value:
        value.add(1)
    assert object_files(namespace) == ["kept"]
    assert isthmus.clean() == []
    with isthmus.Value("kept", persistent=True) as value:
        assert value.get() == 8
        with pytest.raises(isthmus.IncompatibleError, match=r"persistent=true.*false"):
            isthmus.Value("kept", persistent=False)
        value.unlink()
    with isthmus.Value("kept", persistent=False) as value:
        assert value.get() == 0


def test_a_handle_that_is_only_dropped_is_closed(namespace: Path) -> None:
    handle = isthmus.Value("dropped")
    assert object_files(namespace) == ["dropped"]
    del handle
    gc.collect()
    assert object_files(namespace) == []


def test_a_with_block_closes() -> None:
    with isthmus.Value("count") as value:
        assert not value.closed
    assert value.closed


def test_a_closed_handle_says_so_in_every_call() -> None:
    value = isthmus.Value("closing")
    value.close()
    value.close()
    calls: list[Callable[[], object]] = [
        value.get,
        lambda: value.value,
        lambda: pickle.dumps(value),
        value.__enter__,
        *(lambda call=call: call(value, 0) for call in CALLS),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()


def test_a_number_that_closes_the_handle_while_it_is_asked_for() -> None:
    for call in CALLS:
        value = isthmus.Value("closing")

        class Closing:
            def __index__(self, value: isthmus.Value = value) -> int:
                value.close()
                return 1

        with pytest.raises(isthmus.ClosedError):
            call(value, Closing())


def test_repr_says_name_and_number(integer: isthmus.Value) -> None:
    assert repr(integer) == "<isthmus.Value 'count' = 5>"
    with isthmus.Value(initial=0.5) as anonymous:
        assert repr(anonymous) == "<isthmus.Value anonymous = 0.5>"
    assert repr(anonymous) == "<isthmus.Value anonymous (closed)>"


def test_a_value_is_not_a_mutex_and_says_so(integer: isthmus.Value) -> None:
    for make, word in ((isthmus.Mutex, "mutex"), (isthmus.Queue, "queue")):
        with pytest.raises(isthmus.IncompatibleError, match=f"count is a value, not a {word}"):
            make("count")
    with (
        isthmus.Mutex("lock"),
        pytest.raises(isthmus.IncompatibleError, match="lock is a mutex, not a value"),
    ):
        isthmus.Value("lock")


def test_what_another_version_or_a_stranger_wrote_is_refused(namespace: Path) -> None:
    isthmus.Value("stored", persistent=True).close()
    path = namespace / "stored"
    sound = path.read_bytes()

    def refused(*words: str) -> None:
        for make in (isthmus.Value, isthmus.Value.open):
            with pytest.raises((isthmus.IncompatibleError, isthmus.CorruptError)) as caught:
                make("stored")
            for word in ("stored", *words) if words else ():
                assert word in str(caught.value)
        (entry,) = isthmus.objects()
        assert entry.value is None

    def write(offset: int, number: int, size: int) -> None:
        path.write_bytes(sound)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(number.to_bytes(size, "little"))

    version = int.from_bytes(sound[8:12], "little")
    write(8, version + 41, 4)
    refused("layout version", str(version + 41), str(version))
    for kind in (0, 3, 1 << 40):
        write(0x80, kind, 8)
        refused()
    path.write_bytes(sound[:12288])  # a header that agrees with a file without a body
    with path.open("r+b") as file:
        file.seek(0x20)
        file.write((12288).to_bytes(8, "little"))
    refused()
    path.write_bytes(sound)
    with isthmus.Value.open("stored") as value:
        assert value.get() == 0


def test_another_namespace_is_another_value(integer: isthmus.Value, other_namespace: Path) -> None:
    with isthmus.Value("count", namespace=other_namespace) as other:
        assert other.get() == 0
        other.add(1)
        with isthmus.Value.open("count", namespace=str(other_namespace)) as again:
            assert again.get() == 1
    assert integer.get() == 5


def test_objects_and_ls_show_the_number(integer: isthmus.Value, real: isthmus.Value) -> None:
    integer.set(-12)
    found = {entry.name: entry for entry in isthmus.objects()}
    assert (found["count"].kind, found["level"].kind) == ("value", "value")
    assert is_exactly(found["count"].value, -12)
    assert is_exactly(found["level"].value, 0.5)
    assert (found["count"].depth, found["count"].capacity, found["count"].problem) == (None, None, None)
    assert [pid for pid, _ in found["count"].attached] == [os.getpid()]
    with isthmus.Mutex("lock"):
        assert [entry.value for entry in isthmus.objects() if entry.kind == "mutex"] == [None]


# ---------------------------------------------------------------------------------------- other processes


def test_another_process_sees_and_changes_it(integer: isthmus.Value, spawn: Start) -> None:
    peer = spawn("""
        import sys, isthmus
        value = isthmus.Value.open("count")
        print(value.get(), flush=True)
        sys.stdin.readline()
        print(value.exchange(9), flush=True)
        sys.stdin.readline()
        value.close()
    """)
    peer.expect("5")
    integer.add(1)
    peer.send()
    peer.expect("6")
    assert integer.get() == 9
    assert len(isthmus.objects()[0].attached) == 2
    peer.finish()
    assert integer.get() == 9


def test_named_and_anonymous_ones_pickle(real: isthmus.Value, spawn: Start) -> None:
    anonymous = isthmus.Value(initial=40)
    assert anonymous.name is None
    peer = spawn(
        """
        import pickle, sys
        level, count = (pickle.loads(bytes.fromhex(text)) for text in sys.argv[1:])
        print(level.add(1), count.add(2), level.name, count.name, flush=True)
        sys.stdin.readline()
        """,
        pickle.dumps(real).hex(),
        pickle.dumps(anonymous).hex(),
    )
    peer.expect("1.5 42 level None")
    assert (real.get(), anonymous.get()) == (1.5, 42)
    copy = pickle.loads(pickle.dumps(anonymous))
    assert copy.add(1) == 43
    copy.close()
    assert anonymous.get() == 43
    peer.finish()
    anonymous.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of fork under threads
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("name", [None, "given"])
def test_it_goes_to_processes_of_every_start_method(method: str, name: str | None) -> None:
    context: Any = multiprocessing.get_context(method)
    with isthmus.Value(name) as value:
        workers = [context.Process(target=add_ones, args=(value, 5000)) for _ in range(2)]
        for worker in workers:
            worker.start()
        add_ones(pickle.loads(pickle.dumps(value)), 5000)
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
        assert value.get() == 15_000


def test_parent_and_forked_child_are_two_users(spawn: Start) -> None:
    peer = spawn("""
        import os, isthmus
        with isthmus.Value("forked", 1) as value:
            pid = os.fork()
            if pid == 0:
                value.add(1)
                listed = isthmus.objects()[0].attached
                value.close()
                assert {os.getpid(), os.getppid()} == {pid for pid, _ in listed}, listed
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert [pid for pid, _ in isthmus.objects()[0].attached] == [os.getpid()]
            assert value.add(1) == 3
        pid = os.fork()  # a closed handle stays closed
        if pid == 0:
            try:
                value.get()
            except isthmus.ClosedError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("ok", flush=True)
    """)
    peer.expect("ok")
    peer.finish()


def test_a_forked_child_keeps_it_alive_when_the_parent_closes(namespace: Path, spawn: Start) -> None:
    peer = spawn("""
        import os, sys, isthmus
        value = isthmus.Value("left", 4)
        if os.fork() == 0:
            sys.stdin.readline()
            print(value.add(1), flush=True)
            value.close()
            os._exit(0)
        value.close()
        print("closed", flush=True)
        os.wait()
    """)
    peer.expect("closed")
    assert object_files(namespace) == ["left"]
    with isthmus.Value.open("left") as value:
        peer.send()
        peer.expect("5")
        assert value.get() == 5
    peer.finish()
    assert object_files(namespace) == []


@pytest.mark.parametrize(("kind", "step"), [(int, 3), (float, 0.25)])
def test_nothing_is_lost_among_threads_and_processes(
    spawn: Start, kind: type[int | float], step: float
) -> None:
    code = """
        import sys, threading, isthmus
        value, step, rounds = isthmus.Value.open("sum"), eval(sys.argv[1]), int(sys.argv[2])
        def work():
            for _ in range(rounds):
                value.add(step)
        pool = [threading.Thread(target=work) for _ in range(4)]
        print("ready", flush=True)
        sys.stdin.readline()
        for thread in pool: thread.start()
        for thread in pool: thread.join()
        value.close()
    """
    with isthmus.Value("sum", type=kind) as value:
        crowd = [spawn(code, repr(step), 5000) for _ in range(3)]
        for peer in crowd:
            peer.expect("ready")
        for peer in crowd:
            peer.send()
        for peer in crowd:
            peer.finish()
        assert is_exactly(value.get(), kind(3 * 4 * 5000 * step))


def test_of_many_who_try_exactly_one_sets(spawn: Start) -> None:
    """Turns are taken by compare-and-set; each number is drawn once, by whoever was first."""
    code = """
        import sys, isthmus
        value, last = isthmus.Value.open("turn"), int(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        mine = 0
        while (turn := value.get()) < last:
            mine += value.compare_and_set(turn, turn + 1)
        print(mine, flush=True)
        value.close()
    """
    with isthmus.Value("turn") as value:
        crowd = [spawn(code, 20_000) for _ in range(3)]
        for peer in crowd:
            peer.expect("ready")
        for peer in crowd:
            peer.send()
        assert sum(int(peer.line()) for peer in crowd) == 20_000
        assert value.get() == 20_000
        for peer in crowd:
            peer.finish()
