"""Fixtures for every test: a namespace directory that nobody else uses, and unrelated processes."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Peer, peers

_numbers = itertools.count(1)


def _new_directory() -> Path:
    path = Path("/dev/shm") / f"isthmus-test-{os.getpid()}-{next(_numbers)}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(autouse=True)
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty namespace directory for this test alone, named by ISTHMUS_NAMESPACE, removed afterwards."""
    path = _new_directory()
    monkeypatch.setenv("ISTHMUS_NAMESPACE", str(path))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def other_namespace() -> Iterator[Path]:
    """A second empty namespace directory, not in the environment."""
    path = _new_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def spawn() -> Iterator[Callable[..., Peer]]:
    """`spawn(code, *args)` starts an unrelated Python process (`support.Peer`), ended after the test."""
    with peers() as start:
        yield start
