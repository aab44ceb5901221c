"""Files that are not what they should be: truncated, foreign, of another version or kind.

The answer is an error that names the file and both sides; never a crash, never a wait without an end.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import HEADER, Peer, get_word, object_files, put_word

Start = Callable[..., Peer]

Refused = (isthmus.IncompatibleError, isthmus.CorruptError)


@pytest.fixture
def stored(namespace: Path) -> Path:
    """The file of a persistent queue with messages in it that nobody has open."""
    with isthmus.Queue("stored", type=bytes, persistent=True, capacity=256 << 10) as handle:
        handle.put_many([b"a" * 10, b"b" * 10_000, b"c"])
    return namespace / "stored"


def check_refused(path: Path, *words: str) -> None:
    """Every way to open it says the same and leaves it alone; the listing shows why."""
    before = path.stat().st_size
    for make in (isthmus.Queue.open, isthmus.Queue):
        with pytest.raises(Refused) as caught:
            make("stored")
        text = str(caught.value)
        for word in ("stored", *words):
            assert word in text, f"{word!r} is not in {text!r}"
    assert path.stat().st_size == before
    (entry,) = [entry for entry in isthmus.objects() if entry.name == "stored"]
    assert entry.problem is not None
    isthmus.clean()
    with isthmus.Queue("sound", type=bytes) as handle:  # the rest of the namespace goes on
        handle.put(b"x")
        assert handle.get() == b"x"


@pytest.mark.parametrize("size", [0, 1, 100, 4096, HEADER - 1, HEADER, HEADER + 4096])
def test_a_truncated_file_is_refused_with_both_sizes(stored: Path, size: int) -> None:
    whole = stored.stat().st_size
    os.truncate(stored, size)
    check_refused(stored)
    if size >= 4096:  # the header is there, and says what it should be
        check_refused(stored, str(size), str(whole))


def test_a_file_that_grew_is_refused_with_both_sizes(stored: Path) -> None:
    whole = stored.stat().st_size
    os.truncate(stored, whole + 4096)
    check_refused(stored, str(whole), str(whole + 4096))


@pytest.mark.parametrize("content", [b"hello\n", b"\x7fELF" * 10_000, bytes(100_000), b"\xff" * 100_000])
def test_a_foreign_file_is_refused_and_left_alone(namespace: Path, content: bytes) -> None:
    path = namespace / "stored"
    path.write_bytes(content)
    check_refused(path)
    assert path.read_bytes() == content


def test_another_layout_version_is_refused_with_both_named(stored: Path) -> None:
    version = get_word(stored, 8, 4)
    put_word(stored, 8, version + 41, 4)
    check_refused(stored, "version", str(version), str(version + 41))


def test_an_unknown_kind_is_refused(stored: Path) -> None:
    put_word(stored, 12, 77, 4)
    check_refused(stored)


def test_another_registry_is_refused(stored: Path) -> None:
    put_word(stored, 0x10, get_word(stored, 0x10) ^ 1)
    check_refused(stored, "registry")


def test_a_header_that_lies_about_its_size_is_refused(stored: Path) -> None:
    put_word(stored, 0x20, 1 << 40)
    check_refused(stored)


@pytest.mark.parametrize("what", ["directory", "fifo", "socket", "symlink", "dangling symlink"])
def test_what_is_no_file_is_refused_without_waiting(namespace: Path, tmp_path: Path, what: str) -> None:
    path = namespace / "stored"
    match what:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case "symlink":
            (tmp_path / "target").write_bytes(bytes(100_000))
            path.symlink_to(tmp_path / "target")
        case _:
            path.symlink_to(tmp_path / "absent")
    try:
        for make in (isthmus.Queue.open, isthmus.Queue, isthmus.Mutex):
            with pytest.raises((OSError, isthmus.IsthmusError)) as caught:
                make("stored")
            assert "stored" in str(caught.value)
        isthmus.objects()
        isthmus.clean()
        assert path.is_symlink() or path.exists()
        assert not (tmp_path / "absent").exists()
    finally:
        path.rmdir() if what == "directory" else path.unlink()


def test_a_file_without_permission_is_a_permission_error_for_those_it_concerns(
    namespace: Path, spawn: Start
) -> None:
    if os.geteuid() != 0:
        (namespace / "stored").write_bytes(bytes(100))
        (namespace / "stored").chmod(0)
        with pytest.raises(PermissionError):
            isthmus.Queue.open("stored", type=bytes)
        return
    # Root may read everything: what it must not do is use what belongs to another user.
    path = namespace / "stored"
    path.write_bytes(bytes(100_000))
    os.chown(path, 65534, 65534)
    with pytest.raises((PermissionError, *Refused)):
        isthmus.Queue.open("stored", type=bytes)


def test_a_listing_survives_everything_at_once(namespace: Path, stored: Path) -> None:
    os.truncate(stored, 5000)
    (namespace / "empty").write_bytes(b"")
    (namespace / "text").write_text("hello")
    (namespace / "directory").mkdir()
    os.mkfifo(namespace / "fifo")
    (namespace / "link").symlink_to("nowhere")
    with isthmus.Queue("good", type=bytes), isthmus.Mutex("lock"):
        by_name = {entry.name: entry for entry in isthmus.objects()}
        assert by_name["good"].problem is None
        assert by_name["lock"].problem is None
        for name in ("stored", "empty", "text"):
            assert by_name[name].problem is not None
    (namespace / "directory").rmdir()
    assert "text" in object_files(namespace)
    isthmus.clean()
    assert "text" in object_files(namespace)
