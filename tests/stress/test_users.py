"""Other users cannot attach, by name or through /proc, and nobody steps into another's namespace unasked."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer, object_files, run_python

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
