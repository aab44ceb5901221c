"""Fixtures of the unit tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

import isthmus


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    """An anonymous queue; what a test leaves in it is thrown away without a warning."""
    handle = isthmus.Queue(type=bytes)
    yield handle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        handle.close()
