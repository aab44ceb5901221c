"""The contract of each class, in every form it comes in (`forms.py`), and of each kind of queue (`kinds.py`).

A new class needs nothing here: write `test_<class>.py` with `form.<Class>` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forms import FORMS, PAIRS, Form, peers_in
from kinds import KINDS, Kind, Queues
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


@pytest.fixture(params=KINDS, ids=[kind.name for kind in KINDS])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Where a queue is: in shared memory, or in the kernel."""
    found: Kind = request.param
    return found


@pytest.fixture
def queues(form: Form, kind: Kind) -> Iterator[Queues]:
    """Makes queues of one kind in one form."""
    made = Queues(form, kind)
    yield made
    made.close()


@pytest.fixture
def q(queues: Queues) -> Any:
    """A queue of bytes without a name that matters, 1 MiB where that can be."""
    return queues.make(type=bytes, capacity=1 << 20)
