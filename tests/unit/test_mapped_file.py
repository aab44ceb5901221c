"""`MappedFile`: bytes of a file in place and copied, growth, flushing, files that are cut; no locks."""

from __future__ import annotations

import array as arrays
import gc
import multiprocessing
import os
import pickle
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import forking
import isthmus
from isthmus._segments import Descriptor
from support import Peer
from workers import fill_file

Start = Callable[..., Peer]
Access = Literal["read", "write", "copy"]

PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 10,000 bytes, each the last digits of its place."""
    found = tmp_path / "data"
    found.write_bytes(bytes(n % 251 for n in range(10_000)))
    return found


# ---------------------------------------------------------------------------------------- bytes


def test_views_arrays_and_copies_are_the_file(path: Path) -> None:
    with isthmus.MappedFile(path) as file:
        assert (file.size, len(file), file.path, file.access) == (10_000, 10_000, str(path), "write")
        assert bytes(file.view()) == file.read() == path.read_bytes()
        file[0:5] = b"hello"
        file.write(9_995, b"world")
        file.view("d", 3, offset=800)[1] = 0.5
        file.array("<u2", (2, 2), offset=100)[1, 1] = 258
        data = path.read_bytes()
        assert data[:5] == b"hello"
        assert bytes(file[-5:]) == data[-5:] == b"world"
        assert np.frombuffer(data, "f8", 1, 808)[0] == 0.5
        assert data[106:108] == b"\2\1"
        path.write_bytes(b"again" + data[5:])  # the same file, written by somebody else
        assert bytes(file[:5]) == file.read(0, 5) == b"again"
        with pytest.raises(ValueError, match="bytes"):
            file.view("d", 1251)


def test_copies_take_any_range_inside(path: Path) -> None:
    with isthmus.MappedFile(path) as file:
        data = path.read_bytes()
        assert file.read(9_000) == data[9_000:]
        assert file.read(10_000) == file.read(5, 0) == b""
        assert file.read(5, 7) == data[5:12]
        file.write(10, arrays.array("i", [1, 2, 3]))
        assert file.read(10, 12) == arrays.array("i", [1, 2, 3]).tobytes()
        file.write(10_000, b"")
        ranges = [(10_001, None), (0, 10_001), (9_999, 2), (-1, 1), (5, -1), (1 << 62, 1)]
        for offset, length in ranges:
            with pytest.raises(ValueError, match=r"bytes|offset") as caught:
                file.read(offset, length)
            assert not isinstance(caught.value, isthmus.CorruptError)
        with pytest.raises(ValueError, match="9999"):
            file.write(9_999, b"ab")
        with pytest.raises(ValueError, match="-1"):
            file.write(-1, b"ab")
        text: Any = "text"
        with pytest.raises(TypeError):
            file.write(0, text)
        assert path.stat().st_size == 10_000


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1])
def test_any_size(tmp_path: Path, size: int) -> None:
    with isthmus.MappedFile(tmp_path / "new", size) as file:
        file.view()[:] = b"x" * size
        assert file.read() == bytes(file.view()) == b"x" * size
        file.flush()
        assert file.grow(size + 1) == size + 1
        assert file[size] == 0
        assert (tmp_path / "new").stat().st_size == size + 1


# ---------------------------------------------------------------------------------------- opening


def test_create_insists_on_new_and_open_on_existing(tmp_path: Path) -> None:
    absent, new = tmp_path / "absent", tmp_path / "new"
    for make in (isthmus.MappedFile.open, isthmus.MappedFile):
        with pytest.raises(FileNotFoundError, match="absent"):
            make(absent)
    with isthmus.MappedFile.create(new, 100) as file:
        assert (file.size, new.stat().st_size) == (100, 100)
        with pytest.raises(FileExistsError) as caught:
            isthmus.MappedFile.create(new, 100)
        assert caught.value.filename == str(new)
        assert caught.value.filename2 is None
        with isthmus.MappedFile(new, 50) as other:
            assert other.size == 100
        with pytest.raises(isthmus.IncompatibleError, match=r"size=100.*size=101"):
            isthmus.MappedFile(new, 101)
        with pytest.raises(FileNotFoundError):
            isthmus.MappedFile(absent, 100, access="read")
    assert sorted(tmp_path.iterdir()) == [new]
    with pytest.raises(FileNotFoundError):
        isthmus.MappedFile.create(tmp_path / "no" / "folder", 10)


def test_a_new_file_is_reserved_and_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with isthmus.MappedFile.create(tmp_path / "a", 1 << 20), isthmus.MappedFile(tmp_path / "b", 10):
            found = (tmp_path / "a").stat()
            assert found.st_blocks * 512 >= 1 << 20
            assert stat.S_IMODE(found.st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o640
        with isthmus.MappedFile.create(tmp_path / "c", 1, permissions=0o600):
            assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, kind in (
        ("fifo", isthmus.IncompatibleError),
        (".", (IsADirectoryError, isthmus.IncompatibleError)),
    ):
        with pytest.raises(kind):
            isthmus.MappedFile(tmp_path / name)
    with pytest.raises(isthmus.IncompatibleError):
        isthmus.MappedFile("/dev/null", access="read")
    wrong: Any = "both"
    with pytest.raises(ValueError, match="both"):
        isthmus.MappedFile(tmp_path / "x", access=wrong)
    with pytest.raises(ValueError, match="-5"):
        isthmus.MappedFile(tmp_path / "x", -5)


def test_a_symbolic_link_leads_to_its_file(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with isthmus.MappedFile(tmp_path / "link") as file:
        file[0] = 200
    assert path.read_bytes()[0] == 200


def test_more_than_the_disk_has_is_refused_and_leaves_nothing(tmp_path: Path, path: Path) -> None:
    with pytest.raises(isthmus.NoSpaceError, match=str(tmp_path)):
        isthmus.MappedFile(tmp_path / "new", 1 << 50)
    assert not (tmp_path / "new").exists()
    with isthmus.MappedFile(path) as file:
        with pytest.raises(isthmus.NoSpaceError, match="size="):
            file.grow(1 << 50)
        assert file.size == 10_000
        with pytest.raises((isthmus.NoSpaceError, OverflowError)):
            file.grow(1 << 65)


# ---------------------------------------------------------------------------------------- access


def test_readonly_views_change_nothing(path: Path) -> None:
    data = path.read_bytes()
    path.chmod(0o444)
    with (
        isthmus.MappedFile(path, access="read") as file,
        isthmus.MappedFile.open(path, access="read") as other,
    ):
        assert bytes(other.view()) == data
        with pytest.raises(TypeError, match="read-only"):
            file[0] = 1
        assert not file.array("B").flags.writeable
        for call in (lambda: file.write(0, b"x"), lambda: file.grow(20_000), file.reserve):
            with pytest.raises(PermissionError, match="read"):
                call()
        file.flush()
        file.flush(0, 100)
    assert path.read_bytes() == data


def test_a_private_copy_never_gets_into_the_file(path: Path) -> None:
    data = path.read_bytes()
    with isthmus.MappedFile(path, access="copy") as file, isthmus.MappedFile(path, access="copy") as other:
        view = file.view()
        view[0:3] = b"abc"
        file.array("B")[3] = 99
        assert bytes(file[:4]) == b"abcc"
        assert bytes(other[:3]) == data[:3]
        assert file.read(0, 3) == data[:3], "read() is the file"
        assert path.read_bytes() == data
        with path.open("r+b") as writer:
            writer.truncate(20_000)
        assert file.size == 20_000
        assert len(file.view()) == 10_000, "as large as it was: another mapping would have lost the changes"
        assert bytes(file[:3]) == b"abc"
        for call in (lambda: file.write(0, b"x"), lambda: file.grow(30_000)):
            with pytest.raises(PermissionError, match="copy"):
                call()
        with pytest.raises(isthmus.Unsupported, match="private"):
            file.flush()


def test_a_file_that_may_only_be_read_is_refused_for_writing(path: Path, spawn: Start) -> None:
    path.chmod(0o444)
    spawn(
        """
        import os, sys, isthmus
        isthmus.MappedFile, isthmus.RangeLock  # imported now: Python itself may be out of reach then
        if os.geteuid() == 0:
            os.chmod(os.path.dirname(sys.argv[1]), 0o755)
            os.chdir(os.path.dirname(sys.argv[1]))
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        else:
            os.chdir(os.path.dirname(sys.argv[1]))
        try:
            isthmus.MappedFile("data")
        except PermissionError:
            pass
        else:
            raise AssertionError("it was opened for writing")
        """,
        path,
    ).finish()


# ---------------------------------------------------------------------------------------- growing, cutting


def test_growth_is_reserved_and_harms_no_view(path: Path) -> None:
    with isthmus.MappedFile(path) as file, isthmus.MappedFile(path, access="read") as other:
        old, data = file.view(), path.read_bytes()
        assert file.grow(1 << 20) == 1 << 20
        assert path.stat().st_blocks * 512 >= 1 << 20
        assert other.size == len(other.view()) == 1 << 20
        file[500_000] = 5
        old[0] = 77
        assert (other[500_000], other[0], len(old)) == (5, 77, 10_000)
        assert file.grow(100) == 1 << 20
        assert path.read_bytes()[1:10_000] == data[1:]


def test_holes_are_filled_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as sparse:
        sparse.write(b"begin")
        sparse.truncate(1 << 20)
    with isthmus.MappedFile(path) as file:
        assert path.stat().st_blocks * 512 < 1 << 20
        file.reserve(1 << 19, 1 << 18)
        part = path.stat().st_blocks * 512
        assert 1 << 18 <= part < 1 << 20
        file.reserve()
        assert path.stat().st_blocks * 512 >= 1 << 20
        assert (file.read(0, 5), file.size) == (b"begin", 1 << 20)
        with pytest.raises(ValueError, match="bytes"):
            file.reserve(0, (1 << 20) + 1)


def test_a_file_that_was_cut_is_an_error_for_copies(path: Path) -> None:
    with isthmus.MappedFile(path) as file:
        os.truncate(path, 5_000)
        with pytest.raises(isthmus.CorruptError, match=r"10000.*5000"):
            file.read(4_000, 2_000)
        with pytest.raises(isthmus.CorruptError, match=r"10000.*5000"):
            file.write(6_000, b"x")
        assert path.stat().st_size == 5_000, "writing did not make it longer"
        assert len(file.read(4_000)) == 1_000
        assert len(file.view()) == file.size == 5_000


def test_a_view_of_what_was_cut_dies_as_documented(path: Path, spawn: Start) -> None:
    os.truncate(path, 100 * PAGE)
    peer = spawn(
        """
        import sys, isthmus
        file = isthmus.MappedFile(sys.argv[1])
        view = file.view()
        print("mapped", flush=True)
        sys.stdin.readline()
        try:
            file.read(50_000, 10)
        except isthmus.CorruptError:
            print("an error", flush=True)
        view[50_000]
        """,
        path,
    )
    peer.expect("mapped")
    os.truncate(path, 100)
    peer.send()
    peer.expect("an error")
    assert peer.end()[0] == -7  # SIGBUS


# ---------------------------------------------------------------------------------------- flush, advice


def test_flush_of_all_and_of_a_range(path: Path) -> None:
    with isthmus.MappedFile(path) as file:
        file.view()[5000] = 1
        file.flush()
        file.flush(5000, 1)
        file.flush(0, 10_000)
        file.flush(9_999)
        file.flush(10_000)
        with pytest.raises(ValueError, match="10001"):
            file.flush(0, 10_001)
        with pytest.raises(ValueError, match="offset"):
            file.flush(-1, 5)
    assert path.read_bytes()[5000] == 1


def dirty(path: Path) -> int:
    """Bytes of a mapped file that are not on its disk, as the kernel counts them for this process."""
    entry = Path("/proc/self/smaps").read_text().split(f"{path}\n", 1)[1].splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in entry[:20]}
    return int(fields["Shared_Dirty"]) + int(fields["Private_Dirty"]) << 10


def test_what_was_flushed_is_not_dirty_any_more(tmp_path: Path) -> None:
    """Where there is a disk: a tmpfs has nowhere to write to, and its pages stay dirty."""
    for folder in (tmp_path, Path("/var/tmp"), Path(__file__).parents[2]):
        kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
        if kind.stdout.strip() != "tmpfs":
            break
    with (
        tempfile.NamedTemporaryFile(dir=folder) as temporary,
        isthmus.MappedFile(temporary.name) as file,
    ):
        file.grow(4 << 20)
        file.view()[:] = b"x" * (4 << 20)
        whole = dirty(file_path := Path(temporary.name))
        file.flush(0, 1 << 20)
        part = dirty(file_path)
        assert part <= max(0, whole - (1 << 20))
        file[3 << 20] = 1
        assert dirty(file_path) > 0
        file.flush()
        assert dirty(file_path) == 0


def test_advice_is_taken_and_nothing_is_lost(path: Path) -> None:
    from isthmus.mapped_file import ADVICE

    with isthmus.MappedFile(path) as file:
        view, data = file.view(), path.read_bytes()
        missing = set()
        for advice in ADVICE:
            try:
                file.advise(advice)
                file.advise(advice, 5_000, 100)
                file.advise(advice, 0, 0)
            except isthmus.Unsupported:
                missing.add(advice)
            if advice == "dontfork":
                file.advise("dofork")
            assert bytes(view) == data, advice
        assert missing <= {"hugepage", "nohugepage", "cold", "pageout"}
        for wrong in ("", "remove", "WILLNEED"):
            with pytest.raises(ValueError, match="willneed"):
                file.advise(wrong)
        with pytest.raises(ValueError, match="10000"):
            file.advise("willneed", 5_000, 5_001)


def test_a_private_copy_loses_its_changes_by_dontneed(path: Path) -> None:
    with isthmus.MappedFile(path, access="copy") as file:
        file[0] = 99
        file.advise("dontneed")
        assert file[0] == 0


# ---------------------------------------------------------------------------------------- handles, processes


def test_views_outlive_close_and_hold_no_descriptor(path: Path) -> None:
    gc.collect()  # what earlier tests have left
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = isthmus.MappedFile(path)
    view, array = file.view(), file.array("B")
    file.close()
    file.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    view[0] = 50
    array[1] = 51
    assert path.read_bytes()[:2] == b"23"
    del view
    gc.collect()
    assert str(path) in Path("/proc/self/maps").read_text()
    del array
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_closed_handle_says_so_in_every_call(path: Path) -> None:
    file = isthmus.MappedFile(path)
    lock = file.lock()
    file.close()
    calls: list[Callable[[], object]] = [
        file.view,
        lambda: file.array("B"),
        lambda: file[0],
        lambda: len(file),
        lambda: file.size,
        file.read,
        lambda: file.write(0, b""),
        lambda: file.grow(0),
        file.reserve,
        file.flush,
        lambda: file.advise("normal"),
        file.lock,
        lock.acquire,
        lambda: lock.acquire(0),
        file.fileno,
        file.unlink,
        file.__enter__,
        lambda: pickle.dumps(file),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()
    assert repr(file) == f"<isthmus.MappedFile '{path}' (closed)>"


def test_a_descriptor_closed_in_the_middle_of_a_call_stays_open_until_its_end(path: Path) -> None:
    """Its number must not be another file's while a system call is about to be made."""
    descriptor = Descriptor(os.open(path, os.O_RDWR))
    with descriptor.use() as fd:
        with descriptor.use() as again:
            assert again == fd
            descriptor.close()
        assert os.pread(fd, 3, 0) == b"\0\1\2"
        with pytest.raises(isthmus.ClosedError), descriptor.use():
            pass
        with pytest.raises(isthmus.ClosedError):
            descriptor.stat()
        assert os.pread(fd, 3, 0) == b"\0\1\2"
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)
    descriptor.close()


