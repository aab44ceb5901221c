"""Fixtures for every test: a namespace directory that nobody else uses, and unrelated processes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import Peer, object_files, peers

_numbers = itertools.count(1)

# The same examples in every run, so that what fails is a change's doing; others, in any number, where
# ISTHMUS_TEST_EXAMPLES says how many.
settings.register_profile(
    "isthmus",
    derandomize="ISTHMUS_TEST_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("isthmus")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell without job control. Children would inherit that Ctrl+C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _new_directory() -> Path:
    path = Path("/dev/shm") / f"isthmus-test-{os.getpid()}-{next(_numbers)}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(scope="module")
def _module_directory() -> Iterator[Path]:
    # One directory a module, not a test: a process keeps the registry of each namespace it ever used
    # (a quarter of a MiB and a descriptor), and a container's /dev/shm may be small.
    path = _new_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def namespace(_module_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A namespace directory without any object in it, named by ISTHMUS_NAMESPACE, emptied afterwards.

    Tests of one module share its registry. A test that harms a registry takes `other_namespace`.
    """
    monkeypatch.setenv("ISTHMUS_NAMESPACE", str(_module_directory))
    yield _module_directory
    for name in object_files(_module_directory):
        (_module_directory / name).unlink(missing_ok=True)


@pytest.fixture
def other_namespace() -> Iterator[Path]:
    """A fresh namespace directory for this test alone, not in the environment."""
    path = _new_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def spawn() -> Iterator[Callable[..., Peer]]:
    """`spawn(code, *args)` starts an unrelated Python process (`support.Peer`), ended after the test."""
    with peers() as start:
        yield start
