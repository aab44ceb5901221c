"""`Queue`: opening and creating by name and attributes, namespaces, and listing what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isthmus
from queues import MIB, drain
from support import Peer, object_files, wait_until

Start = Callable[..., Peer]


# ------------------------------------------------------------------------------------------ open and create


def test_create_insists_on_new_and_open_on_existing(namespace: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        isthmus.Queue.open("absent", type=bytes)
    assert object_files(namespace) == []
    with isthmus.Queue.create("present", type=bytes):
        with pytest.raises(FileExistsError, match="present"):
            isthmus.Queue.create("present", type=bytes)
        isthmus.Queue.open("present", type=bytes).close()
        isthmus.Queue("present", type=bytes).close()
    isthmus.Queue.create("present", type=bytes).close()


def test_an_attribute_not_given_is_accepted_as_it_is() -> None:
    with (
        isthmus.Queue("odd", type=bytes, capacity=3 * MIB, persistent=False, ends_with_producers=True),
        isthmus.Queue("odd") as second,
        isthmus.Queue.open("odd") as third,
    ):
        assert second.capacity == third.capacity == 3 * MIB


def test_the_same_attributes_given_again_are_accepted() -> None:
    with (
        isthmus.Queue("same", type=bytes, capacity=MIB + 1) as first,
        isthmus.Queue("same", type=bytes, capacity=MIB + 1) as second,
    ):
        assert first.capacity == second.capacity


def test_another_capacity_is_refused_with_both_named() -> None:
    with isthmus.Queue("sized", type=bytes, capacity=MIB) as handle:
        with pytest.raises(isthmus.IncompatibleError) as caught:
            isthmus.Queue("sized", type=bytes, capacity=2 * MIB)
        text = str(caught.value).replace(",", "").replace("_", "")
        assert str(MIB) in text
        assert str(2 * MIB) in text
        assert isinstance(caught.value, ValueError)
        handle.put(b"unharmed")
        assert handle.get() == b"unharmed"


@pytest.mark.parametrize("attribute", ["persistent", "ends_with_producers"])
def test_another_kind_of_queue_is_refused(attribute: str) -> None:
    wanted: dict[str, Any] = {attribute: True}
    with isthmus.Queue("plain", type=bytes), pytest.raises(isthmus.IncompatibleError, match=attribute):
        isthmus.Queue("plain", type=bytes, **wanted)


def test_another_type_is_refused_with_both_named() -> None:
    with isthmus.Queue("typed", type=bytes) as handle:
        with pytest.raises(isthmus.IncompatibleError, match=r"bytes.*object|object.*bytes"):
            isthmus.Queue("typed", type=object)
        handle.put(b"unharmed")
        assert handle.get() == b"unharmed"


def test_a_queue_is_not_a_mutex_and_says_so() -> None:
    with isthmus.Queue("one", type=bytes), pytest.raises(isthmus.IncompatibleError) as caught:
        isthmus.Mutex("one")
    assert "queue" in str(caught.value).lower()
    assert "mutex" in str(caught.value).lower()


GOOD_NAMES = ["a", "jobs", "jobs.2", "with space", "dash-and_under", "größe", "x" * 100, "~", "a..b", "1"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_the_name_of_its_file(namespace: Path, name: str) -> None:
    with isthmus.Queue(name, type=bytes) as handle:
        assert handle.name == name
        assert object_files(namespace) == [name]
        assert name in repr(handle)


BAD_NAMES = ["", ".", "..", ".hidden", "a/b", "/absolute", "../up", "nul\0byte", "x" * 256, "ü" * 200]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_and_named(namespace: Path, name: str) -> None:
    for make in (isthmus.Queue, isthmus.Queue.create, isthmus.Queue.open, isthmus.Mutex):
        with pytest.raises(ValueError, match=r"name") as caught:
            make(name)
        if 0 < len(name) < 50 and "\0" not in name:
            assert name in str(caught.value)
    assert object_files(namespace) == []


@pytest.mark.parametrize("name", [5, b"bytes", Path("path"), ["list"]])
def test_a_name_that_is_no_text_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError):
        isthmus.Queue(name, type=bytes)


def test_an_anonymous_queue_has_no_name_and_no_file(namespace: Path, q: isthmus.Queue[bytes]) -> None:
    assert q.name is None
    assert object_files(namespace) == []
    with pytest.raises((ValueError, isthmus.IsthmusError)):
        q.unlink()


def test_repr_tells_name_and_depth() -> None:
    with isthmus.Queue("shown", type=bytes) as handle:
        handle.put_many([b"1", b"2", b"3"])
        assert "shown" in repr(handle)
        assert "Queue" in repr(handle)
        drain(handle)


# ----------------------------------------------------------------------------------------------- namespaces


def test_the_same_name_in_two_namespaces_is_two_objects(namespace: Path, other_namespace: Path) -> None:
    with (
        isthmus.Queue("twin", type=bytes) as here,
        isthmus.Queue("twin", type=bytes, namespace=other_namespace) as there,
    ):
        here.put(b"here")
        assert there.empty()
        assert here.get() == b"here"
        assert object_files(namespace) == object_files(other_namespace) == ["twin"]
        with isthmus.Queue.open("twin", type=bytes, namespace=str(other_namespace)) as again:
            there.put(b"there")
            assert again.get() == b"there"


def test_a_missing_namespace_directory_is_made_private_or_refused_by_name(tmp_path: Path) -> None:
    path = Path("/dev/shm") / f"isthmus-test-missing-{tmp_path.name}"
    refusal = str(path)
    try:
        with isthmus.Queue("x", type=bytes, namespace=path):
            assert path.stat().st_mode & 0o077 == 0
    except OSError as error:
        refusal = str(error)
    finally:
        for entry in path.iterdir() if path.is_dir() else ():
            entry.unlink()
        if path.is_dir():
            path.rmdir()
    assert str(path) in refusal


def test_a_namespace_that_is_a_symlink_is_refused(other_namespace: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(other_namespace)
    with pytest.raises((OSError, isthmus.IsthmusError), match=r"link"):
        isthmus.Queue("x", type=bytes, namespace=link)
    assert object_files(other_namespace) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_namespace_that_others_may_write_is_refused(other_namespace: Path, mode: int) -> None:
    other_namespace.chmod(mode)
    with pytest.raises((OSError, isthmus.IsthmusError), match=str(other_namespace)):
        isthmus.Queue("x", type=bytes, namespace=other_namespace)


def test_a_namespace_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a directory")
    with pytest.raises((OSError, isthmus.IsthmusError), match="file"):
        isthmus.Queue("x", type=bytes, namespace=path)


def test_objects_have_the_mode_of_the_user_alone(namespace: Path) -> None:
    with isthmus.Queue("private", type=bytes):
        assert (namespace / "private").stat().st_mode & 0o777 == 0o600


# -------------------------------------------------------------------------------------------------- listing


def attached_to(name: str) -> list[int]:
    """Process ids of those attached to an object."""
    return [pid for entry in isthmus.objects() if entry.name == name for pid, _ in entry.attached]


def test_objects_lists_what_is_there_and_who_is_attached(namespace: Path, spawn: Start) -> None:
    with isthmus.Queue("listed", type=bytes, capacity=MIB) as handle, isthmus.Mutex("lock"):
        peer = spawn("""
            import sys, isthmus
            q = isthmus.Queue.open("listed", type=bytes)
            print("ready", flush=True)
            sys.stdin.readline()
            q.close()
        """)
        peer.expect("ready")
        handle.put_many([b"a", b"b"])
        found = {entry.name: entry for entry in isthmus.objects()}
        assert sorted(found) == ["listed", "lock"]
        assert found["listed"].kind == "queue"
        assert found["lock"].kind == "mutex"
        assert found["listed"].depth == 2
        assert found["listed"].size == (namespace / "listed").stat().st_size
        assert peer.pid in attached_to("listed")
        peer.finish()
        wait_until(lambda: peer.pid not in attached_to("listed"), "the peer to leave the list")
        drain(handle)


def test_clean_leaves_what_is_in_use_and_persistent() -> None:
    with isthmus.Queue("used", type=bytes):
        isthmus.Queue("kept", type=bytes, persistent=True).close()
        assert isthmus.clean() == []
        assert sorted(entry.name for entry in isthmus.objects()) == ["kept", "used"]
        with isthmus.Queue.open("kept", type=bytes) as handle:
            handle.unlink()
