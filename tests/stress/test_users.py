"""Other users cannot attach, by name or through /proc, and nobody steps into another's namespace unasked."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer, object_files, run_python, wait_until

Start = Callable[..., Peer]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes other users"),
]

NOBODY = """
import os, pathlib, pickle, sys, traceback, isthmus  # all of it now: Python itself may be out of reach then
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def refused(make):
    try:
        make()
    except PermissionError as error:
        return str(error)
    raise AssertionError("it was allowed")
"""


def as_nobody(code: str, *args: object) -> str:
    """Runs code as another user."""
    return run_python(NOBODY + code, *args)


def test_another_user_cannot_attach_by_name(namespace: Path) -> None:
    with isthmus.Queue("private", type=bytes) as handle, isthmus.Mutex("lock"), isthmus.Value("number"):
        handle.put(b"secret")
        as_nobody("""
for kind in (isthmus.Queue, isthmus.Mutex, isthmus.Value):
  for make in (kind, kind.open, kind.create):
    for name in ("private", "lock", "number", "new"):
        text = refused(lambda: make(name))
        assert os.environ["ISTHMUS_NAMESPACE"] in text, text
refused(isthmus.objects)
refused(isthmus.clean)
""")
        assert handle.get(timeout=0) == b"secret"
    assert object_files(namespace) == []


def test_another_user_cannot_attach_even_where_the_directory_lets_it_in(namespace: Path) -> None:
    """Files are the user's alone whatever the mode of the directory."""
    with isthmus.Queue("private", type=bytes) as handle:
        namespace.chmod(0o711)
        try:
            as_nobody("""
refused(lambda: isthmus.Queue.open("private", type=bytes))
for mode in ("rb", "r+b"):
    refused(lambda: open(os.environ["ISTHMUS_NAMESPACE"] + "/private", mode))
    refused(lambda: open(os.environ["ISTHMUS_NAMESPACE"] + "/.registry", mode))
""")
        finally:
            namespace.chmod(0o700)
        handle.put(b"x")
        assert handle.get() == b"x"


def test_another_user_cannot_attach_an_anonymous_one_by_its_pickle() -> None:
    with isthmus.Queue(type=bytes) as handle, isthmus.Value() as value:
        as_nobody(
            """
for address in sys.argv[1:]:
    refused(lambda: pickle.loads(bytes.fromhex(address)))
""",
            pickle.dumps(handle).hex(),
            pickle.dumps(value).hex(),
        )


def test_each_user_has_a_default_namespace_of_their_own() -> None:
    path = Path("/dev/shm/isthmus-65534")
    existed = path.exists()
    as_nobody("""
os.environ.pop("ISTHMUS_NAMESPACE")
with isthmus.Queue("mine", type=bytes) as q:
    q.put(b"x"); assert q.get() == b"x"
    found = os.stat("/dev/shm/isthmus-65534")
    assert found.st_uid == 65534 and found.st_mode & 0o777 == 0o700, oct(found.st_mode)
    assert os.stat("/dev/shm/isthmus-65534/mine").st_mode & 0o777 == 0o600
""")
    # Root does not step in there by accident either: what it made there, the user could not use.
    with pytest.raises((PermissionError, isthmus.IsthmusError), match="isthmus-65534"):
        isthmus.Queue("mine", type=bytes, namespace=path)
    if not existed:
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()


def test_a_default_namespace_that_somebody_else_made_first_is_refused() -> None:
    path = Path("/dev/shm/isthmus-54321")
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    try:
        text = run_python("""
import os, pathlib, traceback, isthmus
os.environ.pop("ISTHMUS_NAMESPACE")
os.setgroups([]); os.setgid(54321); os.setuid(54321)
try:
    isthmus.Queue("x", type=bytes)
except PermissionError as error:
    print(error)
""")
        assert str(path) in text
        assert "ISTHMUS_NAMESPACE" in text
    finally:
        path.rmdir()


OPEN_TO_ALL = """
here = os.environ["ISTHMUS_NAMESPACE"]
def denied(call):
    try:
        call()
    except PermissionError:
        return
    raise AssertionError("it was allowed")
def entries():  # a directory that may be entered only shows nothing: what others told us is in it
    return [".registry", *sys.argv[1:]]
"""