def test_unlink_removes_this_files_name_only(path: Path) -> None:
    with isthmus.MappedFile(path) as file:
        file.unlink()
        assert not path.exists()
        assert file.read(0, 3) == b"\0\1\2"
        with pytest.raises(FileNotFoundError):
            file.unlink()
        path.write_bytes(b"another")
        with pytest.raises(FileNotFoundError, match="another"):
            file.unlink()
        assert path.exists()
        with pytest.raises(FileNotFoundError, match="another"):
            pickle.loads(pickle.dumps(file))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_goes_to_processes_of_every_start_method(path: Path, method: str) -> None:
    with isthmus.MappedFile(path) as file:
        context: Any = multiprocessing.get_context(method)
        children = [context.Process(target=fill_file, args=(file, n)) for n in (1, 2, 3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        assert file.read(0, 5) == b"\0\x65\x66\x67\4"


def test_what_a_killed_process_wrote_is_in_the_file(path: Path, spawn: Start) -> None:
    peer = spawn(
        """
        import sys, isthmus
        file = isthmus.MappedFile(sys.argv[1])
        file.view()[0:4] = b"left"
        file.grow(20_000)
        file[19_999] = 9
        print("written", flush=True)
        sys.stdin.readline()
        """,
        path,
    )
    peer.expect("written")
    peer.kill()
    data = path.read_bytes()
    assert (data[:4], len(data), data[-1]) == (b"left", 20_000, 9)


def test_a_forked_child_reads_and_writes_on(path: Path) -> None:
    forking.run(
        """
file = isthmus.MappedFile(sys.argv[1])
view = file.view()
def work():
    view[0] = 1
    file.write(1, b"\\2")
    file.grow(20_000)
    file.close()
    view[2] = 3
join(child(work))
assert file.read(0, 3) == bytes(view[:3]) == b"\\1\\2\\3" and file.size == 20_000
""",
        path,
    )
