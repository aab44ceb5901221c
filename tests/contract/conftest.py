"""The contract of each class, in every form it comes in (`forms.py`).

A new class needs nothing here: write `test_<class>.py` with `form.<Class>` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forms import FORMS, PAIRS, Form, peers_in
from queues import drain
from support import Peer


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[Form]:
    """The classes in one form."""
    with Form(request.param) as form:
        yield form


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Form, Callable[..., Peer]]]:
    """The classes in one form, and what starts processes that use another."""
    mine, theirs = request.param
    with Form(mine) as form, peers_in(theirs) as start:
        yield form, start


@pytest.fixture
def q(form: Form) -> Iterator[Any]:
    """A queue of bytes without a name, 1 MiB."""
    handle = form.Queue(type=bytes, capacity=1 << 20)
    yield handle
    if not handle.closed:
        drain(handle)
        handle.close()
