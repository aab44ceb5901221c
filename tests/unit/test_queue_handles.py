"""`Queue`: a handle from opening to closing, what its end warns of, and what pickling makes of it."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from queues import MIB, drain, pattern
from support import Peer, object_files

Start = Callable[..., Peer]


def test_a_closed_handle_says_so_in_every_call() -> None:
    handle = isthmus.Queue(type=bytes, capacity=MIB)
    states = [handle.closed]
    handle.close()
    handle.close()
    assert [*states, handle.closed] == [False, True]
    calls: list[Callable[[], object]] = [
        handle.get,
        lambda: handle.put(b"x"),
        lambda: handle.put_many([b"x"]),
        lambda: handle.get_many(1),
        handle.qsize,
        handle.empty,
        handle.stats,
        handle.shutdown,
        lambda: next(iter(handle)),
        lambda: pickle.dumps(handle),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError) as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert "closed" in repr(handle).lower()


def test_a_with_block_closes() -> None:
    with isthmus.Queue("block", type=bytes) as handle:
        assert handle.name == "block"
    assert handle.closed
    with pytest.raises(isthmus.ClosedError), handle:
        pass


def test_closing_a_handle_ends_the_waits_of_its_other_threads() -> None:
    handle = isthmus.Queue(type=bytes, capacity=64 * 1024)
    outcomes: list[type[BaseException]] = []

    def wait() -> None:
        try:
            handle.get()
        except BaseException as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    handle.close()
    for thread in threads:
        thread.join(30)
    assert outcomes == [isthmus.ClosedError] * 3


def test_the_last_close_removes_the_name(namespace: Path) -> None:
    first = isthmus.Queue("shared", type=bytes)
    second = isthmus.Queue.open("shared", type=bytes)
    first.close()
    assert object_files(namespace) == ["shared"]
    second.put(b"x")
    assert second.get() == b"x"
    second.close()
    assert object_files(namespace) == []


def test_a_handle_that_is_only_dropped_is_closed(namespace: Path) -> None:
    handle = isthmus.Queue("dropped", type=bytes)
    assert object_files(namespace) == ["dropped"]
    del handle
    gc.collect()
    assert object_files(namespace) == []


def test_unlink_removes_the_name_at_once_and_handles_go_on(namespace: Path) -> None:
    with isthmus.Queue("gone", type=bytes) as first, isthmus.Queue.open("gone", type=bytes) as second:
        first.unlink()
        assert object_files(namespace) == []
        with pytest.raises(FileNotFoundError):
            isthmus.Queue.open("gone", type=bytes)
        with pytest.raises(FileNotFoundError):
            second.unlink()
        second.put(b"still")
        assert first.get() == b"still"
        with isthmus.Queue("gone", type=bytes) as other:  # another object of the same name
            other.put(b"other")
            assert first.empty()
            assert other.get() == b"other"


def test_unlink_of_an_old_handle_does_not_remove_the_new_object(namespace: Path) -> None:
    with isthmus.Queue("name", type=bytes) as old:
        old.unlink()
        with isthmus.Queue("name", type=bytes):
            with pytest.raises(FileNotFoundError):
                old.unlink()
            assert object_files(namespace) == ["name"]
            old.close()
            assert object_files(namespace) == ["name"]


def test_a_persistent_queue_keeps_its_messages_without_anyone(namespace: Path) -> None:
    with isthmus.Queue("kept", type=bytes, persistent=True, capacity=MIB) as handle:
        handle.put_many([b"a", pattern(50_000)])
    assert object_files(namespace) == ["kept"]
    with isthmus.Queue.open("kept", type=bytes) as handle:
        assert handle.get_many(5) == [b"a", pattern(50_000)]
        handle.unlink()
    assert object_files(namespace) == []


# ------------------------------------------------------------------------------------------------- warnings


def test_closing_the_last_handle_of_a_queue_that_is_not_empty_warns_with_the_count() -> None:
    handle = isthmus.Queue("left", type=bytes)
    handle.put_many([b"1", b"2", b"3"])
    with pytest.warns(ResourceWarning, match=r"\b3\b.*message|message.*\b3\b"):
        handle.close()
    assert handle.closed


def test_only_the_last_handle_warns(namespace: Path) -> None:
    first = isthmus.Queue("left", type=bytes)
    second = isthmus.Queue.open("left", type=bytes)
    first.put(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first.close()
    with pytest.warns(ResourceWarning, match="left"):
        second.close()
    assert object_files(namespace) == []


def test_dropping_the_last_handle_of_a_queue_that_is_not_empty_warns_too() -> None:
    handle = isthmus.Queue("left", type=bytes)
    handle.put(b"x")
    held = [handle]
    del handle
    with pytest.warns(ResourceWarning, match="left"):
        held.clear()


def test_a_warning_made_an_error_still_closes(namespace: Path) -> None:
    handle = isthmus.Queue("left", type=bytes)
    handle.put(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResourceWarning):
            handle.close()
    assert handle.closed
    assert object_files(namespace) == []


def test_an_empty_a_persistent_and_an_unlinked_queue_close_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with isthmus.Queue("empty", type=bytes) as handle:
            handle.put(b"x")
            handle.get()
        with isthmus.Queue("kept", type=bytes, persistent=True) as handle:
            handle.put(b"x")
        with isthmus.Queue.open("kept", type=bytes) as handle:
            handle.get()
            handle.unlink()


# ------------------------------------------------------------------------------------------------- pickling


def test_a_named_queue_pickles_as_its_name(spawn: Start) -> None:
    with isthmus.Queue("pickled", type=bytes) as handle:
        copy = pickle.loads(pickle.dumps(handle))
        assert copy.name == "pickled"
        copy.put(b"from the copy")
        assert handle.get() == b"from the copy"
        copy.close()
        peer = spawn(
            "import pickle, sys; q = pickle.loads(bytes.fromhex(sys.argv[1])); q.put(b'hello'); q.close()",
            pickle.dumps(handle).hex(),
        )
        peer.finish()
        assert handle.get(timeout=0) == b"hello"


def test_a_named_queue_of_another_namespace_pickles_with_it(other_namespace: Path, spawn: Start) -> None:
    with isthmus.Queue("elsewhere", type=bytes, namespace=other_namespace) as handle:
        peer = spawn(
            "import pickle, sys; q = pickle.loads(bytes.fromhex(sys.argv[1])); q.put(b'hello'); q.close()",
            pickle.dumps(handle).hex(),
        )
        peer.finish()
        assert handle.get(timeout=0) == b"hello"


def test_an_anonymous_queue_pickles_through_the_living_sender(spawn: Start, q: isthmus.Queue[bytes]) -> None:
    peer = spawn(
        """
        import pickle, sys
        q = pickle.loads(bytes.fromhex(sys.argv[1]))
        q.put(q.get())
        q.put(bytes(100_000))
        print(q.name, flush=True)
        q.close()
        """,
        pickle.dumps(q).hex(),
    )
    q.put(b"ping")
    peer.expect("None")
    peer.finish()
    assert drain(q) == [b"ping", bytes(100_000)]


def test_an_anonymous_queue_pickled_within_the_process_is_the_same_queue(q: isthmus.Queue[bytes]) -> None:
    with pickle.loads(pickle.dumps(q)) as copy:
        copy.put(b"x")
        assert q.get() == b"x"
    q.put(b"y")
    assert q.get() == b"y"


def test_a_pickle_of_a_closed_anonymous_queue_opens_nothing_else() -> None:
    handle = isthmus.Queue(type=bytes, capacity=MIB)
    data = pickle.dumps(handle)
    handle.close()
    with isthmus.Queue(type=bytes, capacity=MIB), pytest.raises((isthmus.IsthmusError, OSError)):
        pickle.loads(data)  # another queue may have its descriptor's number now