def test_another_user_cannot_damage_what_it_can_reach(namespace: Path, spawn: Start) -> None:
    """Where the directory may be entered (0711), no file in it can be opened, linked or taken away."""
    loop = spawn("""
        import asyncio, isthmus.aio
        async def main():
            q = isthmus.aio.Queue("jobs", type=bytes)
            print("ready", flush=True)
            assert await q.get(timeout=60) == b"for the loop"
            q.close()
        asyncio.run(main())
    """)
    loop.expect("ready")
    with isthmus.Queue("jobs", type=bytes) as handle, isthmus.Value("number", 5) as number:
        lock = isthmus.Mutex("lock")
        bell = wait_until(
            lambda: [path.name for path in namespace.glob(".bell-*")], "the loop to have a bell"
        )
        before = {path.name: path.read_bytes() for path in namespace.iterdir() if path.is_file()}
        namespace.chmod(0o711)
        try:
            as_nobody(
                OPEN_TO_ALL
                + """
for name in entries():
    path = os.path.join(here, name)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_NONBLOCK, os.O_RDWR, os.O_RDWR | os.O_TRUNC):
        denied(lambda: os.open(path, flags))
    if not name.startswith(".bell-"):
        denied(lambda: os.truncate(path, 0))
    denied(lambda: os.unlink(path))
    denied(lambda: os.rename(path, path + ".x"))
    denied(lambda: os.chmod(path, 0o666))
    denied(lambda: os.utime(path))
    denied(lambda: os.link(path, "/dev/shm/isthmus-test-link"))
for name in ("new", ".bell-0000000000000001", ".registry2"):
    path = os.path.join(here, name)
    denied(lambda: open(path, "w"))
    denied(lambda: os.mkfifo(path))
    denied(lambda: os.mkdir(path))
    denied(lambda: os.symlink("/etc/passwd", path))
denied(lambda: os.rmdir(here))
denied(lambda: os.chmod(here, 0o777))
denied(lambda: os.listdir(here))
""",
                "jobs",
                "lock",
                "number",
                *bell,
            )
        finally:
            namespace.chmod(0o700)
        assert {path.name: path.read_bytes() for path in namespace.iterdir() if path.is_file()} == before
        handle.put(b"for the loop")
        loop.finish()
        assert number.get() == 5
        lock.close()


def test_another_user_cannot_fill_a_namespace_or_its_registry(namespace: Path) -> None:
    """It cannot claim slots, cells or room: nothing of it is ever written there."""
    with isthmus.Queue("jobs", type=bytes, capacity=64 << 10) as handle:
        registry = (namespace / ".registry").read_bytes()
        namespace.chmod(0o711)
        try:
            as_nobody("""
for number in range(100):
    refused(lambda: isthmus.Queue("jobs", type=bytes))
    refused(lambda: isthmus.Queue(f"new-{number}", type=bytes))
    refused(lambda: isthmus.Mutex(f"new-{number}"))
""")
        finally:
            namespace.chmod(0o700)
        assert object_files(namespace) == ["jobs"]
        assert (namespace / ".registry").read_bytes() == registry
        assert [len(entry.attached) for entry in isthmus.objects()] == [1]
        handle.put(b"x")
        assert handle.get() == b"x"


def test_a_full_dev_shm_made_by_another_user_is_a_clear_error_and_harms_nothing(
    namespace: Path, spawn: Start, tmp_path: Path
) -> None:
    """Anybody may fill /dev/shm. What was reserved is there all the same; what is new is refused by name."""
    wrapper = tmp_path / "python"
    wrapper.write_text(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount -t tmpfs -o size=8m,mode=1777 none /dev/shm && "
        f'exec "{sys.executable}" "$@"\' sh "$@"\n'
    )
    wrapper.chmod(0o700)
    code, _, errors = spawn(
        """
        import errno, os, isthmus
        os.environ.pop("ISTHMUS_NAMESPACE")
        with isthmus.Queue("jobs", type=bytes, capacity=1 << 20) as q, isthmus.Value("number") as number:
            pid = os.fork()
            if pid == 0:
                os.setgroups([]); os.setgid(65534); os.setuid(65534)
                with open("/dev/shm/filler", "wb", buffering=0) as file:
                    try:
                        while file.write(bytes(4096)) == 4096: pass
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert os.statvfs("/dev/shm").f_bavail == 0
            for make in (
                lambda: isthmus.Queue("new", type=bytes),
                lambda: isthmus.Mutex("new"),
                lambda: isthmus.Value("new"),
                lambda: isthmus.Queue(type=bytes, namespace="/dev/shm/other"),
            ):
                try:
                    make()
                except isthmus.NoSpaceError as error:
                    assert "/dev/shm" in str(error), error
                else:
                    raise AssertionError("it was made")
            for _ in range(3):
                q.put_many([bytes(4000)] * 50)
                q.put(bytes(300_000))
                assert [len(q.get(0)) for _ in range(51)] == [4000] * 50 + [300_000]
            assert number.add(1) == 1
            os.unlink("/dev/shm/filler")
            isthmus.Queue("new", type=bytes, capacity=1 << 20).close()
        """,
        executable=str(wrapper),
    ).end()
    assert code == 0, errors
