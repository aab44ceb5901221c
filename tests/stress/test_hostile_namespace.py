"""What somebody plants in a namespace under a name of isthmus's, and directories that cannot be namespaces.

Nothing is followed, waited for, written to or removed that is not isthmus's own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import isthmus
from support import Peer

Start = Callable[..., Peer]

AS_ROOT = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: device nodes, mounts, other users"),
]

Planted = tuple[str, Callable[[Path], object]]


def mksocket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def mkdevice(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero


def mkblock(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200))  # a loop device that is not there


def sparse(path: Path) -> None:
    path.touch(0o600)
    os.truncate(path, 1 << 40)


PLANTED: list[Planted] = [
    ("fifo", os.mkfifo),
    ("directory", Path.mkdir),
    ("socket", mksocket),
    ("symlink", lambda path: path.symlink_to(path.parent / "target")),
    ("dangling symlink", lambda path: path.symlink_to(path.parent / "nowhere")),
    ("symlink to itself", lambda path: path.symlink_to(path)),
    ("symlink to a device", lambda path: path.symlink_to("/dev/zero")),
    ("hard link", lambda path: path.hardlink_to(path.parent / "target")),
    ("file", lambda path: path.write_bytes(b"mine")),
    ("empty", Path.touch),
    ("sparse file", sparse),
    ("unreadable", lambda path: path.touch(0)),
]
DEVICES: list[Planted] = [("device", mkdevice), ("block device", mkblock)]


def kinds(planted: list[Planted]) -> list[object]:
    """As pytest takes them; devices only where one can make them."""
    rows: list[object] = [pytest.param(make, id=name) for name, make in planted]
    return rows + [pytest.param(make, id=name, marks=AS_ROOT) for name, make in DEVICES]


def seen(path: Path) -> tuple[int, ...]:
    """What must not change: what it is, of whom, how much is in it, when it was written to."""
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_uid, found.st_nlink, found.st_blocks, found.st_mtime_ns


TARGET = b"secret" * 10_000
"""Longer than any header, and than the registry's first slots."""

TRY_ALL = """
import contextlib, faulthandler, sys, isthmus
faulthandler.dump_traceback_later(20, exit=True)  # nothing here waits for anybody
name, refused = sys.argv[1:]
def attempt(call):
    try:
        call()
    except (OSError, isthmus.IsthmusError) as error:
        assert str(error), repr(error)
        return type(error)
    return None
def size_for(kind, make):
    return {"size": 100} if kind is isthmus.SharedMemory and make != kind.open else {}
for kind in (isthmus.Queue, isthmus.Mutex, isthmus.Value, isthmus.SharedMemory, isthmus.Semaphore):
    for make in (kind, kind.open, kind.create):
        error = attempt(lambda: make(name, **size_for(kind, make)).close())
        assert error is not None, (kind, make)
        if refused == "name" and make == kind.create:
            assert error is FileExistsError, error
attempt(isthmus.objects)
attempt(isthmus.clean)
attempt(lambda: isthmus.inspect(name))
print("tried")
"""


