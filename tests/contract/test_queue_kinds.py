"""What a kernel queue cannot do, in every form: it says so, or does what is documented (`kinds.py`)."""

from __future__ import annotations

from typing import Any

import pytest

import isthmus
from kinds import DIFFERENT, KERNEL, REFUSED, REFUSED_OPTIONS, Queues

pytestmark = pytest.mark.parametrize("kind", [KERNEL], ids=["kernel"])


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_kernel_has_nothing_for_is_refused(q: Any, what: str) -> None:
    q.put(b"x")
    for call in REFUSED[what]:
        with pytest.raises(isthmus.Unsupported, match=r"isthmus.Queue\(name\) in shared memory has it"):
            call(q)
    assert q.get(0) == b"x", "and nothing was done"
    with pytest.raises(isthmus.Empty):
        q.get(0)


@pytest.mark.parametrize("option", REFUSED_OPTIONS)
def test_attributes_that_the_kernel_has_nothing_for_are_refused(queues: Queues, option: str) -> None:
    with pytest.raises(isthmus.Unsupported, match=option):
        queues.form.Queue(queues.name(), **{option: REFUSED_OPTIONS[option]})


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_is_different_is_as_documented(queues: Queues, what: str) -> None:
    DIFFERENT[what](queues)