@pytest.fixture
def planted(other_namespace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A namespace in which something was planted, and the target that links lead to."""
    monkeypatch.setenv("ISTHMUS_NAMESPACE", str(other_namespace))
    (other_namespace / "target").write_bytes(TARGET)
    return other_namespace


@pytest.mark.parametrize("make", kinds(PLANTED))
@pytest.mark.parametrize("name", ["jobs", ".registry"])
def test_what_is_planted_is_refused_at_once_and_left_alone(
    planted: Path, spawn: Start, name: str, make: Callable[[Path], object]
) -> None:
    path = planted / name
    make(path)
    before, target = seen(path), seen(planted / "target")
    code, out, errors = spawn(TRY_ALL, "jobs", "name" if name == "jobs" else "registry").end()
    assert (code, out) == (0, "tried\n"), errors
    assert seen(path) == before
    assert (planted / "target").read_bytes() == TARGET
    assert seen(planted / "target") == target
    assert not (planted / "nowhere").exists()
    for entry in planted.iterdir():
        assert entry.name in {name, "target", ".registry"}


@pytest.mark.parametrize("end", [os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK])
@pytest.mark.parametrize("name", ["jobs", ".registry"])
def test_a_fifo_that_somebody_has_open_takes_and_gives_nothing(
    planted: Path, spawn: Start, name: str, end: int
) -> None:
    """With both ends there, opening it would not even wait."""
    os.mkfifo(planted / name)
    descriptor = os.open(planted / name, end)
    try:
        if end == os.O_RDWR:
            os.write(descriptor, b"bait")
        code, _, errors = spawn(TRY_ALL, "jobs", name).end()
        assert code == 0, errors
        os.set_blocking(descriptor, False)
        expected = b"bait" if end == os.O_RDWR else b""
        with contextlib.suppress(BlockingIOError):
            assert os.read(descriptor, 100) == expected
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("make", kinds(PLANTED))
def test_what_takes_the_place_of_an_object_in_use_is_left_alone(
    planted: Path, make: Callable[[Path], object]
) -> None:
    """Closing and unlinking look at what the name leads to, and remove nothing but their own."""
    with isthmus.Queue("jobs", type=bytes) as handle:
        path = planted / "jobs"
        path.unlink()
        make(path)
        before = seen(path)
        handle.put(b"x")
        assert handle.get() == b"x"
        with pytest.raises((FileNotFoundError, isthmus.IncompatibleError)):
            handle.unlink()
    isthmus.clean()
    assert seen(path) == before
    assert (planted / "target").read_bytes() == TARGET


def test_a_copy_of_a_registry_is_another_registry_only_where_it_is_not_the_same(
    planted: Path, spawn: Start
) -> None:
    """Whoever replaces it by a copy makes processes unknown to each other, and harms nobody."""
    with isthmus.Queue("jobs", type=bytes, persistent=True) as handle:
        handle.put(b"x")
        copy = (planted / ".registry").read_bytes()
        (planted / ".registry").unlink()
        (planted / ".registry").write_bytes(copy)
        (planted / ".registry").chmod(0o600)
        code, _, errors = spawn("""
            import isthmus
            with isthmus.Queue.open("jobs", type=bytes) as q:
                assert q.get(timeout=1) == b"x"
                q.put(b"y")
        """).end()
        assert code == 0, errors
        assert handle.get(timeout=1) == b"y"
        handle.unlink()


# ---------------------------------------------------------------------------------------- no namespace at all


def refusal(path: str | Path) -> str:
    """What every way in says about a directory."""
    texts = []
    attempts: list[Callable[[], object]] = [
        lambda: isthmus.Queue("x", type=bytes, namespace=path),
        lambda: isthmus.Mutex.open("x", namespace=path),
        lambda: isthmus.Value.create("x", namespace=path),
        lambda: isthmus.objects(path),
        lambda: isthmus.clean(path),
        lambda: isthmus.inspect("x", namespace=path),
    ]
    for attempt in attempts:
        with pytest.raises((OSError, ValueError, isthmus.IsthmusError)) as caught:
            attempt()
        texts.append(str(caught.value))
    assert all(texts)
    return texts[0]


@pytest.mark.parametrize("path", ["/dev/null", "/proc", "/sys", "/", "/etc/passwd", "/dev/shm", "/tmp"])
def test_places_that_are_no_namespace_are_refused_by_name(path: str) -> None:
    before = sorted(Path(path).iterdir()) if path in {"/", "/sys"} else []
    assert path in refusal(path)
    assert before == (sorted(Path(path).iterdir()) if before else [])


def test_paths_that_cannot_be_are_refused() -> None:
    with pytest.raises((OSError, ValueError), match="empty"):
        isthmus.Queue("x", type=bytes, namespace="")
    for path in (
        "/dev/shm/" + "x" * 300,
        "/dev/shm" + "/x" * 3000,
        "/dev/shm/a\0b",
        "/dev/shm/no/such/place",
    ):
        refusal(path)


@pytest.mark.parametrize("make", kinds(PLANTED[:1] + PLANTED[2:10]))
def test_what_is_no_directory_is_no_namespace(planted: Path, make: Callable[[Path], object]) -> None:
    make(planted / "place")
    before = seen(planted / "place")
    assert "place" in refusal(planted / "place")
    assert seen(planted / "place") == before


def test_a_namespace_may_have_any_bytes_in_its_name(planted: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", "größe".encode(), b" "):
        path = os.fsdecode(os.fsencode(planted) + b"/" + name)
        with isthmus.Queue("x", type=bytes, namespace=path) as handle:
            handle.put(b"x")
            assert [entry.name for entry in isthmus.objects(path)] == ["x"]
            assert handle.get() == b"x"
            repr(handle)


def test_files_whose_names_are_no_text_are_left_alone(planted: Path) -> None:
    strange = os.fsencode(planted) + b"/\xff\xfe"
    Path(os.fsdecode(strange)).write_bytes(b"mine")
    (planted / "new\nline").write_bytes(b"mine")
    with isthmus.Queue("x", type=bytes):
        assert [entry.name for entry in isthmus.objects() if entry.problem is None] == ["x"]
    isthmus.clean()
    assert Path(os.fsdecode(strange)).read_bytes() == b"mine"


def test_a_namespace_deleted_in_use_serves_those_inside_and_says_so_to_others(other_namespace: Path) -> None:
    place = other_namespace / "inner"
    with isthmus.Queue("x", type=bytes, namespace=place) as handle:
        for entry in place.iterdir():
            entry.unlink()
        place.rmdir()
        handle.put(b"x")
        assert handle.get() == b"x"
        assert isthmus.objects(place) == []  # made anew, as any that is missing
        with isthmus.Queue("x", type=bytes, namespace=place) as other:
            other.put(b"y")
            assert handle.empty()
            assert other.get() == b"y"
        with pytest.raises(FileNotFoundError):
            handle.unlink()


# ------------------------------------------------------------------------------------- read-only, unwritable


@pytest.fixture
def as_other(spawn: Start, other_namespace: Path) -> Iterator[Callable[[str], Peer]]:
    """Runs code as a user without rights of root, in a namespace of that user's; `here` is the directory."""
    os.chown(other_namespace, 65534, 65534)

    def start(code: str) -> Peer:
        return spawn(
            "import errno, os, isthmus, isthmus.aio, asyncio\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"here = {str(other_namespace)!r}\nos.environ['ISTHMUS_NAMESPACE'] = here\n" + code
        )

    yield start
    other_namespace.chmod(0o700)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes other users")
def test_a_directory_without_permission_to_write_says_so_and_works_again(
    as_other: Callable[[str], Peer],
) -> None:
    as_other("""
def refused(call):
    try:
        call()
    except PermissionError as error:
        assert here in str(error) or "'" in str(error), error
        return
    raise AssertionError("it was allowed")
with isthmus.Queue("used", type=bytes) as q:
    os.chmod(here, 0o500)
    for kind in (isthmus.Queue, isthmus.Mutex, isthmus.Value):
        refused(lambda: kind("new"))
        refused(lambda: kind.create("new"))
    q.put(b"x")
    with isthmus.Queue.open("used", type=bytes) as again:  # what is there needs no new name
        assert again.get() == b"x"
    refused(q.unlink)
    async def wait():
        try:
            await isthmus.aio.Queue(q).get(timeout=0.01)
        except (isthmus.Empty, PermissionError):
            pass
    asyncio.run(wait())
    assert isthmus.objects()[0].name == "used"
    assert isthmus.clean() == []
    for mode in (0o300, 0):
        os.chmod(here, mode)
        refused(isthmus.objects)
        refused(lambda: isthmus.Queue.open("used"))
    q.put(b"y")
    assert q.get() == b"y"
    os.chmod(here, 0o700)
    isthmus.Queue("new", type=bytes).close()
assert [name for name in os.listdir(here) if not name.startswith(".")] == []
""").finish()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")
def test_a_file_system_mounted_for_reading_only_is_refused(spawn: Start, tmp_path: Path) -> None:
    wrapper = tmp_path / "python"
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    wrapper.write_text(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount -t tmpfs -o size=4m,mode=0700 none "
        f'"{place}" && exec "{sys.executable}" "$@"\' sh "$@"\n'
    )
    wrapper.chmod(0o700)
    code, _, errors = spawn(
        """
        import errno, os, subprocess, sys, isthmus
        here = os.environ["ISTHMUS_NAMESPACE"] = sys.argv[1]
        def apart(call):  # a process that has the registry mapped would keep the mount busy
            pid = os.fork()
            if pid == 0:
                call()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        def refused(call):
            try:
                call()
            except OSError as error:
                assert error.errno == errno.EROFS and "Read-only" in str(error), error
                return
            raise AssertionError("it was allowed")
        def remount(how):
            subprocess.run(["mount", "-o", f"remount,{how}", here], check=True)
        remount("ro")
        apart(lambda: refused(lambda: isthmus.Queue("new", type=bytes)))
        apart(lambda: refused(isthmus.objects))
        remount("rw")
        apart(lambda: isthmus.Queue("kept", type=bytes, persistent=True, capacity=1 << 20).close())
        remount("ro")
        for make in (isthmus.Queue, isthmus.Queue.create, isthmus.Queue.open):
            apart(lambda: refused(lambda: make("kept", type=bytes)))
        apart(lambda: refused(lambda: isthmus.Mutex("new")))
        apart(lambda: refused(isthmus.objects))
        remount("rw")
        with isthmus.Queue.open("kept", type=bytes) as q:
            q.unlink()
        """,
        place,
        executable=str(wrapper),
    ).end()
    assert code == 0, errors


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")
def test_files_with_holes_on_a_full_file_system_are_an_error_and_no_sigbus(
    spawn: Start, tmp_path: Path
) -> None:
    wrapper = tmp_path / "python"
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    wrapper.write_text(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount -t tmpfs -o size=2m,mode=0700 none "
        f'"{place}" && exec "{sys.executable}" "$@"\' sh "$@"\n'
    )
    wrapper.chmod(0o700)
    code, _, errors = spawn(
        """
        import os, sys, isthmus
        from pathlib import Path
        here = Path(sys.argv[1])
        os.environ["ISTHMUS_NAMESPACE"] = str(here)
        with isthmus.Queue("q", type=bytes, capacity=256 << 10, persistent=True) as q:
            q.put(b"x")
        isthmus.Value("number", persistent=True).close()
        kept = {path.name: path.read_bytes() for path in here.iterdir()}
        def plant(name):
            content = kept[name]
            (here / name).unlink()
            with (here / name).open("wb") as file:  # the header, and otherwise holes
                file.write(content[:256])
                file.truncate(len(content))
            (here / name).chmod(0o600)
        def attempt(call):
            try:
                call()
            except (isthmus.IsthmusError, OSError) as error:
                return error
        for name in sorted(kept, reverse=True):
            plant(name)
            if name == ".registry":
                plant("q")
            with (here / "filler").open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)) == 4096:
                        pass
                except OSError:
                    pass
            pid = os.fork()  # one that has seen nothing of it yet, where it is the registry
            if pid == 0:
                attempt(isthmus.objects)
                for look_at in kept.keys() - {".registry"}:
                    attempt(lambda: isthmus.inspect(look_at))
                for kind in (isthmus.Queue, isthmus.Value, isthmus.Mutex):
                    error = attempt(lambda: kind.open(name if name != ".registry" else "q"))
                    assert isinstance(error, (isthmus.NoSpaceError, isthmus.IncompatibleError)), error
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, name
            (here / "filler").unlink()
        """,
        place,
        executable=str(wrapper),
    ).end()
    assert code == 0, errors
